"""Errors of motion: how an anchor's pixels are displaced, where they are seen, and which pixels move at all.

Lengths are in units of the scene (`normalised`). Predicted tracks answer every pixel of their anchors; where the truth
follows fewer points, predictions are read at its pixels first (`tracks_at`, `at_queries`).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, transform_points
from recon4d.losses.errors import confidence_weighted_error
from recon4d.losses.points import errors_over_depth
from recon4d.losses.term import Term, masked_term, replaced_where_unknown
from recon4d.records import Scene, Tracks, full_precision

MOVES = 0.02
"""A pixel moves at a time when it is displaced by more than this share of its depth."""
WEIGHT_OF_MOVING = 10.0
"""Moving pixels are few; this is how many still ones each outweighs."""


def motion_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """Error of the displacement from the anchor's own point over the depth there, moving pixels weighing tenfold.

    Both displacements are from the track's own point at the anchor's time, so the anchor's point map is not blamed.
    `anchor_depths` are `depths_at_anchors` of the truth. Times other than the anchor's count, where the truth knows
    the point then and in the anchor.
    """
    depths = anchor_depths[..., None, :].expand_as(truth.confidence)
    valid = is_known_off_anchor(truth) & (depths > 0)
    displacement = full_precision(tracks.points) - _at_anchor_time(tracks.points, truth)
    wanted = full_precision(truth.points) - _at_anchor_time(truth.points, truth)
    errors = errors_over_depth(displacement, wanted, depths, valid)
    moves = errors_over_depth(wanted, torch.zeros_like(wanted), depths, valid) > MOVES
    weights = torch.where(moves, WEIGHT_OF_MOVING, 1.0).to(errors.dtype) * valid
    return masked_term(errors, weights)


def track_confidence_term(tracks: Tracks, truth: Tracks, anchor_depths: Float[Tensor, "*batch anchor query"]) -> Term:
    """How well the confidence of a track's point tells that point's error over the depth (`weighed_by_confidence`).

    The points themselves learn nothing from it: `motion_term` moves them, however sure they are. What counts, counts
    as there, moving or not.
    """
    depths = anchor_depths[..., None, :].expand_as(truth.confidence)
    valid = is_known_off_anchor(truth) & (depths > 0)
    errors = errors_over_depth(full_precision(tracks.points).detach(), full_precision(truth.points), depths, valid)
    confidence = replaced_where_unknown(tracks.confidence, valid, 1.0)
    return masked_term(confidence_weighted_error(errors, confidence), valid)


def visibility_term(
    logits: Float[Tensor, "*shape"], true_visible: Float[Tensor, "*shape"], believed: Bool[Tensor, "*shape"]
) -> Term:
    """Binary cross-entropy of being seen, where `believed`: `told_elsewhere` of the true tracks.

    At the anchor's own time every pixel is seen where it was found, and there is nothing to learn.
    """
    return _cross_entropy(logits, true_visible, believed)


def dynamic_term(logits: Float[Tensor, "*shape"], true_moving: Float[Tensor, "*shape"]) -> Term:
    """Binary cross-entropy of moving in the world, where the truth says so or not (it is NaN elsewhere)."""
    return _cross_entropy(logits, true_moving, torch.isfinite(true_moving))


def is_known_off_anchor(truth: Tracks) -> Bool[Tensor, "*batch anchor time query"]:
    """Where the truth knows a point both at this time, which is not the anchor's, and in the anchor frame itself."""
    known = truth.confidence > 0
    at_anchor = _is_anchor_time(truth)[..., None]
    return known & ~at_anchor & (known & at_anchor).any(dim=-2, keepdim=True)


def depths_at_anchors(truth: Scene) -> Float[Tensor, "*batch anchor query"]:
    """True depth of every tracked point in its anchor's camera at the anchor's time; NaN where unknown."""
    tracks = truth.tracks
    if tracks is None:
        raise ValueError("this scene has no tracks, so its anchors have no depths")
    anchors = tracks.anchors.clamp(min=0)[..., None, None]
    world_from_cam = torch.take_along_dim(full_precision(truth.cameras.world_from_cam), anchors, dim=-3)
    with torch.autocast(world_from_cam.device.type, enabled=False):
        in_camera = transform_points(invert(world_from_cam), _at_anchor_time(tracks.points, tracks).squeeze(-3))
    known = ((tracks.confidence > 0) & _is_anchor_time(tracks)[..., None]).any(dim=-2)
    return torch.where(known, in_camera[..., 2], torch.nan)


def at_queries(
    values: Float[Tensor, "*batch anchor time pixel channels"],
    pixels: Float[Tensor, "*batch anchor query 2"],
    size: tuple[int, int],
) -> Float[Tensor, "*batch anchor time query channels"]:
    """Dense `values`, one for every pixel of an anchor of `size` (height, width), read at `pixels` (x, y).

    Bilinear between the centers of pixels, and the border's value beyond the outermost; so smooth surfaces are read
    exactly, and across an edge near and far are mixed. Unknown pixels (NaN) are read somewhere.
    """
    height, width = size
    values, pixels = full_precision(values), full_precision(pixels)
    pixels = torch.where(torch.isfinite(pixels), pixels, torch.full_like(pixels, 0.5))
    x, y = (pixels[..., 0] - 0.5).clamp(0, width - 1), (pixels[..., 1] - 0.5).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    read = torch.zeros_like(values[..., :1, :])
    for column, weight_x in ((left, left + 1 - x), ((left + 1).clamp(max=width - 1), x - left)):
        for row, weight_y in ((top, top + 1 - y), ((top + 1).clamp(max=height - 1), y - top)):
            index = (row * width + column).long()[..., None, :, None]
            corner = torch.take_along_dim(values, index, dim=-2)
            read = read + (weight_x * weight_y)[..., None, :, None] * corner
    return read


def tracks_at(dense: Tracks, pixels: Float[Tensor, "*batch anchor query 2"], size: tuple[int, int]) -> Tracks:
    """Dense tracks of anchors of `size` (height, width), read at `pixels` (see `at_queries`)."""
    channels = [dense.points, dense.visibility[..., None], dense.confidence[..., None]]
    read = at_queries(torch.cat([full_precision(channel) for channel in channels], dim=-1), pixels, size)
    points, visible, confidence = read.split([3, 1, 1], dim=-1)
    return replace(dense, points=points, visibility=visible[..., 0], confidence=confidence[..., 0], pixels=pixels)


def _cross_entropy(logits: Tensor, truth: Tensor, known: Tensor) -> Term:
    logits = replaced_where_unknown(logits, known, 0.0)
    truth = replaced_where_unknown(truth, known, 0.0).to(logits.dtype)
    return masked_term(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), known)


def _is_anchor_time(tracks: Tracks) -> Bool[Tensor, "*batch anchor time"]:
    times = torch.arange(tracks.points.shape[-3], device=tracks.anchors.device)
    return tracks.anchors[..., None] == times


def _at_anchor_time(
    points: Float[Tensor, "*batch anchor time query 3"], truth: Tracks
) -> Float[Tensor, "*batch anchor 1 query 3"]:
    """The points at their anchor's own time; of an anchor that was sliced away, somewhere."""
    return torch.take_along_dim(full_precision(points), truth.anchors.clamp(min=0)[..., None, None, None], dim=-3)
