"""Half-precision copies of the maps of a scene, for smaller archives.

A map is stored as float16 only if that is safe, and stays as it is otherwise. Safe means that at all known pixels

- depth and confidence keep a relative error of at most 2^-11 (4.9e-4), so that they neither overflow (above 65504) nor
  become subnormal (below 6.1e-5), and a known pixel never becomes unknown;
- confidences keep their order: they may not collapse into few values, as confidences close to 1 would;
- points are off by at most 2^-10 (9.8e-4) of their distance from the camera of their frame;
- dynamic probabilities are off by at most 2^-12 (2.4e-4).

Values of unknown pixels are rounded too, and limited to finite numbers.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from recon4d.records import Scene

MAX_RELATIVE_ERROR = 2.0**-11
"""Largest relative error of depths and confidences: the rounding error of a normal float16 number."""
MAX_POINT_ERROR = 2.0**-10
"""Largest error of a point relative to its distance from the camera. Hand-tuned: twice the error of depth."""
MAX_PROBABILITY_ERROR = 2.0**-12
"""Largest error of a dynamic probability: the rounding error of float16 numbers below 1."""
MIN_LEVELS = 256
"""Smallest number of distinct confidences that must remain, if there were as many. Hand-tuned: percentiles of
confidence select points, and so many levels place them within half a percent."""
LARGEST = 65504.0
"""Largest finite float16 number."""


def half_precision_maps(scene: Scene) -> dict[str, Tensor]:
    """Round the maps of a scene to float16 where that is safe.

    Args:
        scene: The scene, without batch axes.

    Returns:
        The five maps by the name of their field in `Scene`: float16 where that is safe, else as they are.
    """
    depth_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    point_known = (scene.point_confidence > 0) & torch.isfinite(scene.points).all(dim=-1)
    centers = scene.cameras.centers.nan_to_num()[:, None, None]
    distances = (scene.points - centers).norm(dim=-1, keepdim=True)
    return {
        "depths": _rounded(scene.depths, depth_known, MAX_RELATIVE_ERROR * scene.depths.abs()),
        "depth_confidence": _rounded_confidence(scene.depth_confidence),
        "points": _rounded(scene.points, point_known[..., None].expand_as(scene.points), MAX_POINT_ERROR * distances),
        "point_confidence": _rounded_confidence(scene.point_confidence),
        "dynamic": _rounded(
            scene.dynamic, torch.isfinite(scene.dynamic), torch.full_like(scene.dynamic, MAX_PROBABILITY_ERROR)
        ),
    }


def _rounded(
    values: Float[Tensor, "*shape"], known: Bool[Tensor, "*shape"], tolerance: Float[Tensor, "*tolerance_shape"]
) -> Shaped[Tensor, "*shape"]:
    """Round to float16 if the error of all known values is within a tolerance."""
    half = values.clamp(-LARGEST, LARGEST).half()
    errors = (half.to(values.dtype) - values).abs()
    is_safe = (errors <= tolerance) | ~known
    return half if bool(is_safe.all()) else values


def _rounded_confidence(confidence: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Round confidences to float16 if they also keep their order."""
    rounded = _rounded(confidence, confidence > 0, MAX_RELATIVE_ERROR * confidence.abs())
    if rounded.dtype != torch.float16:
        return confidence
    num_left = len(np.unique(rounded.cpu().numpy()))
    if num_left >= MIN_LEVELS or num_left == len(np.unique(confidence.detach().cpu().float().numpy())):
        return rounded
    return confidence
