"""Scale between predicted and given cameras by a similarity fit, the rule of Depth Anything 3.

Its published code fits a similarity from the given to the predicted centers, and divides depth by the scale of the fit.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import fit_similarity, similarity_scale, transform_points

MIN_FRAMES_OF_RANSAC = 10
"""Number of frames from which the fit is robust (as published)."""
DRAWS = 10
"""Number of random halves of the frames (as published)."""
SEED = 42
"""Seed of the draws (as published)."""
MIN_FRAMES_OF_FIT = 3
"""Number of frames that determine a similarity."""


def similarity_to_cameras(predicted: Float[Tensor, "time 3"], given: Float[Tensor, "time 3"]) -> Float[Tensor, "4 4"]:
    """Fit the similarity from given to predicted camera centers.

    From `MIN_FRAMES_OF_RANSAC` frames on, it is fitted to random halves of the frames; the inliers of the best fit are
    closer than a threshold: the median distance between a given center, transformed by the fit of all frames, and the
    nearest predicted center.

    Args:
        predicted: Predicted centers.
        given: Given centers of the same frames.

    Returns:
        ``predicted_from_given`` in float64.
    """
    given, predicted = given.double(), predicted.double()
    over_all = fit_similarity(given, predicted)
    if len(given) < MIN_FRAMES_OF_RANSAC:
        return over_all
    distances = torch.cdist(transform_points(over_all, given), predicted)
    threshold = float(np.median(distances.amin(dim=1).numpy()))
    best = _best_draw(given, predicted, threshold)
    if best is None:
        return over_all
    hypothesis, is_inlier = best
    enough = int(is_inlier.sum()) >= MIN_FRAMES_OF_FIT
    return fit_similarity(given[is_inlier], predicted[is_inlier]) if enough else hypothesis


def similarity_scale_to_cameras(predicted: Float[Tensor, "time 3"], given: Float[Tensor, "time 3"]) -> float:
    """Compute the factor from predicted to given lengths by the scale of `similarity_to_cameras`.

    Args:
        predicted: Predicted centers.
        given: Given centers of the same frames.

    Returns:
        The factor. NaN if there is one frame or all given centers coincide; infinity if the predicted centers coincide.
    """
    if len(given) < 2 or float(torch.pdist(given.double()).max()) <= 0:
        return math.nan
    scale = float(similarity_scale(similarity_to_cameras(predicted, given)))
    return 1 / scale if scale > 0 else math.inf


def _best_draw(
    given: Float[Tensor, "time 3"], predicted: Float[Tensor, "time 3"], threshold: float
) -> tuple[Tensor, Bool[Tensor, "time"]] | None:
    """Return the fit with the most inliers, of equals with the least mean error, and its inliers."""
    rng = np.random.default_rng(SEED)
    best, best_score = None, (-1, -math.inf)
    for _ in range(DRAWS):
        half = torch.from_numpy(rng.choice(len(given), (len(given) + 1) // 2, replace=False))
        hypothesis = fit_similarity(given[half], predicted[half])
        errors = (transform_points(hypothesis, given) - predicted).norm(dim=-1)
        is_inlier = errors <= threshold
        count = int(is_inlier.sum())
        score = (count, -float(errors[is_inlier].mean()) if count else -math.inf)
        if score > best_score:
            best, best_score = (hypothesis, is_inlier), score
    return best
