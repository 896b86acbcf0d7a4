"""Selection of tracks: those on static surfaces, and the split into fitted and held-out tracks."""

import numpy as np
import torch

from recon4d.records import FeatureTracks, Scene
from recon4d.refine.cameras.scoring import score_tracks
from recon4d.refine.config import RefineConfig
from recon4d.refine.tracks.located_tracks import LocatedTracks
from recon4d.refine.tracks.two_view_filter import consistent_tracks

CORNER_DISTANCE = 0.012
"""Distance of different corners, as a fraction of the longer side. Hand-tuned."""
MIN_RIVAL_FRACTION = 0.4
"""Smallest size of a second consistent group, relative to the first, that may be the static one. Hand-tuned."""
MAX_RIVAL_ERROR_RATIO = 0.5
"""Largest ratio of the predicted cameras' median error on the second group to that on the first, for the second group
to be preferred. Hand-tuned."""


def select_static_tracks(scene: Scene, tracks: LocatedTracks, config: RefineConfig) -> LocatedTracks:
    """Select the tracks that agree on one two-view geometry, as points on static surfaces do.

    A large object that moves rigidly has a consistent geometry of its own. If the rejected tracks are consistent among
    themselves too and nearly as many, the group is selected that the predicted cameras fit better by far.

    Args:
        scene: The predicted scene.
        tracks: Tracks through its frames.
        config: `num_tracks`, `min_tracks` and `seed` are used.

    Returns:
        At most `config.num_tracks` tracks; there may be fewer than `config.min_tracks`.
    """
    sampled = sample_tracks(tracks, config)
    static, rest = _split_by_consistency(scene, sampled, config)
    min_rivals = max(config.min_tracks, MIN_RIVAL_FRACTION * len(static))
    if len(rest) < min_rivals:
        return static
    rivals, _ = _split_by_consistency(scene, rest, config)
    if len(rivals) < min_rivals:
        return static
    static_error, rival_error = (
        score_tracks(scene.cameras, group, scene.size, max_error=torch.inf).errors.median()
        for group in (static, rivals)
    )
    return rivals if rival_error < MAX_RIVAL_ERROR_RATIO * static_error else static


def sample_tracks(tracks: LocatedTracks, config: RefineConfig) -> LocatedTracks:
    """Draw tracks at random.

    Args:
        tracks: The tracks to draw from.
        config: `num_tracks` and `seed` are used.

    Returns:
        At most `config.num_tracks` different tracks, in their original order.
    """
    order = np.random.default_rng(config.seed).permutation(np.arange(len(tracks)))
    return tracks.take(torch.from_numpy(np.sort(order[: config.num_tracks])))


def hold_out(tracks: LocatedTracks, config: RefineConfig) -> tuple[LocatedTracks, LocatedTracks]:
    """Split tracks at random into fitted and held-out ones.

    Args:
        tracks: The tracks to split.
        config: `held_out_fraction` and `seed` are used.

    Returns:
        The fitted tracks and the held-out tracks; at least one track is held out.
    """
    order = np.random.default_rng([config.seed, 1]).permutation(np.arange(len(tracks)))
    count = max(1, round(config.held_out_fraction * len(order)))
    held_out, fitted = (tracks.take(torch.from_numpy(np.sort(part))) for part in (order[:count], order[count:]))
    return fitted, held_out


def num_distinct_corners(tracks: FeatureTracks, size: tuple[int, int]) -> int:
    """Count the corners that tracks follow: a corner that is detected in several frames has a track from each of them.

    Args:
        tracks: Tracks of corners, at least one.
        size: Height and width of the maps that pixels refer to.

    Returns:
        Number of cells of a grid, `CORNER_DISTANCE` apart, that have a corner in the frame with the most observations.
    """
    is_observed = tracks.visibility > 0
    frame = is_observed.sum(dim=1).argmax()
    cells = (tracks.pixels[frame][is_observed[frame]] / (CORNER_DISTANCE * max(size))).long()
    return len(cells.unique(dim=0))


def _split_by_consistency(
    scene: Scene, tracks: LocatedTracks, config: RefineConfig
) -> tuple[LocatedTracks, LocatedTracks]:
    """Split tracks into those that agree with the dominant two-view geometry and the others."""
    is_consistent = consistent_tracks(scene.cameras, tracks.tracks, scene.size, config.seed)
    return tracks.take(is_consistent.nonzero()[:, 0]), tracks.take((~is_consistent).nonzero()[:, 0])
