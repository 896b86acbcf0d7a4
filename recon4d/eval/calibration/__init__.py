"""Calibration of confidence: measured errors against predicted confidence on scenes with ground truth."""

from recon4d.eval.calibration.figures import write_reliability_picture
from recon4d.eval.calibration.fitting import fit_calibration, fit_curve, fit_power_law, loss_curve
from recon4d.eval.calibration.mask_threshold import (
    DynamicMaskCounts,
    best_threshold,
    dynamic_mask_counts,
    overlap_at,
    shift_to_half,
)
from recon4d.eval.calibration.reliability import Reliability, calibration_error, reliability
from recon4d.eval.calibration.samples import FIELDS, ConfidenceSamples, SceneSamples, scene_samples, together
from recon4d.eval.calibration.synthetic import FITTING_SEED, HELD_OUT_SEED, size_for, synthetic_samples

__all__ = [
    "FIELDS",
    "FITTING_SEED",
    "HELD_OUT_SEED",
    "ConfidenceSamples",
    "DynamicMaskCounts",
    "Reliability",
    "SceneSamples",
    "best_threshold",
    "calibration_error",
    "dynamic_mask_counts",
    "fit_calibration",
    "fit_curve",
    "fit_power_law",
    "loss_curve",
    "overlap_at",
    "reliability",
    "scene_samples",
    "shift_to_half",
    "size_for",
    "synthetic_samples",
    "together",
    "write_reliability_picture",
]
