"""What confidence means: errors beside confidences on clips with truth, a curve through them, and a picture of both."""

from recon4d.calibration.cuts import MovingEvidence, moving_cut, moving_evidence, overlap_at, shift_to_half
from recon4d.calibration.evidence import FIELDS, Evidence, SceneEvidence, scene_evidence, together
from recon4d.calibration.fitting import fit_calibration, fit_curve, fit_power_law, loss_curve
from recon4d.calibration.pictures import write_reliability_picture
from recon4d.calibration.reliability import Reliability, calibration_error, reliability
from recon4d.calibration.worlds import FITTING_SEED, HELD_OUT_SEED, evidence_of_worlds, size_for

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
