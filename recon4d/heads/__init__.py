"""Heads: what the tokens say about cameras, about every pixel, and about where pixels move."""

from recon4d.heads.camera import CameraHead, CameraHeadConfig, decode_cameras, encode_cameras
from recon4d.heads.dense import DenseHead
from recon4d.heads.dpt import DptHead, DptHeadConfig
from recon4d.heads.fields import (
    DENSE_FIELDS,
    Confident,
    decode_depth,
    decode_displacement,
    decode_points,
)
from recon4d.heads.linear import LinearHead, LinearHeadConfig
from recon4d.heads.motion import (
    MOTION_CHANNELS,
    START_CHANNELS,
    MotionFrames,
    MotionHead,
    MotionHeadConfig,
    MotionPairs,
)

__all__ = [
    "DENSE_FIELDS",
    "DENSE_HEADS",
    "MOTION_CHANNELS",
    "START_CHANNELS",
    "CameraHead",
    "CameraHeadConfig",
    "Confident",
    "DenseHead",
    "DenseHeadConfig",
    "DptHead",
    "DptHeadConfig",
    "LinearHead",
    "LinearHeadConfig",
    "MotionFrames",
    "MotionHead",
    "MotionHeadConfig",
    "MotionPairs",
    "decode_cameras",
    "decode_depth",
    "decode_displacement",
    "decode_points",
    "encode_cameras",
]

DenseHeadConfig = LinearHeadConfig | DptHeadConfig

DENSE_HEADS: dict[type, type[DenseHead]] = {LinearHeadConfig: LinearHead, DptHeadConfig: DptHead}
"""A new dense head is one file and one line here."""
