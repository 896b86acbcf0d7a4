"""Predicted or ground-truth geometry of a clip: cameras, depth, point maps, dynamic mask and 3D tracks."""

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

DYNAMIC_THRESHOLD = 0.5
"""Pixels with a larger dynamic probability count as dynamic. `recon4d calibrate` shifts the probabilities of a network
so that this is its best threshold."""


@dataclass(frozen=True, eq=False)
class Scene(TensorRecord):
    """Dynamic 3D scene, predicted or ground truth.

    All lengths are in one scene unit, which is `metres_per_unit` meters long. Confidences are 0 where the value is
    unknown; known ground truth has confidence 1, predictions have confidences of at least 1.
    """

    cameras: Cameras
    """Camera of each frame, with intrinsics in pixels of the maps below."""
    depths: Float[Tensor, "*batch time height width"]
    """Depth (z in the camera of the frame), in scene units."""
    depth_confidence: Float[Tensor, "*batch time height width"]
    """Confidence of `depths`; 0 where the depth is unknown."""
    points: Float[Tensor, "*batch time height width 3"]
    """World points in scene units, as the point-map head predicts them.

    They need not agree with `depths`; see `points_from_depth`.
    """
    point_confidence: Float[Tensor, "*batch time height width"]
    """Confidence of `points`; 0 where the point is unknown."""
    dynamic: Float[Tensor, "*batch time height width"]
    """Probability that the surface moves relative to the world; NaN where unknown."""
    metres_per_unit: Float[Tensor, "*batch"]
    """Length of the scene unit in meters; NaN if unknown."""
    tracks: Tracks | None = None
    """3D tracks in the same world frame and unit; None if the scene has none."""
    distortion: Float[Tensor, "*batch 5"] | None = None
    """Lens distortion k1, k2, p1, p2, k3 (OpenCV) that was removed from the pictures; None if none was removed."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.depths.shape[-3]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps in pixels."""
        return self.depths.shape[-2], self.depths.shape[-1]

    @property
    def is_dynamic(self) -> Bool[Tensor, "*batch time height width"]:
        """Whether the surface of each pixel probably moves; false where that is unknown."""
        return self.dynamic > DYNAMIC_THRESHOLD

    @property
    def points_from_depth(self) -> Float[Tensor, "*batch time height width 3"]:
        """World points of all pixels, computed from depth and cameras, in scene units."""
        in_camera = unproject_map(self.depths, self.cameras.intrinsics)
        return transform_points(self.cameras.world_from_cam, in_camera)

    @property
    def track_pixels(self) -> Float[Tensor, "*batch anchor time query 2"]:
        """Projections (x, y) of the tracked points into the frame of each time, in pixels of the maps.

        Points behind a camera project far outside the image.

        Raises:
            ValueError: If the scene has no tracks.
        """
        if self.tracks is None:
            raise ValueError("this scene has no tracks; reconstruct it with anchors=(0,)")
        points = self.tracks.points
        over_anchors = points.shape[:-2]
        cam_from_world = self.cameras.cam_from_world[..., None, :, :, :].expand(*over_anchors, 4, 4)
        intrinsics = self.cameras.intrinsics[..., None, :, :, :].expand(*over_anchors, 3, 3)
        return project(transform_points(cam_from_world, points), intrinsics)

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Scene":
        """Express the scene in another world frame.

        Args:
            new_from_world: Similarity (or rigid transform) from the current to the new world frame.

        Returns:
            The transformed scene. Depths and `metres_per_unit` change by the scale of the similarity.
        """
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
        """Express the scene relative to one of its cameras.

        Args:
            frame: Index of the frame whose camera becomes the world frame.

        Returns:
            The transformed scene; the camera pose of `frame` is exactly the identity.
        """
        new_from_world = invert(self.cameras.world_from_cam[..., frame, :, :])
        scene = self.transformed(new_from_world)
        # The product is the identity up to rounding; make it exact.
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[..., frame, :, :] = torch.eye(4, dtype=world_from_cam.dtype, device=world_from_cam.device)
        return replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))

    def with_cameras(self, cameras: Cameras) -> "Scene":
        """Replace the cameras, keeping the pixel and depth of everything in each frame.

        Points and tracks move along with the camera of their time (`Cameras.transfer_points`); depths stay.

        Args:
            cameras: New cameras of the same frames, with intrinsics for the same map size.

        Returns:
            The scene with these cameras.
        """
        cameras = cameras.to(self.depths.device, dtype=self.depths.dtype)
        tracks = self.tracks
        if tracks is not None:
            # The time axis must follow the batch axes; anchors become one of the further axes.
            by_time = self.cameras.transfer_points(tracks.points.movedim(-4, -3), cameras)
            tracks = replace(tracks, points=by_time.movedim(-3, -4))
        points = self.cameras.transfer_points(self.points, cameras)
        return replace(self, cameras=cameras, points=points, tracks=tracks)

    def without_frames(self, mask: Bool[Tensor, "*batch time"]) -> "Scene":
        """Mark all pixels of frames as unknown.

        Args:
            mask: Frames whose depth and points become unknown.

        Returns:
            The scene with depth and point confidence 0 in these frames.
        """
        return self.with_unknown(mask[..., None, None].expand(self.depths.shape)) if mask.any() else self

    def with_unknown(self, mask: Bool[Tensor, "*batch time height width"]) -> "Scene":
        """Mark pixels as unknown.

        Args:
            mask: Pixels whose depth and points become unknown.

        Returns:
            The scene with depth and point confidence 0 at these pixels.
        """
        keep = (~mask).to(self.depth_confidence)
        return replace(
            self, depth_confidence=self.depth_confidence * keep, point_confidence=self.point_confidence * keep
        )

    def zero_unknown_points(self) -> "Scene":
        """Set points of confidence 0 to the origin, so that unknown values of ground truth are reproducible.

        Returns:
            The scene with these points; their confidence stays 0.
        """
        is_known = self.point_confidence[..., None] > 0
        return replace(self, points=torch.where(is_known, self.points, torch.zeros_like(self.points)))

    def resized(self, height: int, width: int) -> "Scene":
        """Resize all maps and adapt the intrinsics.

        Depths, points and confidences are interpolated between known pixels only. Tracks keep their queries, with
        scaled pixel coordinates.

        Args:
            height: New height in pixels.
            width: New width in pixels.

        Returns:
            The resized scene.
        """
        size = (height, width)
        depths, depth_confidence = _resize_confident(self.depths[..., None], self.depth_confidence, size)
        points, point_confidence = _resize_confident(self.points, self.point_confidence, size)
        dynamic, is_known = resize_map(self.dynamic[..., None, :, :], torch.isfinite(self.dynamic), size)
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
            dynamic=torch.where(is_known, dynamic[..., 0, :, :], torch.nan),
            tracks=tracks,
        )


def _resize_confident(values: Tensor, confidence: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize maps (..., height, width, channels) and their confidence, interpolating between known pixels only."""
    maps = torch.cat([values.movedim(-1, -3), confidence[..., None, :, :]], dim=-3)
    resized, _ = resize_map(maps, confidence > 0, size)
    return resized[..., :-1, :, :].movedim(-3, -1), resized[..., -1, :, :]
