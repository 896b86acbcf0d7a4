"""What a number says of itself: its metric, unit and definition, its alignment, and what it is over."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A measure of a prediction against truth.

    `worst` is the value of a clip for which there is no prediction at all; None where no number would be honest, as for
    a distance: such clips are counted beside the mean and never silently left out. `is_pooled`: the value over a
    benchmark is the mean over all that was measured (each clip weighs what it counts); else over clips.
    """

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    definition: str
    worst: float | None = None
    is_pooled: bool = False


@dataclass(frozen=True)
class Score:
    """The value of a metric on one clip.

    `count` is what it is the mean over (frame pairs, pixels, points), `total` what there was to measure in the truth.
    A `value` of NaN is undefined on this clip, and `note` says why.
    """

    metric: str
    value: float
    count: int
    total: int
    alignment: str = "none"
    note: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.value) and not self.note:
            raise ValueError(f"{self.metric} is NaN without a note that says why")


def undefined(metric: str, total: int, note: str, alignment: str = "none") -> Score:
    """The score of a metric that means nothing on this clip, and why."""
    return Score(metric, math.nan, 0, total, alignment, note)
