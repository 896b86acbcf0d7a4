"""Predicted or ground-truth geometry of a clip: cameras, depth, point maps, dynamic mask and 3D tracks."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import (
    invert,
    pixel_indices,
    project,
    resize_map,
    similarity,
    similarity_scale,
    transform_points,
    unproject_map,
)
from recon4d.geometry.pose_interpolation import interpolate_poses
from recon4d.records.cameras import Cameras
from recon4d.records.ground_alignment import ground_from_world
from recon4d.records.moments import Moment
from recon4d.records.tensors import TensorRecord, as_array
from recon4d.records.tracks import Tracks
from recon4d.records.trajectories import Trajectories

DYNAMIC_THRESHOLD = 0.5
"""Pixels with a larger dynamic probability count as dynamic. `recon4d calibrate` shifts the probabilities of a network
so that this is its best threshold."""

# Names of tensors in scene archives (`recon4d.io.archive`), and the fields that hold them. The names are part of the
# file format and never change.
SCENE_KEYS = {
    "depths": "depths",
    "depth_confidence": "depth_confidence",
    "points": "points",
    "point_confidence": "point_confidence",
    "moving": "dynamic",
    "metres_per_unit": "metres_per_unit",
}
CAMERA_KEYS = {"world_from_cam": "world_from_cam", "intrinsics": "intrinsics"}
TRACK_KEYS = {
    "tracks_points": "points",
    "tracks_visible": "visibility",
    "tracks_confidence": "confidence",
    "tracks_anchors": "anchors",
    "tracks_pixels": "pixels",
}
TRAJECTORY_KEYS = {
    "trajectories_control_points": "control_points",
    "trajectories_interval": "interval",
    "trajectories_times": "times",
    "trajectories_visibility": "visibility",
    "trajectories_confidence": "confidence",
    "trajectories_anchors": "anchors",
    "trajectories_pixels": "pixels",
    "trajectories_support": "support",
    "trajectories_pieces": "pieces",
    "trajectories_world_from_piece": "world_from_piece",
}
MOTION_KEYS = {"motions_control_points": "control_points", "motions_interval": "interval"}
DISTORTION_KEY = "distortion"


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
    trajectories: Trajectories | None = None
    """Curves of the tracked points that move, in the same world frame and unit; None if they were not fitted
    (`recon4d.motion.fit_trajectories`)."""
    distortion: Float[Tensor, "*batch 5"] | None = None
    """Lens distortion k1, k2, p1, p2, k3 (OpenCV) that was removed from the pictures; None if none was removed."""

    @classmethod
    def from_depth(
        cls,
        depths: Any,
        cameras: Cameras,
        confidence: Any = None,
        dynamic: Any = None,
        metres_per_unit: float | Float[Tensor, "*batch"] = math.nan,
    ) -> "Scene":
        """Create a scene whose points follow from depth and cameras, such as ground truth or another method's result.

        Args:
            depths: Depth (z) of shape (*batch, time, height, width) in the unit of the cameras, a tensor or an array;
                unknown where it is not finite or not above 0.
            cameras: Cameras of the frames, with intrinsics in pixels of the depth maps.
            confidence: Confidence of the same shape; None for 1 wherever the depth is known.
            dynamic: Probability that the surface moves, of the same shape; None if unknown.
            metres_per_unit: Length of the unit in meters; NaN if unknown.

        Returns:
            The scene, in the world frame of the cameras. Unknown depths and points are 0, with confidence 0.
        """
        depths = torch.as_tensor(depths)
        is_known = torch.isfinite(depths) & (depths > 0)
        depths = torch.where(is_known, depths, torch.zeros_like(depths))
        known = is_known.to(depths.dtype)
        confidence = known if confidence is None else torch.as_tensor(confidence).to(depths) * known
        dynamic = torch.full_like(depths, torch.nan) if dynamic is None else torch.as_tensor(dynamic).to(depths)
        return cls(
            cameras=cameras,
            depths=depths,
            depth_confidence=confidence,
            points=transform_points(cameras.world_from_cam, unproject_map(depths, cameras.intrinsics)),
            point_confidence=confidence,
            dynamic=dynamic,
            metres_per_unit=torch.as_tensor(metres_per_unit).to(depths).expand(depths.shape[:-3]),
        ).zero_unknown_points()

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
            trajectories=None if self.trajectories is None else self.trajectories.transformed(new_from_world),
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

    def levelled(self, seed: int = 0) -> "Scene":
        """Express the scene in a world frame whose ground is the plane y = 0, with gravity along +y.

        The origin is the ground point below the first camera, and the horizontal viewing direction of the first camera
        is +z. The scene must show a ground plane; a table top or a street is sufficient (`ground_alignment`).

        Args:
            seed: Seed of the random plane hypotheses; the same seed gives the same result.

        Returns:
            The scene in the new world frame, in the same unit.

        Raises:
            UserError: If no ground plane is found.
            ValueError: If the scene has a batch axis.
        """
        return self.transformed(self.ground_from_world(seed))

    def ground_from_world(self, seed: int = 0) -> Float[Tensor, "4 4"]:
        """Estimate the rigid transform from the world frame to the frame of `levelled`.

        Args:
            seed: Seed of the random plane hypotheses.

        Returns:
            ``ground_from_world``, in the dtype of the cameras.

        Raises:
            UserError: If no ground plane is found.
            ValueError: If the scene has a batch axis.
        """
        self._check_single()
        points = self.points_from_depth
        is_known = (self.depth_confidence > 0) & torch.isfinite(self.depths) & (self.depths > 0)
        is_known &= ~self.is_dynamic & torch.isfinite(points).all(dim=-1)
        median_depth = float(self.depths[is_known].median()) if is_known.any() else 0.0
        return ground_from_world(self.cameras, points[is_known], median_depth, seed)

    def scaled(self, factor: float | Float[Tensor, "*batch"]) -> "Scene":
        """Multiply all lengths by a factor.

        Args:
            factor: Positive factor, one for all scenes of a batch or one for each. `metres_per_unit` is divided by it,
                so lengths in meters stay the same.

        Returns:
            The scaled scene.

        Raises:
            UserError: If `factor` is a number that is not finite and above 0.
        """
        if not isinstance(factor, Tensor) and not (math.isfinite(factor) and factor > 0):
            raise UserError(f"a scene cannot be scaled by {factor:g}; wanted a finite number above 0")
        like = self.cameras.world_from_cam[..., 0, :3, :3]
        identity = torch.eye(3, dtype=like.dtype, device=like.device).expand_as(like)
        factors = torch.as_tensor(factor).to(like).expand(self.batch_shape)
        return self.transformed(similarity(factors, identity, torch.zeros_like(like[..., 0])))

    def in_metres(self, metres_per_unit: float | None = None) -> "Scene":
        """Convert the scene to meters.

        Args:
            metres_per_unit: Length of the current unit in meters, above 0, instead of the scene's own
                `metres_per_unit`; None for the scene's own.

        Returns:
            The scene in meters, with `metres_per_unit` equal to 1.

        Raises:
            UserError: If `metres_per_unit` is not finite and above 0, or is None and the scene does not know it.
        """
        if metres_per_unit is None:
            if not bool((self.metres_per_unit > 0).all()):
                raise UserError("the length of the scene's unit is unknown; wanted metres_per_unit")
            metric = self.scaled(self.metres_per_unit)
        else:
            metric = self.scaled(metres_per_unit)
        return replace(metric, metres_per_unit=torch.ones_like(metric.metres_per_unit))

    def in_metres_by_distance(
        self, frame: int, pixel_a: tuple[int, int], pixel_b: tuple[int, int], meters: float
    ) -> "Scene":
        """Convert the scene to meters by the measured distance between the points at two pixels of a frame.

        Args:
            frame: Index of the frame.
            pixel_a: First pixel (column, row) in the maps of the scene. Its point follows from depth and camera.
            pixel_b: Second pixel (column, row).
            meters: Distance between the two points in meters, above 0.

        Returns:
            The scene in meters, with `metres_per_unit` equal to 1.

        Raises:
            UserError: If the frame does not exist, if a pixel is outside the maps or has unknown depth, if both points
                coincide, or if `meters` is not finite and above 0.
            ValueError: If the scene has a batch axis.
        """
        self._check_single()
        if not (math.isfinite(meters) and meters > 0):
            raise UserError(f"the measured distance is {meters:g} m; wanted a finite number above 0")
        if not 0 <= frame < self.num_frames:
            raise UserError(f"frame {frame} does not exist; wanted 0 to {self.num_frames - 1}")
        units = float((self._point_at(frame, pixel_a) - self._point_at(frame, pixel_b)).norm())
        if not units > 0:
            raise UserError(f"pixels {pixel_a} and {pixel_b} show the same point; wanted two different points")
        return self.in_metres(meters / units)

    def with_cameras(self, cameras: Cameras) -> "Scene":
        """Replace the cameras, keeping the pixel and depth of everything in each frame.

        Points and tracks move along with the camera of their time (`Cameras.transfer_points`); depths stay.
        Trajectories are dropped, to be fitted again.

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
        return replace(self, cameras=cameras, points=points, tracks=tracks, trajectories=None)

    def at(self, time: float) -> Moment:
        """Return the scene at any time between its first and last frame, also between two frames.

        The camera is interpolated between the frames (`interpolate_poses`). What stands still is taken from the nearest
        frame, what moves from the curves of the points that are probably visible at that time.

        Args:
            time: Time in seconds.

        Returns:
            Camera and points of that time.

        Raises:
            UserError: If the scene has no trajectories, which know the times of the frames.
            ValueError: If the scene has a batch axis.
        """
        self._check_single()
        curves = self.trajectories
        if curves is None:
            raise UserError("this scene has no trajectories; wanted recon4d.motion.fit_trajectories(scene, times)")
        wanted = curves.times.new_tensor([time])
        nearest = int((curves.times - time).abs().argmin())
        pose = interpolate_poses(self.cameras.world_from_cam, curves.times, wanted)
        is_static = (self.depth_confidence[nearest] > 0) & (self.depths[nearest] > 0) & ~self.is_dynamic[nearest]
        row, column = is_static.nonzero(as_tuple=True)
        static = replace(self, tracks=None, trajectories=None).frames([nearest]).points_from_depth[0, row, column]
        is_visible = curves.shown_at(time)
        moving = curves.positions(wanted)[is_visible, 0]
        moving_row, moving_column = pixel_indices(curves.pixels[is_visible], self.size)
        static_frames = torch.full_like(row, nearest)
        return Moment(
            camera=Cameras(pose, self.cameras.intrinsics[nearest : nearest + 1]),
            points=torch.cat([static, moving]),
            is_dynamic=torch.cat([torch.zeros_like(row).bool(), torch.ones_like(moving_row).bool()]),
            velocities=torch.cat([torch.zeros_like(static), curves.velocities(wanted)[is_visible, 0]]),
            source_frames=torch.cat([static_frames, curves.anchors[is_visible]]),
            source_pixels=torch.stack([torch.cat([column, moving_column]), torch.cat([row, moving_row])], dim=-1),
        )

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
        tracks, trajectories = self.tracks, self.trajectories
        factors = self.depths.new_tensor([width / self.size[1], height / self.size[0]])
        if tracks is not None:
            tracks = replace(tracks, pixels=tracks.pixels * factors)
        if trajectories is not None:
            trajectories = replace(trajectories, pixels=trajectories.pixels * factors)
        return replace(
            self,
            cameras=self.cameras.resized(self.size, size),
            depths=depths[..., 0],
            depth_confidence=depth_confidence,
            points=points,
            point_confidence=point_confidence,
            dynamic=torch.where(is_known, dynamic[..., 0, :, :], torch.nan),
            tracks=tracks,
            trajectories=trajectories,
        )

    def numpy(self) -> dict[str, np.ndarray]:
        """Return all tensors as arrays, under the names that they have in ``scene.npz``.

        Returns:
            Arrays on the CPU: world_from_cam, intrinsics, depths, depth_confidence, points, point_confidence, moving
            and metres_per_unit; those of tracks (``tracks_``), trajectories (``trajectories_``) and their samples
            (``motions_``) if there are any; distortion if one was removed. bfloat16 becomes float32. Arrays may share
            memory with the scene.
        """
        return {name: as_array(tensor) for name, tensor in self.named_tensors().items()}

    def named_tensors(self) -> dict[str, Tensor]:
        """Return all tensors under the names that they have in ``scene.npz``.

        Returns:
            The tensors of `numpy`.
        """
        named = {key: getattr(self.cameras, field) for key, field in CAMERA_KEYS.items()}
        named |= {key: getattr(self, field) for key, field in SCENE_KEYS.items()}
        if self.tracks is not None:
            named |= {key: getattr(self.tracks, field) for key, field in TRACK_KEYS.items()}
        curves = self.trajectories
        if curves is not None:
            named |= {key: getattr(curves, field) for key, field in TRAJECTORY_KEYS.items()}
            if curves.samples is not None:
                named |= {key: getattr(curves.samples, field) for key, field in MOTION_KEYS.items()}
        if self.distortion is not None:
            named[DISTORTION_KEY] = self.distortion
        return named

    def _check_single(self) -> None:
        if self.batch_shape:
            raise ValueError(f"wanted a single scene, given a batch of shape {tuple(self.batch_shape)}")

    def _point_at(self, frame: int, pixel: tuple[int, int]) -> Float[Tensor, "3"]:
        (x, y), (height, width) = pixel, self.size
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"pixel {pixel} is outside maps of {width} x {height} pixels; wanted (column, row)")
        if not self.depth_confidence[frame, y, x] > 0:
            raise UserError(f"the depth of pixel {pixel} of frame {frame} is unknown")
        return replace(self, tracks=None).frames([frame]).points_from_depth[0, y, x]


def _resize_confident(values: Tensor, confidence: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize maps (..., height, width, channels) and their confidence, interpolating between known pixels only."""
    maps = torch.cat([values.movedim(-1, -3), confidence[..., None, :, :]], dim=-3)
    resized, _ = resize_map(maps, confidence > 0, size)
    return resized[..., :-1, :, :].movedim(-3, -1), resized[..., -1, :, :]
