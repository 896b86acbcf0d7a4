"""Whether a calibrated method knows how wrong it is: the error its confidence foretells beside the one measured."""

from recon4d.eval.calibration.reliability import calibration_error, compute_reliability
from recon4d.eval.calibration.samples import scene_samples
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.records import Calibration, Scene

_DEFINITION = (
    "Mean over pixels of |ln(expected / measured)| of their bins, 16 of equal count by confidence: the median relative "
    "error that the method's calibration expects there, and the median found, after one median scale of depth a clip. "
    "Only of networks that are calibrated (recon4d calibrate)."
)

CALIBRATION_METRICS: tuple[Metric, ...] = (
    Metric("depth_calibration", "log", "lower", f"Of depth: {_DEFINITION}"),
    Metric("point_calibration", "log", "lower", f"Of point maps: {_DEFINITION}"),
)


def calibration_scores(prediction: Scene, truth: Scene, calibration: Calibration | None) -> tuple[Score, ...]:
    """The scores of `CALIBRATION_METRICS` of paired scenes; none where the method has no calibration of a field.

    `count` is the number of pixels that were looked at (see `scene_evidence`), `total` of those known to the truth. A
    truth without known depth has no scores.
    """
    total = int((truth.depth_confidence > 0).sum())
    if calibration is None or not total:
        return ()
    found = scene_samples(prediction, truth)
    fields = (("depth", calibration.depth, found.depth), ("point", calibration.points, found.points))
    return tuple(
        Score(f"{name}_calibration", calibration_error(compute_reliability(curve, evidence)), len(evidence), total)
        if len(evidence)
        else undefined(f"{name}_calibration", total, "no pixel is known to both prediction and truth")
        for name, curve, evidence in fields
        if curve is not None
    )
