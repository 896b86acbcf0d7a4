"""The reliability of each field in one picture: expected against measured error, and how many pixels expect what."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon4d.eval.calibration.fitting import loss_curve
from recon4d.eval.calibration.reliability import calibration_error, reliability
from recon4d.eval.calibration.samples import FIELDS, ConfidenceSamples, SceneSamples
from recon4d.io import atomic_file
from recon4d.records import Calibration, ErrorCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_CALIBRATED, _LOSS = "#1f5fa8", "0.6"
_HISTOGRAM_BINS = 40


def write_reliability_picture(path: str | Path, calibration: Calibration, evidence: SceneSamples) -> None:
    """Write a PNG with a column for each field that is calibrated and that there is evidence of.

    Above, the median error measured in bins of like confidence over the one expected there: on the diagonal the
    confidence says what is true. In gray the same for alpha / confidence, which is what the loss aims at. Below, how
    many pixels expect which error. Raises ``ValueError`` where no field can be drawn, ``OSError`` where the file cannot
    be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: list[tuple[str, ErrorCurve, ConfidenceSamples]] = []
    for field in FIELDS:
        curve, measured = getattr(calibration, field), getattr(evidence, field)
        if curve is not None and len(measured):
            drawn.append((field, curve, measured))
    if not drawn:
        raise ValueError("no field has both a calibration and evidence; there is nothing to draw")
    figure = Figure(figsize=(4.4 * len(drawn), 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(3, 1))
    for (field, curve, measured), (above, below) in zip(drawn, axes.T, strict=True):
        limits = _draw_diagonal(above, field, curve, measured)
        _draw_counts(below, curve, measured, limits)
    with atomic_file(Path(path)) as partial:
        figure.savefig(partial, format="png")


def _draw_diagonal(axes: "Axes", field: str, curve: ErrorCurve, evidence: ConfidenceSamples) -> tuple[float, float]:
    """Draw measured over expected error; answers the limits of both axes."""
    after, before = reliability(curve, evidence), reliability(loss_curve(), evidence)
    values = np.concatenate([after.expected, after.measured, before.expected, before.measured])
    limits = (float(values.min()) / 1.3, float(values.max()) * 1.3)
    axes.plot(limits, limits, color="black", linewidth=0.8)
    for found, color, name in ((before, _LOSS, "as the loss says"), (after, _CALIBRATED, "calibrated")):
        label = f"{name}: {calibration_error(found):.2f}"
        axes.plot(found.expected, found.measured, "o-", color=color, markersize=4, linewidth=1, label=label)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal", title=field)
    axes.set(xlabel="expected error (of depth)", ylabel="measured error (median)")
    _label_in_percent(axes.xaxis)
    _label_in_percent(axes.yaxis)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(title="mean |ln(expected / measured)|", fontsize=8, title_fontsize=8)
    return limits


def _draw_counts(axes: "Axes", curve: ErrorCurve, evidence: ConfidenceSamples, limits: tuple[float, float]) -> None:
    expected = curve.expected_error(evidence.confidence.double()).numpy()
    axes.hist(expected, bins=np.geomspace(*limits, _HISTOGRAM_BINS + 1).tolist(), color=_CALIBRATED)
    axes.set(xscale="log", xlim=limits, xlabel="expected error (of depth)", ylabel="pixels")
    _label_in_percent(axes.xaxis)
    axes.set_title(f"{len(evidence)} pixels", fontsize=9)


def _label_in_percent(axis: "Axis") -> None:
    """Errors of 1, 2, 5, 10 % and so on; labels of a logarithmic axis are powers of ten otherwise."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.set_minor_formatter(NullFormatter())
