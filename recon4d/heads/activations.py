"""Activations that convert raw maps of a dense head to depth, points, displacement and confidence."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG = 20.0
"""Limit of raw values before an exponential, so that untrained heads predict finite values. Hand-tuned."""

DENSE_FIELDS: dict[str, tuple[float, ...]] = {
    "depth": (0.0, 0.0),
    "points": (0.0, 0.0, math.log(2.0), 0.0),
    "moving": (-2.0,),
}
"""Fields of a dense head with the initial bias of their raw channels: depth 1, points at z = 1, mostly static.

The names are values in checkpoints; "moving" is the logit of the dynamic probability.
"""


class ConfidentValues(NamedTuple):
    """Values of a field with their confidence, which is at least 1."""

    values: Tensor
    confidence: Tensor


def decode_depth(raw: Float[Tensor, "*batch 2 height width"]) -> ConfidentValues:
    """Convert raw maps to depth exp(raw) and confidence 1 + exp(raw) (VGGT; DUSt3R, Wang et al. 2024).

    Args:
        raw: Raw depth and raw confidence.

    Returns:
        Depth and confidence, both (*batch, height, width).
    """
    depth, confidence = raw.unbind(-3)
    return ConfidentValues(decode_positive(depth), decode_confidence(confidence))


def decode_points(raw: Float[Tensor, "*batch 4 height width"]) -> ConfidentValues:
    """Convert raw maps to world points sign(raw) (exp|raw| - 1), so that distant points need no large raw values.

    Args:
        raw: Three raw coordinates and raw confidence.

    Returns:
        Points (*batch, height, width, 3) and confidence (*batch, height, width).
    """
    points = raw[..., :3, :, :].movedim(-3, -1).clamp(-MAX_LOG, MAX_LOG)
    return ConfidentValues(points.sign() * torch.expm1(points.abs()), decode_confidence(raw[..., 3, :, :]))


def decode_displacement(raw: Float[Tensor, "*batch 5 height width"]) -> tuple[ConfidentValues, Tensor]:
    """Split raw motion maps.

    Args:
        raw: Displacement (3), visibility logit and raw confidence.

    Returns:
        Displacement (*batch, height, width, 3) with confidence, and visibility logits (*batch, height, width).
    """
    displacement = raw[..., :3, :, :].movedim(-3, -1)
    return ConfidentValues(displacement, decode_confidence(raw[..., 4, :, :])), raw[..., 3, :, :]


def decode_positive(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert raw values to positive values exp(raw).

    Args:
        raw: Raw values, limited to `MAX_LOG` in magnitude.

    Returns:
        Positive values.
    """
    return raw.clamp(-MAX_LOG, MAX_LOG).exp()


def decode_confidence(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert raw values to confidences 1 + exp(raw).

    Args:
        raw: Raw values, limited to `MAX_LOG` in magnitude.

    Returns:
        Confidences of at least 1.
    """
    return 1 + decode_positive(raw)
