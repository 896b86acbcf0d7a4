"""What comes out, and what truth looks like: cameras, depth, point maps, moving mask and tracks of a clip."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import (
    invert,
    project,
    resize_map,
    similarity_scale,
    transform_points,
    unproject_map,
)
from recon4d.records.cameras import Cameras
from recon4d.records.tensors import TensorRecord
from recon4d.records.tracks import Tracks


@dataclass(frozen=True, eq=False)
class Scene(TensorRecord):
    """A moving 3D world, predicted or true; the cameras' intrinsics belong to the maps' own height and width.

    `depths` are z in each camera; `points` are the point-map head's own answer in the world, which need not agree
    with them (`points_from_depth` are the points that follow from depth and cameras). A confidence of 0 means
    unknown; truth has 0 or 1, predictions 1 and upwards. `moving` is the probability that the surface moves in the
    world, NaN where nothing says so. All lengths are in one unit, `metres_per_unit` meters long (NaN: unknown).
    """

    cameras: Cameras
    depths: Float[Tensor, "*batch time height width"]
    depth_confidence: Float[Tensor, "*batch time height width"]
    points: Float[Tensor, "*batch time height width 3"]
    point_confidence: Float[Tensor, "*batch time height width"]
    dynamic: Float[Tensor, "*batch time height width"]
    metres_per_unit: Float[Tensor, "*batch"]
    tracks: Tracks | None = None

    @property
    def num_frames(self) -> int:
        return self.depths.shape[-3]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps in pixels."""
        return self.depths.shape[-2], self.depths.shape[-1]

    @property
    def points_from_depth(self) -> Float[Tensor, "*batch time height width 3"]:
        """World points of every pixel from its depth and its camera."""
        in_camera = unproject_map(self.depths, self.cameras.intrinsics)
        return transform_points(self.cameras.world_from_cam, in_camera)

    @property
    def track_pixels(self) -> Float[Tensor, "*batch anchor time query 2"]:
        """Where the tracked points fall in the picture of each time; points behind a camera fall far outside."""
        if self.tracks is None:
            raise ValueError("this scene has no tracks; ask for them with anchors=(0,)")
        points = self.tracks.points
        over_anchors = points.shape[:-2]
        cam_from_world = self.cameras.cam_from_world[..., None, :, :, :].expand(*over_anchors, 4, 4)
        intrinsics = self.cameras.intrinsics[..., None, :, :, :].expand(*over_anchors, 3, 3)
        return project(transform_points(cam_from_world, points), intrinsics)

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Scene":
        """The scene in another world, a similarity away; depths and the unit's length follow its scale."""
        scale = similarity_scale(new_from_world)
        tracks = self.tracks
        if tracks is not None:
            tracks = replace(tracks, points=transform_points(new_from_world, tracks.points))
        return replace(
            self,
            cameras=self.cameras.transformed(new_from_world),
            depths=self.depths * scale[..., None, None, None],
            points=transform_points(new_from_world, self.points),
            metres_per_unit=self.metres_per_unit / scale,
            tracks=tracks,
        )

    def in_frame(self, frame: int) -> "Scene":
        """The scene in the world whose origin is the camera of `frame`."""
        new_from_world = invert(self.cameras.world_from_cam[..., frame, :, :])
        scene = self.transformed(new_from_world)
        # The product is the identity up to rounding; say so exactly.
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[..., frame, :, :] = torch.eye(4, dtype=world_from_cam.dtype, device=world_from_cam.device)
        return replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))

    def with_cameras(self, cameras: Cameras) -> "Scene":
        """The scene with other cameras, in the same maps' pixels: whatever was seen at a pixel and a z still is.

        Points and tracks follow the camera of their time (`Cameras.points_reseen`); depths stay.
        """
        cameras = cameras.to(self.depths.device, dtype=self.depths.dtype)
        tracks = self.tracks
        if tracks is not None:
            # An anchor is one more axis between time and queries.
            by_time = self.cameras.points_reseen(tracks.points.movedim(-4, -3), cameras)
            tracks = replace(tracks, points=by_time.movedim(-3, -4))
        points = self.cameras.points_reseen(self.points, cameras)
        return replace(self, cameras=cameras, points=points, tracks=tracks)

    def ignoring(self, mask: Bool[Tensor, "*batch time height width"]) -> "Scene":
        """The scene with nothing believed where `mask` is true: depth and points have confidence 0 there."""
        kept = (~mask).to(self.depth_confidence)
        return replace(
            self, depth_confidence=self.depth_confidence * kept, point_confidence=self.point_confidence * kept
        )

    def without_unknown_points(self) -> "Scene":
        """The scene with points of confidence 0 at the origin, so that truth does not depend on what is unknown."""
        known = self.point_confidence[..., None] > 0
        return replace(self, points=torch.where(known, self.points, torch.zeros_like(self.points)))

    def resized(self, height: int, width: int) -> "Scene":
        """The scene with maps and intrinsics at another size.

        Depths, points and confidences are interpolated between known pixels only. Tracks keep their queries; their
        pixels move.
        """
        size = (height, width)
        depths, depth_confidence = _resize_believed(self.depths[..., None], self.depth_confidence, size)
        points, point_confidence = _resize_believed(self.points, self.point_confidence, size)
        moving, is_told = resize_map(self.dynamic[..., None, :, :], torch.isfinite(self.dynamic), size)
        tracks = self.tracks
        if tracks is not None:
            factors = tracks.pixels.new_tensor([width / self.size[1], height / self.size[0]])
            tracks = replace(tracks, pixels=tracks.pixels * factors)
        return replace(
            self,
            cameras=self.cameras.resized(self.size, size),
            depths=depths[..., 0],
            depth_confidence=depth_confidence,
            points=points,
            point_confidence=point_confidence,
            dynamic=torch.where(is_told, moving[..., 0, :, :], torch.nan),
            tracks=tracks,
        )


def _resize_believed(values: Tensor, confidence: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maps (..., height, width, channels) and their confidence at `size`; unknown stays unknown."""
    maps = torch.cat([values.movedim(-1, -3), confidence[..., None, :, :]], dim=-3)
    resized, _ = resize_map(maps, confidence > 0, size)
    return resized[..., :-1, :, :].movedim(-3, -1), resized[..., -1, :, :]
