"""Decoding of raw maps to a scene."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recon4d.geometry import transform_points, unproject_map
from recon4d.heads import ConfidentValues, decode_depth, decode_points
from recon4d.records import Cameras, Scene


def decode_scene(cameras: Cameras, raw: Mapping[str, Tensor], dynamic_logits: Tensor | None) -> Scene:
    """Decode raw maps to scenes without tracks; points follow from depth and cameras if no head predicts them.

    Args:
        cameras: Cameras of a batch of clips.
        raw: Raw maps (batch, time, channels, height, width) by field.
        dynamic_logits: Logits of the dynamic probability; None if no head predicts them.

    Returns:
        The scenes.
    """
    depth = decode_depth(raw["depth"])
    if "points" in raw:
        points = decode_points(raw["points"])
    else:
        in_camera = unproject_map(depth.values, cameras.intrinsics)
        points = ConfidentValues(transform_points(cameras.world_from_cam, in_camera), depth.confidence)
    return Scene(
        cameras=cameras,
        depths=depth.values,
        depth_confidence=depth.confidence,
        points=points.values,
        point_confidence=points.confidence,
        dynamic=torch.full_like(depth.values, torch.nan) if dynamic_logits is None else torch.sigmoid(dynamic_logits),
        metres_per_unit=depth.values.new_full(depth.values.shape[:1], torch.nan),
    )
