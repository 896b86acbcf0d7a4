"""Trajectories of a scene: curves of the tracked points that move, and the rigid pieces that they form."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices, pixel_indices
from recon4d.motion.curves import fit_curves
from recon4d.motion.rigid_pieces import find_rigid_pieces
from recon4d.records import Scene, TensorRecord, Tracks
from recon4d.records.trajectories import Trajectories

RIGID_TOLERANCE = 0.01
"""Largest distance of a point from the motion of its rigid piece, relative to the median depth of the scene.
Hand-tuned."""
MAX_CURVES = 20_000
"""Largest number of curves; more moving pixels are thinned evenly. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class DynamicTracks(TensorRecord):
    """Tracks of the pixels that move, of all anchors."""

    points: Float[Tensor, "time track 3"]
    """World positions in scene units."""
    weights: Float[Tensor, "time track"]
    """Confidence of the positions; 0 where the point is hidden."""
    visibility: Float[Tensor, "time track"]
    """Probability that the point is visible."""
    anchors: Int[Tensor, " track"]
    """Frame whose pixel selects the point."""
    pixels: Float[Tensor, "track 2"]
    """Pixel coordinates (x, y) in the maps of that frame."""


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
    known = scene.depths[(scene.depth_confidence > 0) & (scene.depths > 0)]
    median_depth = float(known.median()) if len(known) else 0.0
    return replace(
        scene, trajectories=curves_of_tracks(scene.tracks, _is_dynamic(scene), times, median_depth, max_curves)
    )


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
    selected = select_tracks(tracks, is_dynamic, max_curves)
    weights = selected.weights
    control_points = fit_curves(selected.points, weights, times)
    curves = Trajectories(
        control_points=control_points,
        interval=torch.stack([times[0], times[-1]]).to(control_points),
        times=times.to(control_points),
        visibility=selected.visibility.T,
        confidence=weights.sum(dim=0) / (weights > 0).sum(dim=0).clamp(min=1),
        anchors=selected.anchors,
        pixels=selected.pixels,
        support=_support(weights, times).to(control_points),
        pieces=torch.full((weights.shape[1],), -1, dtype=torch.long),
        world_from_piece=control_points.new_zeros(0, len(times), 4, 4),
    )
    if curves.num_curves and median_depth:
        tolerance = RIGID_TOLERANCE * median_depth
        found = find_rigid_pieces(curves.positions(curves.times).movedim(0, 1), tolerance)
        curves = replace(curves, pieces=found.pieces, world_from_piece=found.world_from_piece)
    return curves


def dynamic_tracks(scene: Scene, max_tracks: int = MAX_CURVES) -> DynamicTracks:
    """Select the tracks whose pixel moves, thinned evenly.

    Args:
        scene: A single scene with tracks.
        max_tracks: Largest number of tracks.

    Returns:
        The tracks, in the order of the curves of `fit_trajectories`.
    """
    assert scene.tracks is not None
    return select_tracks(scene.tracks, _is_dynamic(scene), max_tracks)


def select_tracks(tracks: Tracks, is_dynamic: Bool[Tensor, "anchor query"], max_tracks: int) -> DynamicTracks:
    """Select the tracks that move and are visible at any time, thinned evenly.

    Args:
        tracks: Tracks of a single scene.
        is_dynamic: Queries that move.
        max_tracks: Largest number of tracks.

    Returns:
        The tracks of all anchors.
    """
    is_moving = is_dynamic & (tracks.anchors >= 0)[:, None]
    visible = tracks.visibility > 0.5
    is_moving &= (visible & (tracks.confidence > 0)).any(dim=1)
    flat = is_moving.flatten().nonzero()[:, 0]
    flat = flat[evenly_spaced_indices(len(flat), max_tracks).to(flat.device)]
    return DynamicTracks(
        points=_flat(tracks.points)[:, flat],
        weights=_flat(torch.where(visible, tracks.confidence, 0.0))[:, flat],
        visibility=_flat(tracks.visibility)[:, flat],
        anchors=tracks.anchors[flat // tracks.pixels.shape[-2]],
        pixels=tracks.pixels.flatten(0, 1)[flat],
    )


def _is_dynamic(scene: Scene) -> Bool[Tensor, "anchor query"]:
    """Tell for each query whether its pixel moves."""
    tracks = scene.tracks
    assert tracks is not None
    row, column = pixel_indices(tracks.pixels, scene.size)
    return scene.is_dynamic[tracks.anchors.clamp(min=0)[:, None], row, column]


def _flat(values: Tensor) -> Tensor:
    """Join the axes of anchors and queries behind that of time."""
    return values.movedim(1, 0).flatten(1, 2)


def _support(weights: Tensor, times: Tensor) -> Float[Tensor, "curve 2"]:
    """Return the first and last time of positive weight."""
    is_observed = weights > 0
    first = torch.where(is_observed, times[:, None], torch.inf).amin(dim=0)
    last = torch.where(is_observed, times[:, None], -torch.inf).amax(dim=0)
    return torch.stack([first, last], dim=-1)
