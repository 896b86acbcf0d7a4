"""Samples of motion: several plausible curves for each tracked point, of which the truth is expected to be one."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import transform_points
from recon4d.geometry.bsplines import evaluate_bspline
from recon4d.records.tensors import FrameIndex, TensorRecord


@dataclass(frozen=True, eq=False)
class MotionSamples(TensorRecord):
    """Uniform cubic B-splines over time, several for each curve of `Trajectories`.

    All points of one sample belong together: a sample is one way in which the whole scene may move.
    """

    control_points: Float[Tensor, "*batch sample curve sample_control 3"]
    """Control points in the world of the scene, in scene units; their knots divide `interval` evenly."""
    interval: Float[Tensor, "*batch 2"]
    """First and last time of the samples in seconds; it may reach beyond the frames."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.control_points.shape[-4]

    def positions(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch sample curve moment 3"]:
        """Evaluate all samples.

        Args:
            times: Times in seconds. Outside `interval` the points move on straight lines.

        Returns:
            World positions in scene units.
        """
        inside = times.clamp(self.interval[..., 0], self.interval[..., 1])
        ends = evaluate_bspline(self.control_points, self.interval, inside, 1)
        positions = evaluate_bspline(self.control_points, self.interval, inside, 0)
        return positions + (times - inside)[:, None] * ends

    def means(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch curve moment 3"]:
        """Average the samples.

        Args:
            times: Times in seconds.

        Returns:
            Mean world positions in scene units.
        """
        return self.positions(times).mean(dim=-4)

    def standard_deviations(self, times: Float[Tensor, " moment"]) -> Float[Tensor, "*batch curve moment 3"]:
        """Measure how much the samples differ from each other.

        Args:
            times: Times in seconds.

        Returns:
            Standard deviation along each axis of the world, in scene units. It is small where a point was observed; 0
            for a single sample.
        """
        return self.positions(times).std(dim=-4, correction=min(1, self.num_samples - 1))

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "MotionSamples":
        """Express the samples in another world frame.

        Args:
            new_from_world: Similarity (or rigid transform) from the current to the new world frame.

        Returns:
            The transformed samples.
        """
        return replace(self, control_points=transform_points(new_from_world, self.control_points))

    def frames(self, index: FrameIndex) -> "MotionSamples":
        """Return the samples as they are, since they do not depend on frames.

        Args:
            index: Frames to select.

        Returns:
            The same samples.
        """
        return self
