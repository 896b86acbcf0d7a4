"""A COLMAP model of a scene's static part: pinhole cameras, images, and points with the pixels that see them.

A point is a still, confident pixel of one frame. Its observations are that pixel's center, and its projection into
every other frame whose own depth there agrees: evidence of where it can be seen, not of where a feature was measured.
Points of the scene's tracks come beside these (`colmap_tracks`), observed where they were followed to.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from recon4d.geometry import (
    pixel_grid,
    project,
    quaternion_from_rotation,
    rigid,
    rotation_from_quaternion,
    transform_points,
)
from recon4d.io.exporters.colmap_tracks import TrackedPoints
from recon4d.io.exporters.point_selection import is_dynamic
from recon4d.io.point_cloud import unproject_pixels
from recon4d.io.saved_results import SavedResults
from recon4d.records import Cameras

AGREEMENT = 0.02
"""A frame sees a point where its depth is that of the point but for this share."""
LEAST_SKEW = 1e-4
"""Pixels of skew that may be dropped."""


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered picture; `pose` is cam_from_world as qw qx qy qz tx ty tz, `pinhole` fx fy cx cy in pixels.

    `pixels` are where it sees the points whose rows `seen` names, the first pixel's center at (0.5, 0.5).
    """

    name: str
    pose: Float64[Tensor, "7"]
    pinhole: Float64[Tensor, "4"]
    pixels: Float64[Tensor, "seen 2"]
    visibility: Int64[Tensor, "visibility"]


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """What the three files of a COLMAP model say; `size` is (height, width) of every picture."""

    size: tuple[int, int]
    images: tuple[ColmapImage, ...]
    points: Float64[Tensor, "n 3"]
    colors: UInt8[Tensor, "n 3"]

    def errors(self) -> list[Float64[Tensor, "seen"]]:
        """For each picture how far, in pixels, each of its observations is from the projection of its point.

        Taken from what is written: quaternion, translation, focal lengths and principal point.
        """
        distances = []
        for image in self.images:
            cam_from_world = rigid(rotation_from_quaternion(image.pose[:4]), image.pose[4:])
            projected = project(
                transform_points(cam_from_world, self.points[image.visibility]), _intrinsics_of_pinhole(image.pinhole)
            )
            distances.append((projected - image.pixels).norm(dim=-1))
        return distances


def colmap_model(
    results: SavedResults,
    names: list[str],
    chosen: Bool[Tensor, "time height width"],
    tracked: TrackedPoints | None = None,
) -> ColmapModel:
    """The model whose points are the `chosen` pixels and then the `tracked` ones, in original pixels.

    Pictures are called `names`.

    Raises ``ValueError`` where a camera is unknown or no pinhole.
    """
    cameras = results.original_cameras()
    check_pinholes(cameras)
    points, colors = unproject_pixels(results.scene, results.images_at_map_size(), chosen)
    owners = chosen.nonzero()[:, 0]
    cam_from_world = Cameras(cameras.world_from_cam.double(), cameras.intrinsics.double()).cam_from_world
    images = []
    for frame, name in enumerate(names):
        pixels, seen = _observations(results, frame, points, owners, chosen)
        if tracked is not None:
            followed = tracked.visibility[frame].nonzero()[:, 0]
            pixels = torch.cat([pixels, tracked.pixels[frame, followed] * _original_from_maps(results)])
            seen = torch.cat([seen, len(points) + followed])
        rotation, translation = cam_from_world[frame, :3, :3], cam_from_world[frame, :3, 3]
        intrinsics = cameras.intrinsics[frame].double()
        images.append(
            ColmapImage(
                name=name,
                pose=torch.cat([quaternion_from_rotation(rotation), translation]),
                pinhole=torch.stack([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]),
                pixels=pixels,
                visibility=seen,
            )
        )
    points = points.double()
    if tracked is not None:
        points, colors = torch.cat([points, tracked.points]), torch.cat([colors, tracked.colors])
    return ColmapModel(results.info.original_size, tuple(images), points, colors)


def check_pinholes(cameras: Cameras) -> None:
    """Refuse cameras that are not known (NaN) or have skew, in one line."""
    for frame, intrinsics in enumerate(cameras.intrinsics):
        if not (torch.isfinite(intrinsics).all() and torch.isfinite(cameras.world_from_cam[frame]).all()):
            raise ValueError(f"the camera of frame {frame} is not known; this format needs all of them")
        if abs(float(intrinsics[0, 1])) > LEAST_SKEW:
            raise ValueError(f"the camera of frame {frame} has a skew of {float(intrinsics[0, 1]):g}; wanted none")


def _observations(
    results: SavedResults,
    frame: int,
    points: Tensor,
    owners: Int64[Tensor, "n"],
    chosen: Bool[Tensor, "time height width"],
) -> tuple[Float64[Tensor, "seen 2"], Int64[Tensor, "seen"]]:
    """Where `frame` sees which points, in original pixels: its own, in their order, and others' by agreement."""
    scene = results.scene
    camera = Cameras(scene.cameras.world_from_cam[frame].double()[None], scene.cameras.intrinsics[frame].double()[None])
    in_camera = transform_points(camera.cam_from_world[0], points.double())
    pixels = project(in_camera, camera.intrinsics[0])
    height, width = scene.size
    columns, rows = pixels.floor().long().unbind(-1)
    is_inside = (in_camera[:, 2] > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    depths = scene.depths[frame, rows, columns].double()
    agrees = (depths - in_camera[:, 2]).abs() <= AGREEMENT * in_camera[:, 2]
    agrees &= (scene.depth_confidence[frame, rows, columns] > 0) & ~is_dynamic(scene)[frame, rows, columns]
    is_own = owners == frame
    pixels[is_own] = pixel_grid(height, width, dtype=torch.float64)[chosen[frame]]
    seen = (is_own | (is_inside & agrees)).nonzero()[:, 0]
    return pixels[seen] * _original_from_maps(results), seen


def _original_from_maps(results: SavedResults) -> Float64[Tensor, "2"]:
    """What x and y in pixels of the maps are multiplied by to be those of the original pictures."""
    original = torch.tensor(results.info.original_size, dtype=torch.float64).flip(0)
    return original / torch.tensor(results.scene.size, dtype=torch.float64).flip(0)


def _intrinsics_of_pinhole(pinhole: Float64[Tensor, "4"]) -> Float64[Tensor, "3 3"]:
    focal_x, focal_y, x, y = pinhole.tolist()
    return pinhole.new_tensor([[focal_x, 0, x], [0, focal_y, y], [0, 0, 1]])
