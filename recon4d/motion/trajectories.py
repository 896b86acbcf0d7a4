"""Trajectories of a scene: curves of the tracked points that move, and the rigid pieces that they form."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices, pixel_indices
from recon4d.motion.curves import fit_curves
from recon4d.motion.rigid_pieces import find_rigid_pieces
from recon4d.records import Scene, Tracks
from recon4d.records.trajectories import Trajectories

RIGID_TOLERANCE = 0.01
"""Largest distance of a point from the motion of its rigid piece, relative to the median depth of the scene.
Hand-tuned."""
MAX_CURVES = 20_000
"""Largest number of curves; more moving pixels are thinned evenly. Hand-tuned."""


def fit_trajectories(scene: Scene, times: Float[Tensor, " time"], max_curves: int = MAX_CURVES) -> Scene:
    """Fit curves to the tracks of what moves.

    Args:
        scene: A single scene (no batch axis) with tracks.
        times: Times of its frames in seconds, increasing.
        max_curves: Largest number of curves.

    Returns:
        The scene with `Scene.trajectories`; without curves if nothing moves.

    Raises:
        UserError: If the scene has no tracks, or the times are unknown or do not increase.
    """
    if scene.tracks is None:
        raise UserError("trajectories need tracks: reconstruct the clip with anchors, such as anchors=(0,)")
    if not (torch.isfinite(times).all() and (times.diff() > 0).all() and len(times) > 1):
        raise UserError(f"trajectories need increasing times of at least 2 frames, given {times.tolist()[:5]}")
    row, column = pixel_indices(scene.tracks.pixels, scene.size)
    is_dynamic = scene.is_dynamic[scene.tracks.anchors.clamp(min=0)[:, None], row, column]
    known = scene.depths[(scene.depth_confidence > 0) & (scene.depths > 0)]
    median_depth = float(known.median()) if len(known) else 0.0
    return replace(scene, trajectories=curves_of_tracks(scene.tracks, is_dynamic, times, median_depth, max_curves))


def curves_of_tracks(
    tracks: Tracks,
    is_dynamic: Bool[Tensor, "anchor query"],
    times: Float[Tensor, " time"],
    median_depth: float,
    max_curves: int = MAX_CURVES,
) -> Trajectories:
    """Fit curves to tracks, and find the rigid pieces that they form.

    Args:
        tracks: Tracks of a single scene.
        is_dynamic: Queries that move; others have no curve.
        times: Times of the frames in seconds, increasing, at least 2.
        median_depth: Median depth of the scene, to which the tolerance of rigid pieces is relative; 0 for no pieces.
        max_curves: Largest number of curves.

    Returns:
        The curves.
    """
    points, weights, anchors, pixels = _dynamic_tracks(tracks, is_dynamic, max_curves)
    control_points = fit_curves(points, weights, times)
    curves = Trajectories(
        control_points=control_points,
        interval=torch.stack([times[0], times[-1]]).to(control_points),
        times=times.to(control_points),
        visibility=_flat(tracks.visibility)[:, anchors[1]].T,
        confidence=weights.sum(dim=0) / (weights > 0).sum(dim=0).clamp(min=1),
        anchors=tracks.anchors[anchors[0]],
        pixels=pixels,
        support=_support(weights, times).to(control_points),
        pieces=torch.full((points.shape[1],), -1, dtype=torch.long),
        world_from_piece=control_points.new_zeros(0, len(times), 4, 4),
    )
    if curves.num_curves and median_depth:
        tolerance = RIGID_TOLERANCE * median_depth
        found = find_rigid_pieces(curves.positions(curves.times).movedim(0, 1), tolerance)
        curves = replace(curves, pieces=found.pieces, world_from_piece=found.world_from_piece)
    return curves


def _dynamic_tracks(
    tracks: Tracks, is_dynamic: Bool[Tensor, "anchor query"], max_curves: int
) -> tuple[Float[Tensor, "time curve 3"], Float[Tensor, "time curve"], tuple[Tensor, Tensor], Tensor]:
    """Return positions and weights of tracks whose pixel moves, their anchors and flat indices, and their pixels."""
    is_moving = is_dynamic & (tracks.anchors >= 0)[:, None]
    visible = tracks.visibility > 0.5
    is_moving &= (visible & (tracks.confidence > 0)).any(dim=1)
    flat = is_moving.flatten().nonzero()[:, 0]
    flat = flat[evenly_spaced_indices(len(flat), max_curves).to(flat.device)]
    weights = _flat(torch.where(visible, tracks.confidence, 0.0))[:, flat]
    anchors = flat // tracks.pixels.shape[-2]
    return _flat(tracks.points)[:, flat], weights, (anchors, flat), tracks.pixels.flatten(0, 1)[flat]


def _flat(values: Tensor) -> Tensor:
    """Join the axes of anchors and queries behind that of time."""
    return values.movedim(1, 0).flatten(1, 2)


def _support(weights: Tensor, times: Tensor) -> Float[Tensor, "curve 2"]:
    """Return the first and last time of positive weight."""
    is_observed = weights > 0
    first = torch.where(is_observed, times[:, None], torch.inf).amin(dim=0)
    last = torch.where(is_observed, times[:, None], -torch.inf).amax(dim=0)
    return torch.stack([first, last], dim=-1)
