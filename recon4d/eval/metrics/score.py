"""Records of a metric (name, unit, definition) and of its value on one clip."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """Definition of a measure of a prediction against the ground truth."""

    name: str
    """Name in reports."""
    unit: str
    """Unit of the value: `m`, `degree`, `pixel`, `s`, `share` (0 to 1), `ratio`, `log` (natural) or a description."""
    better: Literal["higher", "lower", "neither"]
    """Direction of improvement; `neither` for values that only describe the ground truth."""
    definition: str
    """Definition as shown in the report."""
    worst: float | None = None
    """Value of a clip without a prediction. None if there is no worst value, as for distances: such clips are excluded
    from the mean, and the report states their number."""
    is_pooled: bool = False
    """How clips are averaged: True weights each clip by the `count` of its score, False weights all clips equally."""


@dataclass(frozen=True)
class Score:
    """Value of a metric on one clip.

    Raises:
        ValueError: If the value is NaN and there is no note.
    """

    metric: str
    """Name of the metric."""
    value: float
    """Value in the unit of the metric; NaN if it is undefined on this clip."""
    count: int
    """Number of elements that were averaged (frame pairs, pixels, points); 0 if the value is undefined."""
    total: int
    """Number of elements that the ground truth defines."""
    alignment: str = "none"
    """Name of the alignment that was applied to the prediction."""
    note: str = ""
    """Reason for an undefined value, or a remark about a defined one."""

    def __post_init__(self) -> None:
        if math.isnan(self.value) and not self.note:
            raise ValueError(f"{self.metric} is NaN, but has no note that gives the reason")


def undefined(metric: str, total: int, note: str, alignment: str = "none") -> Score:
    """Create the score of a metric that is undefined on a clip.

    Args:
        metric: Name of the metric.
        total: Number of elements that the ground truth defines.
        note: Reason.
        alignment: Name of the alignment that would have been applied.

    Returns:
        A score with the value NaN and a count of 0.
    """
    return Score(metric, math.nan, 0, total, alignment, note)
