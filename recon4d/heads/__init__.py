"""Prediction heads: cameras from special tokens, dense maps from patch tokens, motion from pairs of frames."""

from recon4d.heads.activations import DENSE_FIELDS, ConfidentValues, decode_depth, decode_displacement, decode_points
from recon4d.heads.camera import CameraHead, CameraHeadConfig, decode_cameras, encode_cameras
from recon4d.heads.camera_base import CameraPredictor
from recon4d.heads.da3.camera_decoder import CameraDecoder, CameraDecoderConfig
from recon4d.heads.da3.dual_dpt import DualDptHead, DualDptHeadConfig, Rays, decode_rays
from recon4d.heads.da3.ray_cameras import cameras_from_rays
from recon4d.heads.da3.sky_dpt import DepthAndSky, SkyDptHead, SkyDptHeadConfig
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
from recon4d.heads.pose_encoding import encode_transforms
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
    "CameraDecoder",
    "CameraDecoderConfig",
    "CameraHead",
    "CameraHeadConfig",
    "CameraPredictor",
    "ConfidentValues",
    "DenseHead",
    "DenseHeadConfig",
    "DepthAndSky",
    "DptFeatures",
    "DptFeaturesConfig",
    "DptHead",
    "DptHeadConfig",
    "DualDptHead",
    "DualDptHeadConfig",
    "IteratedCameraHead",
    "IteratedCameraHeadConfig",
    "LinearHead",
    "LinearHeadConfig",
    "MotionFrames",
    "MotionHead",
    "MotionHeadConfig",
    "MotionPairs",
    "Pyramid",
    "Rays",
    "RegisterCameraHead",
    "RegisterCameraHeadConfig",
    "ShuffleHead",
    "ShuffleHeadConfig",
    "SkyDptHead",
    "SkyDptHeadConfig",
    "TrackHead",
    "TrackHeadConfig",
    "TrackedPoints",
    "Tracker",
    "TrackerConfig",
    "cameras_from_rays",
    "check_queries",
    "decode_cameras",
    "decode_depth",
    "decode_displacement",
    "decode_points",
    "decode_rays",
    "encode_cameras",
    "encode_transforms",
]


CameraConfig = CameraHeadConfig | CameraDecoderConfig | IteratedCameraHeadConfig | RegisterCameraHeadConfig

CAMERA_HEADS: dict[type, type[CameraPredictor]] = {
    CameraHeadConfig: CameraHead,
    CameraDecoderConfig: CameraDecoder,
    IteratedCameraHeadConfig: IteratedCameraHead,
    RegisterCameraHeadConfig: RegisterCameraHead,
}

DenseHeadConfig = LinearHeadConfig | DptHeadConfig | DualDptHeadConfig | ShuffleHeadConfig

DENSE_HEADS: dict[type, type[DenseHead]] = {
    LinearHeadConfig: LinearHead,
    DptHeadConfig: DptHead,
    DualDptHeadConfig: DualDptHead,
    ShuffleHeadConfig: ShuffleHead,
}
"""A new dense head is one file and one line here."""
