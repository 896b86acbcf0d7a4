"""What travels between rooms: a `Clip` goes in, a `Scene` comes out, and truth is a `Scene` like any prediction."""

from recon4d.records.calibration import Calibration, ErrorCurve
from recon4d.records.cameras import Cameras
from recon4d.records.clip import Clip, ClipSource, Priors
from recon4d.records.configs import config_from_json, config_to_json
from recon4d.records.feature_tracks import FeatureTracks
from recon4d.records.leveling import leveled
from recon4d.records.metric_scale import in_meters, in_meters_by_distance, scaled
from recon4d.records.scene import Scene
from recon4d.records.tensors import FrameIndex, TensorRecord, full_precision, take
from recon4d.records.tracks import Tracks

__all__ = [
    "Calibration",
    "Cameras",
    "Clip",
    "ClipSource",
    "ErrorCurve",
    "FeatureTracks",
    "FrameIndex",
    "Priors",
    "Scene",
    "TensorRecord",
    "Tracks",
    "config_from_json",
    "config_to_json",
    "full_precision",
    "in_meters",
    "in_meters_by_distance",
    "leveled",
    "scaled",
    "take",
]
