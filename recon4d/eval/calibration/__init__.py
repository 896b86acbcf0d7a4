"""Calibration of confidence: measured errors against predicted confidence on scenes with ground truth."""

from recon4d.eval.calibration.figures import write_reliability_picture
from recon4d.eval.calibration.fitting import fit_calibration, fit_curve, fit_power_law, loss_curve
from recon4d.eval.calibration.mask_threshold import (
    MovingEvidence,
    moving_cut,
    moving_evidence,
    overlap_at,
    shift_to_half,
)
from recon4d.eval.calibration.reliability import Reliability, calibration_error, reliability
from recon4d.eval.calibration.samples import FIELDS, Evidence, SceneEvidence, scene_evidence, together
from recon4d.eval.calibration.synthetic import FITTING_SEED, HELD_OUT_SEED, evidence_of_worlds, size_for

__all__ = [
    "FIELDS",
    "FITTING_SEED",
    "HELD_OUT_SEED",
    "Evidence",
    "MovingEvidence",
    "Reliability",
    "SceneEvidence",
    "calibration_error",
    "evidence_of_worlds",
    "fit_calibration",
    "fit_curve",
    "fit_power_law",
    "loss_curve",
    "moving_cut",
    "moving_evidence",
    "overlap_at",
    "reliability",
    "scene_evidence",
    "shift_to_half",
    "size_for",
    "together",
    "write_reliability_picture",
]
