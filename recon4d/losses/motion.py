"""Losses of motion: displacement of an anchor's pixels, their visibility, and which pixels are dynamic.

Lengths are in units of the scene (see `normalized`). Predicted tracks are dense, one per pixel of the anchor. If the
true tracks are sparse, sample the predictions at their pixels first (`sample_tracks`, `sample_at_pixels`).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, transform_points
from recon4d.losses.errors import confidence_weighted_error
from recon4d.losses.points import errors_over_depth
from recon4d.losses.term import Term, fill_unknown, masked_term
from recon4d.records import Scene, Tracks, full_precision

DYNAMIC_THRESHOLD = 0.02
"""A track is dynamic at times when it is displaced by more than this fraction of its depth. Hand-tuned."""
DYNAMIC_WEIGHT = 10.0
"""Weight of dynamic track positions in `motion_term`; static ones, which are far more common, weigh 1. Hand-tuned."""


def motion_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """Compute the error of displacements relative to the depth in the anchor frame.

    Displacements are relative to the track's own point at the anchor's time, so errors of the anchor's point map do not
    count. Dynamic positions weigh `DYNAMIC_WEIGHT`.

    Args:
        tracks: Predicted tracks at the queries of `truth`.
        truth: True tracks.
        anchor_depths: True depth of the queries in their anchor frame, from `depths_at_anchors`; NaN if unknown.

    Returns:
        The term over the times other than the anchor's own at which the true point is known (`is_known_off_anchor`).
    """
    depths = anchor_depths[..., None, :].expand_as(truth.confidence)
    valid = is_known_off_anchor(truth) & (depths > 0)
    displacement = full_precision(tracks.points) - _at_anchor_time(tracks.points, truth)
    true_displacement = full_precision(truth.points) - _at_anchor_time(truth.points, truth)
    errors = errors_over_depth(displacement, true_displacement, depths, valid)
    is_dynamic = (
        errors_over_depth(true_displacement, torch.zeros_like(true_displacement), depths, valid) > DYNAMIC_THRESHOLD
    )
    weights = torch.where(is_dynamic, DYNAMIC_WEIGHT, 1.0).to(errors.dtype) * valid
    return masked_term(errors, weights)


def track_confidence_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """Train the confidence of track points on their error relative to depth (`confidence_weighted_error`).

    Points have no gradient: they are trained by `motion_term`, independently of their confidence.

    Args:
        tracks: Predicted tracks at the queries of `truth`.
        truth: True tracks.
        anchor_depths: True depth of the queries in their anchor frame, from `depths_at_anchors`; NaN if unknown.

    Returns:
        The term over the same entries as in `motion_term`, all with weight 1.
    """
    depths = anchor_depths[..., None, :].expand_as(truth.confidence)
    valid = is_known_off_anchor(truth) & (depths > 0)
    errors = errors_over_depth(full_precision(tracks.points).detach(), full_precision(truth.points), depths, valid)
    confidence = fill_unknown(tracks.confidence, valid, 1.0)
    return masked_term(confidence_weighted_error(errors, confidence), valid)


def visibility_term(
    logits: Float[Tensor, "*shape"], true_visibility: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]
) -> Term:
    """Compute the binary cross-entropy of visibility.

    Args:
        logits: Predicted logits.
        true_visibility: True visibility, 0 or 1.
        valid: Mask of the entries to compare: `is_known_off_anchor` of the true tracks, because every query is visible
            at its anchor's own time.

    Returns:
        The term over the valid entries.
    """
    return _cross_entropy(logits, true_visibility, valid)


def dynamic_term(logits: Float[Tensor, "*shape"], true_dynamic: Float[Tensor, "*shape"]) -> Term:
    """Compute the binary cross-entropy of the dynamic mask.

    Args:
        logits: Predicted logits.
        true_dynamic: 1 for pixels that move in the world, 0 for static ones, NaN if unknown.

    Returns:
        The term over the known pixels.
    """
    return _cross_entropy(logits, true_dynamic, torch.isfinite(true_dynamic))


def is_known_off_anchor(truth: Tracks) -> Bool[Tensor, "*batch anchor time query"]:
    """Find the times, except the anchor's own, at which a true point is known, given it is known in the anchor frame.

    Args:
        truth: True tracks; an anchor of -1 was removed by slicing, and none of its entries are known.

    Returns:
        Mask of the entries that motion losses use.
    """
    known = truth.confidence > 0
    at_anchor = _is_anchor_time(truth)[..., None]
    return known & ~at_anchor & (known & at_anchor).any(dim=-2, keepdim=True)


def depths_at_anchors(truth: Scene) -> Float[Tensor, "*batch anchor query"]:
    """Compute the true depth of each tracked point in the camera of its anchor at the anchor's time.

    Args:
        truth: True scene with tracks.

    Returns:
        Depth of each query; NaN if unknown.

    Raises:
        ValueError: If the scene has no tracks.
    """
    tracks = truth.tracks
    if tracks is None:
        raise ValueError("the scene has no tracks, so the depth at its anchors is undefined")
    anchors = tracks.anchors.clamp(min=0)[..., None, None]
    world_from_cam = torch.take_along_dim(full_precision(truth.cameras.world_from_cam), anchors, dim=-3)
    with torch.autocast(world_from_cam.device.type, enabled=False):
        in_camera = transform_points(invert(world_from_cam), _at_anchor_time(tracks.points, tracks).squeeze(-3))
    known = ((tracks.confidence > 0) & _is_anchor_time(tracks)[..., None]).any(dim=-2)
    return torch.where(known, in_camera[..., 2], torch.nan)


def sample_at_pixels(
    values: Float[Tensor, "*batch anchor time pixel channels"],
    pixels: Float[Tensor, "*batch anchor query 2"],
    size: tuple[int, int],
) -> Float[Tensor, "*batch anchor time query channels"]:
    """Sample dense values of anchors bilinearly.

    Pixels outside of the outermost centers have the value of the border. Across a depth edge, values of both sides are
    mixed.

    Args:
        values: One value per pixel of the anchor, in row-major order.
        pixels: Pixels (x, y) to sample at; NaN is allowed and gives an arbitrary finite value.
        size: Height and width of the anchor in pixels.

    Returns:
        Values at the pixels.
    """
    height, width = size
    values, pixels = full_precision(values), full_precision(pixels)
    pixels = torch.where(torch.isfinite(pixels), pixels, torch.full_like(pixels, 0.5))
    x, y = (pixels[..., 0] - 0.5).clamp(0, width - 1), (pixels[..., 1] - 0.5).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    sampled = torch.zeros_like(values[..., :1, :])
    for column, weight_x in ((left, left + 1 - x), ((left + 1).clamp(max=width - 1), x - left)):
        for row, weight_y in ((top, top + 1 - y), ((top + 1).clamp(max=height - 1), y - top)):
            index = (row * width + column).long()[..., None, :, None]
            corner = torch.take_along_dim(values, index, dim=-2)
            sampled = sampled + (weight_x * weight_y)[..., None, :, None] * corner
    return sampled


def sample_tracks(dense: Tracks, pixels: Float[Tensor, "*batch anchor query 2"], size: tuple[int, int]) -> Tracks:
    """Sample dense tracks at sparse queries with `sample_at_pixels`.

    Args:
        dense: Tracks of every pixel of their anchors.
        pixels: Pixels (x, y) of the queries.
        size: Height and width of the anchors in pixels.

    Returns:
        Tracks of the queries.
    """
    channels = [dense.points, dense.visibility[..., None], dense.confidence[..., None]]
    sampled = sample_at_pixels(torch.cat([full_precision(channel) for channel in channels], dim=-1), pixels, size)
    points, visibility, confidence = sampled.split([3, 1, 1], dim=-1)
    return replace(dense, points=points, visibility=visibility[..., 0], confidence=confidence[..., 0], pixels=pixels)


def _cross_entropy(logits: Tensor, truth: Tensor, valid: Tensor) -> Term:
    """Compute the binary cross-entropy over the valid entries."""
    logits = fill_unknown(logits, valid, 0.0)
    truth = fill_unknown(truth, valid, 0.0).to(logits.dtype)
    return masked_term(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), valid)


def _is_anchor_time(tracks: Tracks) -> Bool[Tensor, "*batch anchor time"]:
    """Mark the frame of each anchor; none if the anchor was removed by slicing (-1)."""
    times = torch.arange(tracks.points.shape[-3], device=tracks.anchors.device)
    return tracks.anchors[..., None] == times


def _at_anchor_time(
    points: Float[Tensor, "*batch anchor time query 3"], truth: Tracks
) -> Float[Tensor, "*batch anchor 1 query 3"]:
    """Select the points at their anchor's own time; arbitrary for an anchor that was removed by slicing."""
    return torch.take_along_dim(full_precision(points), truth.anchors.clamp(min=0)[..., None, None, None], dim=-3)
