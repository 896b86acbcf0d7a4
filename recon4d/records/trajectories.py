"""Trajectories: curves in space and time of the tracked points that move, and the rigid pieces that they form."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import invert, transform_points
from recon4d.geometry.bsplines import DEGREE, evaluate_bspline
from recon4d.geometry.pose_interpolation import interpolate_poses
from recon4d.records.motion_samples import MotionSamples
from recon4d.records.tensors import FrameIndex, TensorRecord, take


@dataclass(frozen=True, eq=False)
class Trajectories(TensorRecord):
    """Uniform cubic B-splines over time, one for each tracked point that moves.

    A control point has influence on four segments only, so that a change at one time leaves other times as they are.
    Points that stand still have no curve: their position in the scene holds at every time.
    """

    control_points: Float[Tensor, "*batch curve control 3"]
    """Control points in the world of the scene, in scene units; their knots divide `interval` evenly."""
    interval: Float[Tensor, "*batch 2"]
    """First and last time of the curves in seconds."""
    times: Float[Tensor, "*batch time"]
    """Times of the frames in seconds."""
    visibility: Float[Tensor, "*batch curve time"]
    """Probability that the point is visible in the frame of that time."""
    confidence: Float[Tensor, "*batch curve"]
    """Confidence of a curve: mean confidence of the positions that it was fitted to; 0 if there were none."""
    anchors: Int[Tensor, "*batch curve"]
    """Frame whose pixel selects the point."""
    pixels: Float[Tensor, "*batch curve 2"]
    """Pixel coordinates (x, y) of the point in the maps of that frame."""
    support: Float[Tensor, "*batch curve 2"]
    """First and last time in seconds at which the point was observed; outside, the curve is a continuation."""
    pieces: Int[Tensor, "*batch curve"]
    """Rigid piece of the curve, an index of the axis of `world_from_piece`; -1 for none."""
    world_from_piece: Float[Tensor, "*batch piece time 4 4"]
    """Motion of each rigid piece: the transform that moves its points from where they are at the start of `interval` to
    where they are at the time of each frame, both in the world of the scene."""
    samples: MotionSamples | None = None
    """Several plausible motions of the same curves (`recon4d.sample_motions`); None if there are none."""

    @property
    def num_curves(self) -> int:
        """Number of curves."""
        return self.control_points.shape[-3]

    @property
    def segments(self) -> int:
        """Number of polynomial segments of every curve."""
        return self.control_points.shape[-2] - DEGREE

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Trajectories":
        """Express the curves in another world frame.

        Args:
            new_from_world: Similarity (or rigid transform) from the current to the new world frame.

        Returns:
            The transformed curves and poses of pieces. Poses stay rigid: only their translations are scaled.
        """
        new_from_old = new_from_world[..., None, None, :, :]
        return replace(
            self,
            control_points=transform_points(new_from_world, self.control_points),
            world_from_piece=new_from_old @ self.world_from_piece @ invert(new_from_old),
            samples=None if self.samples is None else self.samples.transformed(new_from_world),
        )

    def sample(self, index: int) -> "Trajectories":
        """Take one of the samples as the motion.

        Args:
            index: Index of the sample.

        Returns:
            Trajectories along that sample, without rigid pieces and samples.

        Raises:
            UserError: If there is no such sample.
        """
        count = 0 if self.samples is None else self.samples.num_samples
        if self.samples is None or not 0 <= index < count:
            raise UserError(f"motion sample {index} does not exist; the scene has {count} (recon4d.sample_motions)")
        return replace(
            self,
            control_points=self.samples.control_points[..., index, :, :, :],
            interval=self.samples.interval,
            pieces=torch.full_like(self.pieces, -1),
            world_from_piece=self.world_from_piece[..., :0, :, :, :],
            samples=None,
        )

    def frames(self, index: FrameIndex) -> "Trajectories":
        """Select frames and renumber `anchors` accordingly; the curves stay as they are.

        Args:
            index: Frames to select: a slice or a sequence of indices; negative indices count from the end.

        Returns:
            The trajectories with the times of the selected frames. Anchors whose frame is not selected become -1.
        """
        kept = take(torch.arange(self.times.shape[-1], device=self.anchors.device), index, 0)
        is_anchor = self.anchors[..., None] == kept
        renumbered = torch.where(is_anchor.any(dim=-1), is_anchor.int().argmax(dim=-1), -1)
        return replace(super().frames(index), anchors=renumbered.to(self.anchors.dtype))

    def positions(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch curve moment 3"]:
        """Evaluate the curves.

        Args:
            times: Times in seconds, also between frames. Outside `interval` the points move on straight lines with
                their velocity at its end.

        Returns:
            World positions in scene units.
        """
        inside = self._clamped(times)
        return self._evaluate(inside, 0) + (times - inside)[:, None] * self._evaluate(inside, 1)

    def velocities(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch curve moment 3"]:
        """Differentiate the curves.

        Args:
            times: As for `positions`.

        Returns:
            Velocities in scene units per second.
        """
        return self._evaluate(self._clamped(times), 1)

    def accelerations(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch curve moment 3"]:
        """Differentiate the curves twice.

        Args:
            times: As for `positions`.

        Returns:
            Accelerations in scene units per square second; 0 outside `interval`.
        """
        inside = self._clamped(times)
        return self._evaluate(inside, 2) * (inside == times).to(times.dtype)[:, None]

    def visibility_at(self, time: float) -> Float[Tensor, "*batch curve"]:
        """Interpolate the visibility between the frames.

        Args:
            time: Time in seconds.

        Returns:
            Probability that the point is visible; that of the first or last frame outside `times`.
        """
        after = int((self.times < time).sum().clamp(1, self.times.shape[-1] - 1)) if self.times.shape[-1] > 1 else 0
        if after == 0:
            return self.visibility[..., 0]
        before = after - 1
        share = (time - self.times[before]) / (self.times[after] - self.times[before])
        share = share.clamp(0, 1)
        return (1 - share) * self.visibility[..., before] + share * self.visibility[..., after]

    def shown_at(self, time: float) -> Bool[Tensor, "*batch curve"]:
        """Find the curves whose point is probably visible and was fitted to something.

        Args:
            time: Time in seconds.

        Returns:
            Mask of the curves.
        """
        return (self.visibility_at(time) > 0.5) & (self.confidence > 0)

    def interpolated_times(self, count: int) -> Float[Tensor, " moment"]:
        """Place evenly spaced times between the frames.

        Args:
            count: Number of times between each pair of neighboring frames.

        Returns:
            Increasing times in seconds: those of the frames, `count` + 1 apart, and those between them.
        """
        shares = torch.arange(count + 1, device=self.times.device).to(self.times) / (count + 1)
        between = self.times[:-1, None] + shares * self.times.diff()[:, None]
        return torch.cat([between.flatten(), self.times[-1:]])

    def rotations_at(self, time: float) -> Float[Tensor, "rotation 3 3"]:
        """Interpolate the rotations of the rigid pieces of a single scene.

        Args:
            time: Time in seconds.

        Returns:
            Rotation of each piece since the first time; at the end the identity, which `pieces` of -1 selects.
        """
        wanted = self.times.new_tensor([time])
        found = [interpolate_poses(poses, self.times, wanted)[0, :3, :3] for poses in self.world_from_piece]
        return torch.stack([*found, torch.eye(3).to(self.world_from_piece)])

    def _clamped(self, times: Tensor) -> Tensor:
        return times.clamp(self.interval[..., 0], self.interval[..., 1])

    def _evaluate(self, times: Tensor, derivative: int) -> Tensor:
        return evaluate_bspline(self.control_points, self.interval, times, derivative)
