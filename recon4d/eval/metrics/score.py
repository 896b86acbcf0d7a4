"""Records of a metric (name, unit, definition) and of its value on one clip, and the decorator that joins them.

A function that computes scores declares its metrics in the decorator `scores`. Nothing is registered by importing a
module: `SCORE_FUNCTIONS` in `recon4d.eval.scoring` lists the functions.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, ParamSpec

Arguments = ParamSpec("Arguments")
Section = Literal["Cameras", "Depth", "Points", "Tracks", "Dynamic mask", "Confidence", "Published protocols", "Cost"]
"""Sections of a report."""
Protocol = Literal["video-depth", "multiview-points", "worldtrack", "tapvid3d"]
"""Published protocols, by the modules of `recon4d.eval.protocols`."""


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
    is_headline: bool = False
    """Whether the metric is in the first table of a report and of the terminal."""
    is_track_headline: bool = False
    """Whether the metric is in the table of tracks of a report and of the terminal."""
    skips: Literal["", "frames", "pixels", "points"] = ""
    """Items without a prediction that the metric skips; empty if such items count as worst."""


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


def share(name: str, definition: str, **options: Any) -> Metric:
    """Define a share from 0 to 1: higher is better, and a clip without a prediction has 0.

    Args:
        name: Name in reports.
        definition: Definition as shown in the report.
        **options: Other fields of `Metric`.

    Returns:
        The metric.
    """
    return Metric(name, "share", "higher", definition, worst=0.0, **options)


def length(name: str, definition: str, **options: Any) -> Metric:
    """Define a length in meters: lower is better, and there is no worst value.

    Args:
        name: Name in reports.
        definition: Definition as shown in the report.
        **options: Other fields of `Metric`.

    Returns:
        The metric.
    """
    return Metric(name, "m", "lower", definition, **options)


class ScoreFunction(Generic[Arguments]):
    """A function that scores one prediction, with the metrics that it computes; made by `scores`."""

    def __init__(
        self,
        function: Callable[Arguments, tuple[Score, ...]],
        metrics: tuple[Metric, ...],
        section: Section,
        protocol: Protocol | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.metrics = metrics
        """Metrics of the function, in the order of reports."""
        self.section: Section = section
        """Section of the report that shows the metrics."""
        self.protocol: Protocol | None = protocol
        """Published protocol; None for metrics of every benchmark."""

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> tuple[Score, ...]:
        """Score a prediction.

        Args:
            *args: Positional arguments of the function: predicted scene, true scene, and what else it takes.
            **kwargs: Keyword arguments of the function.

        Returns:
            Scores of `metrics`; empty if the truth does not define them.
        """
        return self._function(*args, **kwargs)


def scores(
    section: Section,
    *metrics: Metric,
    skips: Literal["", "frames", "pixels", "points"] = "",
    protocol: Protocol | None = None,
) -> Callable[[Callable[Arguments, tuple[Score, ...]]], ScoreFunction[Arguments]]:
    """Declare the metrics that a function computes.

    Args:
        section: Section of the report that shows them.
        *metrics: The metrics, in the order of reports.
        skips: Items without a prediction that all of these metrics skip.
        protocol: Published protocol that the metrics belong to; None for metrics of every benchmark.

    Returns:
        Decorator of a function that returns scores of these metrics.
    """
    if skips:
        metrics = tuple(replace(metric, skips=skips) for metric in metrics)
    return lambda function: ScoreFunction(function, metrics, section, protocol)
