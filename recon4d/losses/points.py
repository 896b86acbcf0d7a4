"""Losses of world points: positions of a frame's pixels at their own time (reconstruction) or at another (tracking).

Lengths are in units of the scene (see `normalized`). The two branches of St4RTrack (Feng et al. 2025) are `point_term`
for the pixels of frame j at their own time and `tracking_point_term` for the pixels of an anchor at the time of frame
j.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.errors import confidence_weighted_error, smooth_length
from recon4d.losses.term import Term, fill_unknown, masked_term
from recon4d.records import Tracks

POINT_SMOOTHNESS = 1e-4
"""Point errors below this are penalized quadratically, in units of the scene. Hand-tuned."""
MIN_DEPTH = 0.15
"""Lower bound of the depth that divides errors, in units of the scene; limits close surfaces. Hand-tuned."""


def point_term(
    points: Float[Tensor, "*shape 3"],
    confidence: Float[Tensor, "*shape"],
    true_points: Float[Tensor, "*shape 3"],
    true_depths: Float[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"],
) -> Term:
    """Compute the distance of points from the true ones relative to true depth, weighted by predicted confidence.

    Args:
        points: Predicted points, as maps (*batch, time, height, width, 3) or in any other shape.
        confidence: Predicted confidence, above 0.
        true_points: True points in the same frame.
        true_depths: True depth that divides the distances.
        valid: Mask of the points to compare.

    Returns:
        The term over the valid points.
    """
    errors = errors_over_depth(points, true_points, true_depths, valid)
    return masked_term(confidence_weighted_error(errors, fill_unknown(confidence, valid, 1.0)), valid)


def tracking_point_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """Compute `point_term` of an anchor's pixels at every time, relative to their depth in the anchor frame.

    Args:
        tracks: Predicted tracks at the queries of `truth` (see `sample_tracks`).
        truth: True tracks.
        anchor_depths: True depth of the queries in their anchor frame, from `depths_at_anchors`; NaN if unknown.

    Returns:
        The term over the queries and times at which the true position is known.
    """
    depths = anchor_depths[..., None, :].expand_as(truth.confidence)
    valid = (truth.confidence > 0) & (depths > 0)
    return point_term(tracks.points, tracks.confidence, truth.points, depths, valid)


def errors_over_depth(
    vectors: Float[Tensor, "*shape 3"],
    true_vectors: Float[Tensor, "*shape 3"],
    true_depths: Float[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """Compute the smooth length of the difference of two vectors divided by depth.

    Args:
        vectors: Predicted vectors.
        true_vectors: True vectors.
        true_depths: True depth, bounded below by `MIN_DEPTH`.
        valid: Mask of the vectors to compare.

    Returns:
        Relative errors; 0 at invalid entries.
    """
    valid_axes = valid[..., None].expand_as(vectors)
    estimated = fill_unknown(vectors, valid_axes, 0.0)
    target = fill_unknown(true_vectors, valid_axes, 0.0)
    depths = fill_unknown(true_depths, valid, 1.0).clamp(min=MIN_DEPTH)
    return smooth_length(estimated - target, POINT_SMOOTHNESS) / depths
