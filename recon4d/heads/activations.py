"""What the raw numbers of a dense head mean: depth, points, moving, displacement, and their confidences."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG = 20.0
"""Raw numbers are clamped here before an exponential, so nothing an untrained head says is infinite."""

DENSE_FIELDS: dict[str, tuple[float, ...]] = {
    "depth": (0.0, 0.0),
    "points": (0.0, 0.0, math.log(2.0), 0.0),
    "moving": (-2.0,),
}
"""Every field a dense head can have, and the bias its raw channels start from: depth 1, points at z = 1, still."""


class ConfidentValues(NamedTuple):
    """Values of a field and how far to trust them (1 and upwards)."""

    values: Tensor
    confidence: Tensor


def decode_depth(raw: Float[Tensor, "*batch 2 height width"]) -> ConfidentValues:
    """Depth = exp(raw) and confidence = 1 + exp(raw) (VGGT; DUSt3R, Wang et al. 2024), both (*batch, height, width)."""
    depth, confidence = raw.unbind(-3)
    return ConfidentValues(_exp(depth), _confidence(confidence))


def decode_points(raw: Float[Tensor, "*batch 4 height width"]) -> ConfidentValues:
    """World points (*batch, height, width, 3) = sign(raw) (exp|raw| - 1), so far points need no large numbers."""
    points = raw[..., :3, :, :].movedim(-3, -1).clamp(-MAX_LOG, MAX_LOG)
    return ConfidentValues(points.sign() * torch.expm1(points.abs()), _confidence(raw[..., 3, :, :]))


def decode_displacement(raw: Float[Tensor, "*batch 5 height width"]) -> tuple[ConfidentValues, Tensor]:
    """Displacement (*batch, height, width, 3) with confidence, and the logit of being seen (*batch, height, width)."""
    displacement = raw[..., :3, :, :].movedim(-3, -1)
    return ConfidentValues(displacement, _confidence(raw[..., 4, :, :])), raw[..., 3, :, :]


def _exp(raw: Tensor) -> Tensor:
    return raw.clamp(-MAX_LOG, MAX_LOG).exp()


def _confidence(raw: Tensor) -> Tensor:
    return 1 + _exp(raw)
