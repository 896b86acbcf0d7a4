"""Criteria by which pixels of a scene become exported points, and the static part of a scene."""

from dataclasses import dataclass

from recon4d.errors import UserError
from recon4d.io.point_cloud import CONFIDENCE_PERCENTILE

DYNAMIC_THRESHOLD = 0.5
"""Dynamic probability above which a pixel counts as dynamic. Hand-tuned."""

MAX_IN_BETWEEN = 100
"""Largest number of times between two frames."""


@dataclass(frozen=True)
class PointSelection:
    """Criteria for pixels that become points, and the largest number of points.

    Raises:
        UserError: If a value is out of range.
    """

    drop: float = CONFIDENCE_PERCENTILE
    """Percentage of the known pixels, the least confident ones, that are left out; 0 to below 100."""
    min_confidence: float = 0.0
    """Confidence below which pixels are left out in any case; 0 leaves out none."""
    max_points: int = 500_000
    """Largest number of points, at least 1. More are sampled evenly over frames and pixels."""

    interpolated_frames: int = 0
    """Number of frames between two frames in which animated formats show what moves, on the curves of the scene."""

    def __post_init__(self) -> None:
        if not 0 <= self.interpolated_frames <= MAX_IN_BETWEEN:
            raise UserError(
                f"{self.interpolated_frames} interpolated frames between two frames; wanted 0 to {MAX_IN_BETWEEN}"
            )
        if not 0 <= self.drop < 100:
            raise UserError(f"the share to drop is {self.drop:g} %; wanted 0 to below 100")
        if not self.min_confidence >= 0:
            raise UserError(f"the minimum confidence is {self.min_confidence:g}; wanted at least 0")
        if self.max_points < 1:
            raise UserError(f"max_points is {self.max_points}; wanted at least 1")
