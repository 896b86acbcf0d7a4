"""Reliability diagram: measured against expected error for each field, and the histogram of expected errors."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.eval.calibration.fitting import loss_implied_curve
from recon4d.eval.calibration.reliability import calibration_error, compute_reliability
from recon4d.eval.calibration.samples import FIELDS, ConfidenceSamples, SceneSamples
from recon4d.io import atomic_file
from recon4d.records import Calibration, ErrorCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_CALIBRATED, _LOSS = "#1f5fa8", "0.6"
"""Colors of the calibrated curve and of the curve implied by the loss."""
_HISTOGRAM_BINS = 40


def write_reliability_picture(path: str | Path, calibration: Calibration, samples: SceneSamples) -> None:
    """Write a reliability diagram as a PNG, with a column for each field that has a calibration and samples.

    The upper plot shows the measured median error of bins of confidence over the expected one; a calibrated field lies
    on the diagonal. Gray is the same for the error that the loss implies, alpha / confidence. The lower plot is the
    histogram of expected errors.

    Args:
        path: PNG file to write atomically.
        calibration: Calibration to show.
        samples: Confidences and errors to show it on, usually of held-out scenes.

    Raises:
        UserError: If no field has both a calibration and samples, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: list[tuple[str, ErrorCurve, ConfidenceSamples]] = []
    for field in FIELDS:
        curve, measured = getattr(calibration, field), getattr(samples, field)
        if curve is not None and len(measured):
            drawn.append((field, curve, measured))
    if not drawn:
        raise UserError("no field has both a calibration and samples; there is nothing to draw")
    figure = Figure(figsize=(4.4 * len(drawn), 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(3, 1))
    for (field, curve, measured), (above, below) in zip(drawn, axes.T, strict=True):
        limits = _draw_diagonal(above, field, curve, measured)
        _draw_counts(below, curve, measured, limits)
    with os_errors_as_user_errors(), atomic_file(Path(path)) as partial:
        figure.savefig(partial, format="png")


def _draw_diagonal(axes: "Axes", field: str, curve: ErrorCurve, samples: ConfidenceSamples) -> tuple[float, float]:
    """Draw measured over expected error and return the limits of both axes."""
    after, before = compute_reliability(curve, samples), compute_reliability(loss_implied_curve(), samples)
    values = np.concatenate([after.expected, after.measured, before.expected, before.measured])
    limits = (float(values.min()) / 1.3, float(values.max()) * 1.3)
    axes.plot(limits, limits, color="black", linewidth=0.8)
    for found, color, name in ((before, _LOSS, "implied by the loss"), (after, _CALIBRATED, "calibrated")):
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


def _draw_counts(axes: "Axes", curve: ErrorCurve, samples: ConfidenceSamples, limits: tuple[float, float]) -> None:
    expected = curve.expected_error(samples.confidence.double()).numpy()
    axes.hist(expected, bins=np.geomspace(*limits, _HISTOGRAM_BINS + 1).tolist(), color=_CALIBRATED)
    axes.set(xscale="log", xlim=limits, xlabel="expected error (of depth)", ylabel="pixels")
    _label_in_percent(axes.xaxis)
    axes.set_title(f"{len(samples)} pixels", fontsize=9)


def _label_in_percent(axis: "Axis") -> None:
    """Label 1, 2, 5, 10 % and so on, instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.set_minor_formatter(NullFormatter())
