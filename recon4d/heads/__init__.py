"""Prediction heads: cameras from special tokens, dense maps from patch tokens, motion from pairs of frames."""

from recon4d.heads.activations import DENSE_FIELDS, ConfidentValues, decode_depth, decode_displacement, decode_points
from recon4d.heads.camera import CameraHead, CameraHeadConfig, decode_cameras, encode_cameras
from recon4d.heads.camera_base import CameraPredictor
from recon4d.heads.dense import DenseHead
from recon4d.heads.dpt import DptFeatures, DptFeaturesConfig, DptHead, DptHeadConfig, ShuffleHead, ShuffleHeadConfig
from recon4d.heads.linear import LinearHead, LinearHeadConfig
from recon4d.heads.motion import (
    MOTION_CHANNELS,
    START_CHANNELS,
    MotionFrames,
    MotionHead,
    MotionHeadConfig,
    MotionPairs,
)
from recon4d.heads.pyramid import Pyramid
from recon4d.heads.vggt.iterated_camera import IteratedCameraHead, IteratedCameraHeadConfig
from recon4d.heads.vggt.register_camera import RegisterCameraHead, RegisterCameraHeadConfig
from recon4d.heads.vggt.track_head import TrackHead, TrackHeadConfig
from recon4d.heads.vggt.tracker import TrackedPoints, Tracker, TrackerConfig, check_queries

__all__ = [
    "CAMERA_HEADS",
    "DENSE_FIELDS",
    "DENSE_HEADS",
    "MOTION_CHANNELS",
    "START_CHANNELS",
    "CameraConfig",
    "CameraHead",
    "CameraHeadConfig",
    "CameraPredictor",
    "ConfidentValues",
    "DenseHead",
    "DenseHeadConfig",
    "DptFeatures",
    "DptFeaturesConfig",
    "DptHead",
    "DptHeadConfig",
    "IteratedCameraHead",
    "IteratedCameraHeadConfig",
    "LinearHead",
    "LinearHeadConfig",
    "MotionFrames",
    "MotionHead",
    "MotionHeadConfig",
    "MotionPairs",
    "Pyramid",
    "RegisterCameraHead",
    "RegisterCameraHeadConfig",
    "ShuffleHead",
    "ShuffleHeadConfig",
    "TrackHead",
    "TrackHeadConfig",
    "TrackedPoints",
    "Tracker",
    "TrackerConfig",
    "check_queries",
    "decode_cameras",
    "decode_depth",
    "decode_displacement",
    "decode_points",
    "encode_cameras",
]


CameraConfig = CameraHeadConfig | IteratedCameraHeadConfig | RegisterCameraHeadConfig

CAMERA_HEADS: dict[type, type[CameraPredictor]] = {
    CameraHeadConfig: CameraHead,
    IteratedCameraHeadConfig: IteratedCameraHead,
    RegisterCameraHeadConfig: RegisterCameraHead,
}

DenseHeadConfig = LinearHeadConfig | DptHeadConfig | ShuffleHeadConfig

DENSE_HEADS: dict[type, type[DenseHead]] = {
    LinearHeadConfig: LinearHead,
    DptHeadConfig: DptHead,
    ShuffleHeadConfig: ShuffleHead,
}
"""A new dense head is one file and one line here."""
