"""COLMAP model of the static part of a scene: pinhole cameras, images, and points with their observations.

A point comes from a static, confident pixel of one frame. It is observed at the center of that pixel and, by
projection, in every other frame whose own depth agrees. The latter show where the point is visible; they are not
measured features.
Points from the tracks of the scene are added (`colmap_tracks`), observed where they were tracked to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import (
    pixel_grid,
    project,
    quaternion_from_rotation,
    rigid,
    rotation_from_quaternion,
    transform_points,
)
from recon4d.io.exporters.colmap_tracks import TrackedPoints
from recon4d.io.exporters.own_pictures import own_picture
from recon4d.io.exporters.selected_frames import SelectedFrames, StaticPoints
from recon4d.records import Cameras, Scene

MAX_DEPTH_ERROR = 0.02
"""Largest difference between the depth of a point and the depth map of a frame that observes it, as a fraction of the
former. Hand-tuned."""
MAX_SKEW = 1e-4
"""Largest skew that is neglected, in pixels. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """A registered image with its observations."""

    name: str
    """File name."""
    pose: Float64[Tensor, "7"]
    """cam_from_world as qw, qx, qy, qz, tx, ty, tz, of shape (7)."""
    size: tuple[int, int]
    """Height and width in pixels."""
    pinhole: Float64[Tensor, "4"]
    """fx, fy, cx, cy in original pixels, of shape (4)."""
    pixels: Float64[Tensor, "observation 2"]
    """Observations (x, y) in original pixels, of shape (observation, 2); the first pixel center is (0.5, 0.5)."""
    point_indices: Int64[Tensor, " observation"]
    """Index in `ColmapModel.points` of the point that each observation shows, of shape (observation,)."""


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """Contents of the three files of a COLMAP model."""

    images: tuple[ColmapImage, ...]
    """Images, frame by frame."""
    points: Float64[Tensor, "n 3"]
    """World points of shape (n, 3), in scene units."""
    colors: UInt8[Tensor, "n 3"]
    """RGB colors of shape (n, 3)."""

    def errors(self) -> list[Float64[Tensor, " observation"]]:
        """Compute reprojection errors from the numbers in the files: quaternion, translation, fx, fy, cx, cy.

        Returns:
            For each image the distances in pixels, of shape (observation,), from its observations to the projections of
            their points.
        """
        distances = []
        for image in self.images:
            cam_from_world = rigid(rotation_from_quaternion(image.pose[:4]), image.pose[4:])
            projected = project(
                transform_points(cam_from_world, self.points[image.point_indices]),
                _intrinsics_of_pinhole(image.pinhole),
            )
            distances.append((projected - image.pixels).norm(dim=-1))
        return distances


def build_colmap_model(
    frames: SelectedFrames, names: list[str], static: StaticPoints, tracked: TrackedPoints | None = None
) -> ColmapModel:
    """Build a model of static points and tracked points, in original pixels.

    The frames are read one at a time, but the observations of all frames are held in memory, 24 bytes each.

    Args:
        frames: The frames to export.
        names: File name of each frame.
        static: Points from static pixels.
        tracked: Points from tracks, which follow after `static`; None if there are none.

    Returns:
        The model.

    Raises:
        UserError: If a camera is unknown or has skew.
    """
    source = frames.source
    cameras = source.original_cameras
    check_pinholes(cameras, source.outline.frame_files)
    cam_from_world = Cameras(cameras.world_from_cam.double(), cameras.intrinsics.double()).cam_from_world
    images = []
    for number, frame in frames.numbered():
        pixels, point_indices = _observations(frame, static, number)
        picture = own_picture(source, number)
        if tracked is not None:
            is_observed = tracked.visibility[number].nonzero()[:, 0]
            pixels = torch.cat([pixels, tracked.pixels[number, is_observed]])
            point_indices = torch.cat([point_indices, len(static.points) + is_observed])
        pixels = picture.to_original(pixels)
        is_inside = ((pixels >= 0) & (pixels <= pixels.new_tensor(picture.size).flip(0))).all(dim=1)  # not in padding
        pixels, point_indices = pixels[is_inside], point_indices[is_inside]
        rotation, translation = cam_from_world[number, :3, :3], cam_from_world[number, :3, 3]
        intrinsics = picture.intrinsics
        images.append(
            ColmapImage(
                name=names[number],
                size=picture.size,
                pose=torch.cat([quaternion_from_rotation(rotation), translation]),
                pinhole=torch.stack([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]),
                pixels=pixels,
                point_indices=point_indices,
            )
        )
    points, colors = static.points.double(), static.colors
    if tracked is not None:
        points, colors = torch.cat([points, tracked.points]), torch.cat([colors, tracked.colors])
    return ColmapModel(tuple(images), points, colors)


def check_pinholes(cameras: Cameras, files: Sequence[Path]) -> None:
    """Refuse cameras that a pinhole model without skew cannot represent.

    Args:
        cameras: Cameras of all frames.
        files: Picture of each frame, for messages.

    Raises:
        UserError: If a camera is unknown (NaN) or has skew.
    """
    for frame, intrinsics in enumerate(cameras.intrinsics):
        if not (torch.isfinite(intrinsics).all() and torch.isfinite(cameras.world_from_cam[frame]).all()):
            raise UserError(f"the camera of frame {frame} ({files[frame]}) is unknown; this format needs all cameras")
        if abs(float(intrinsics[0, 1])) > MAX_SKEW:
            raise UserError(
                f"the camera of frame {frame} ({files[frame]}) has a skew of {float(intrinsics[0, 1]):g}; "
                "this format needs cameras without skew"
            )


def _observations(
    frame: Scene, static: StaticPoints, number: int
) -> tuple[Float64[Tensor, "observation 2"], Int64[Tensor, " observation"]]:
    """Find the points that a frame observes: its own, and others by agreement of depths.

    Returns their pixels in the maps and their indices, in ascending order.
    """
    camera = Cameras(frame.cameras.world_from_cam.double(), frame.cameras.intrinsics.double())
    in_camera = transform_points(camera.cam_from_world[0], static.points.double())
    pixels = project(in_camera, camera.intrinsics[0])
    height, width = frame.size
    columns, rows = pixels.floor().long().unbind(-1)
    is_inside = (in_camera[:, 2] > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    depths = frame.depths[0, rows, columns].double()
    agrees = (depths - in_camera[:, 2]).abs() <= MAX_DEPTH_ERROR * in_camera[:, 2]
    agrees &= (frame.depth_confidence[0, rows, columns] > 0) & ~frame.is_dynamic[0, rows, columns]
    is_own = static.frames == number
    pixels[is_own] = pixel_grid(height, width, dtype=torch.float64).reshape(-1, 2)[static.pixels[is_own]]
    is_observed: Bool[Tensor, " n"] = is_own | (is_inside & agrees)
    return pixels[is_observed], is_observed.nonzero()[:, 0]


def _intrinsics_of_pinhole(pinhole: Float64[Tensor, "4"]) -> Float64[Tensor, "3 3"]:
    focal_x, focal_y, x, y = pinhole.tolist()
    return pinhole.new_tensor([[focal_x, 0, x], [0, focal_y, y], [0, 0, 1]])
