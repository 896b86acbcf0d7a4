"""Calibration metrics: the error expected from the confidence, compared with the measured error."""

from recon4d.eval.calibration.reliability import calibration_error, compute_reliability
from recon4d.eval.calibration.samples import scene_samples
from recon4d.eval.metrics.score import Metric, Score, scores, undefined
from recon4d.records import Calibration, Scene

_DEFINITION = (
    "mean over pixels of |ln(expected / measured)|, where both are median relative errors of the pixel's bin, one of "
    "16 bins of equal count by confidence. The expected error comes from the calibration of the network, the measured "
    "one is taken after one median scale of depth per clip. Only for calibrated networks (recon4d calibrate)."
)


@scores(
    "Confidence",
    Metric("depth_calibration", "log", "lower", f"For depth: {_DEFINITION}"),
    Metric("point_calibration", "log", "lower", f"For point maps: {_DEFINITION}"),
)
def calibration_scores(prediction: Scene, truth: Scene, calibration: Calibration | None) -> tuple[Score, ...]:
    """Compare the errors that the confidence predicts with the measured ones.

    The `count` of a score is the number of sampled pixels (see `scene_samples`), its `total` the number of pixels with
    known true depth.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.
        calibration: Calibration of the network; None if it is not calibrated.

    Returns:
        The scores of `calibration_scores.metrics` for the calibrated fields. Empty without a calibration or if the
        truth has no known depth.
    """
    total = int((truth.depth_confidence > 0).sum())
    if calibration is None or not total:
        return ()
    samples = scene_samples(prediction, truth)
    fields = (("depth", calibration.depth, samples.depth), ("point", calibration.points, samples.points))
    return tuple(
        Score(f"{name}_calibration", calibration_error(compute_reliability(curve, field)), len(field), total)
        if len(field)
        else undefined(f"{name}_calibration", total, "no pixel is known to both prediction and truth")
        for name, curve, field in fields
        if curve is not None
    )
