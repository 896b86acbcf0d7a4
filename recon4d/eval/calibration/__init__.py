"""Calibration: expected errors from confidence, and the threshold of the dynamic mask, fitted on scenes with truth."""

from recon4d.eval.calibration.figures import write_reliability_picture
from recon4d.eval.calibration.fitting import fit_calibration, fit_curve, fit_power_law, loss_implied_curve
from recon4d.eval.calibration.mask_threshold import (
    DynamicMaskIous,
    best_threshold,
    dynamic_mask_ious,
    logit_shift,
    mean_iou_at,
)
from recon4d.eval.calibration.reliability import Reliability, calibration_error, compute_reliability
from recon4d.eval.calibration.samples import FIELDS, ConfidenceSamples, SceneSamples, concatenate_samples, scene_samples
from recon4d.eval.calibration.synthetic import FITTING_SEED, HELD_OUT_SEED, model_input_size, synthetic_samples

__all__ = [
    "FIELDS",
    "FITTING_SEED",
    "HELD_OUT_SEED",
    "ConfidenceSamples",
    "DynamicMaskIous",
    "Reliability",
    "SceneSamples",
    "best_threshold",
    "calibration_error",
    "compute_reliability",
    "concatenate_samples",
    "dynamic_mask_ious",
    "fit_calibration",
    "fit_curve",
    "fit_power_law",
    "logit_shift",
    "loss_implied_curve",
    "mean_iou_at",
    "model_input_size",
    "scene_samples",
    "synthetic_samples",
    "write_reliability_picture",
]
