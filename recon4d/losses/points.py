"""Errors of world points: where the pixels of a frame are, now (reconstruction) or at another time (tracking).

Lengths are in units of the scene (`normalised`). The two branches of St4RTrack (Feng et al. 2025) are `point_term`, for
frame j's own pixels at their own time, and `tracking_point_term`, for an anchor's pixels at the time of frame j.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.errors import confidence_weighted_error, smooth_length
from recon4d.losses.term import Term, masked_term, replaced_where_unknown
from recon4d.records import Tracks

POINT_SMOOTHNESS = 1e-4
NEAREST = 0.15
"""Errors are divided by at least this: a surface at the lens must not outweigh the scene."""


def point_term(
    points: Float[Tensor, "*shape 3"],
    confidence: Float[Tensor, "*shape"],
    true_points: Float[Tensor, "*shape 3"],
    true_depths: Float[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"],
) -> Term:
    """Distance of a point from the true one over its true depth, weighed by the prediction's own confidence.

    Shapes are those of maps (*batch, time, height, width) or any other.
    """
    errors = errors_over_depth(points, true_points, true_depths, valid)
    return masked_term(confidence_weighted_error(errors, replaced_where_unknown(confidence, valid, 1.0)), valid)


def tracking_point_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """`point_term` of where an anchor's pixels are at every time, over their depth in the anchor frame.

    `tracks` answer the queries of `truth` (see `motion.tracks_at`); `anchor_depths` are `motion.depths_at_anchors`, NaN
    where unknown. Queries count at the times when the truth knows where they are.
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
    """Length of the difference of two vectors over the true depth, smooth at zero; 0 where not `valid`."""
    in_all_axes = valid[..., None].expand_as(vectors)
    given = replaced_where_unknown(vectors, in_all_axes, 0.0)
    wanted = replaced_where_unknown(true_vectors, in_all_axes, 0.0)
    depths = replaced_where_unknown(true_depths, valid, 1.0).clamp(min=NEAREST)
    return smooth_length(given - wanted, POINT_SMOOTHNESS) / depths
