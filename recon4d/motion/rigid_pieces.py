"""Groups of curves that move rigidly: distances within a piece stay the same over time.

Pieces are found one after the other. The curve with the most partners at a constant distance proposes a motion, one
rigid transform for each time; curves that follow it are the piece, whose motion is fitted to all of them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices, fit_rigid, transform_points

MAX_COMPARED = 300
"""Largest number of curves that are compared in pairs. Hand-tuned."""
MIN_SHARE = 0.03
"""Smallest share of all curves that is a piece. Hand-tuned."""
MIN_CURVES = 8
"""Smallest number of curves of a piece. Hand-tuned."""
QUANTILE = 0.9
"""Share of the times at which a curve must follow the motion of its piece, so that short errors do not matter."""
FIT_ROUNDS = 3
"""Number of fits of the motion of a piece to the curves that follow it."""


@dataclass(frozen=True)
class RigidPieces:
    """Pieces and the curves that belong to them."""

    pieces: Int[Tensor, " curve"]
    """Index of the piece of each curve; -1 for none."""
    world_from_piece: Float[Tensor, "piece time 4 4"]
    """Motion of each piece from the first time to every time, in the world."""


def find_rigid_pieces(points: Float[Tensor, "time curve 3"], tolerance: float) -> RigidPieces:
    """Group curves into pieces that move rigidly.

    Args:
        points: Positions of the curves at several times, in the world.
        tolerance: Largest distance from the motion of a piece, in the unit of the points.

    Returns:
        The pieces, largest first.
    """
    num_times, num_curves = points.shape[:2]
    pieces = torch.full((num_curves,), -1, dtype=torch.long, device=points.device)
    motions: list[Tensor] = []
    while True:
        free = (pieces < 0).nonzero()[:, 0]
        least = max(MIN_CURVES, round(MIN_SHARE * num_curves))
        if len(free) < least:
            break
        motion = _largest_motion(points[:, free], tolerance)
        follows = _follows(points[:, free], motion, tolerance)
        if follows.sum() < least:
            break
        pieces[free[follows]] = len(motions)
        motions.append(motion)
    stacked = torch.stack(motions) if motions else points.new_zeros(0, num_times, 4, 4)
    return RigidPieces(pieces, stacked.to(points.dtype))


def _largest_motion(points: Tensor, tolerance: float) -> Float[Tensor, "time 4 4"]:
    """Return the motion of the curve with the most partners, fitted to all curves that follow it."""
    compared = points[:, evenly_spaced_indices(points.shape[1], MAX_COMPARED).to(points.device)]
    distances = torch.cdist(compared, compared)
    change = (distances - distances.median(dim=0).values).abs()
    is_rigid = change.quantile(QUANTILE, dim=0) < tolerance
    follows = is_rigid[is_rigid.sum(dim=1).argmax()]
    motion = _fit_motion(compared, follows)
    for _ in range(FIT_ROUNDS):
        motion = _fit_motion(points, _follows(points, motion, tolerance))
    return motion


def _fit_motion(points: Tensor, chosen: Bool[Tensor, " curve"]) -> Float[Tensor, "time 4 4"]:
    """Fit the rigid transforms from the first to every time to some curves; the identity for fewer than three."""
    if chosen.sum() < 3:
        return torch.eye(4, dtype=points.dtype, device=points.device).expand(len(points), 4, 4)
    moved = points[:, chosen]
    return fit_rigid(moved[:1].expand_as(moved), moved)


def _follows(points: Tensor, motion: Tensor, tolerance: float) -> Bool[Tensor, " curve"]:
    """Check which curves follow a motion at most of the times, from the place that fits them best."""
    # The position at the first time may be wrong: the median of the positions that all times tell is better.
    starts = transform_points(torch.linalg.inv(motion), points).median(dim=0).values
    off = (transform_points(motion, starts.expand_as(points)) - points).norm(dim=-1)
    return off.quantile(QUANTILE, dim=0) < tolerance
