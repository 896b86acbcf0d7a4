"""Data records that subpackages exchange: `Clip` (input), `Scene` (prediction or ground truth) and their parts.

Records are frozen dataclasses of tensors (`TensorRecord`). Unknown values follow one convention: NaN in inputs (times,
`Priors`) and in scalars of a scene; confidence 0 in maps and tracks of a scene, whose values stay finite.
"""

from recon4d.records.calibration import Calibration, ErrorCurve
from recon4d.records.cameras import Cameras
from recon4d.records.clip import Clip, ClipSource, Priors
from recon4d.records.configs import config_from_json, config_to_json
from recon4d.records.located_cameras import LocatedCameras, LocationTrust
from recon4d.records.motion_samples import MotionSamples
from recon4d.records.refinement_summary import RefinementSummary
from recon4d.records.rig import Rig, rig_poses
from recon4d.records.scene import DYNAMIC_THRESHOLD, Scene
from recon4d.records.tensors import FrameIndex, TensorRecord, full_precision, take
from recon4d.records.tracks import FeatureTracks, Tracks
from recon4d.records.trajectories import Trajectories

__all__ = [
    "DYNAMIC_THRESHOLD",
    "Calibration",
    "Cameras",
    "Clip",
    "ClipSource",
    "ErrorCurve",
    "FeatureTracks",
    "FrameIndex",
    "LocatedCameras",
    "LocationTrust",
    "MotionSamples",
    "Priors",
    "RefinementSummary",
    "Rig",
    "Scene",
    "TensorRecord",
    "Tracks",
    "Trajectories",
    "config_from_json",
    "config_to_json",
    "full_precision",
    "rig_poses",
    "take",
]
