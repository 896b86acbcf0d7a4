"""Which tracks refinement goes by: those that agree on what stands still, some to fit cameras to, others to judge."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from recon4d.records import FeatureTracks, Scene
from recon4d.refine.cameras.hypotheses import LocatedTracks, RefineConfig, select_tracks
from recon4d.refine.cameras.scoring import track_errors
from recon4d.refine.tracks.two_view_filter import consistent_tracks


def select_static_tracks(
    scene: Scene, located: LocatedTracks, is_located: Bool[Tensor, " track"], config: RefineConfig
) -> Int[Tensor, " usable"]:
    """Numbers of at most `most_tracks` tracks, drawn by the seed, that keep to the epipolar geometry of the clip.

    Something large that moves keeps to a geometry of its own. Where those left out agree among themselves too, and are
    nearly as many, the network decides: they are taken if its cameras fit them far better.
    """
    tracks = located.tracks
    chosen = drawn_tracks(is_located & ((tracks.visibility > 0).sum(dim=0) >= config.least_frames), config)
    agree = _consistent(scene, tracks, chosen, config)
    rivals = chosen[~torch.isin(chosen, agree)]
    least = max(config.least_tracks, config.rival_share * len(agree))
    if len(rivals) < least:
        return agree
    rivals = _consistent(scene, tracks, rivals, config)
    if len(rivals) < least:
        return agree
    of_most, of_rivals = (
        track_errors(scene.cameras, located.take(group), scene.size, cap=torch.inf).median()
        for group in (agree, rivals)
    )
    return rivals if of_rivals < config.rival_error * of_most else agree


def drawn_tracks(is_usable: Bool[Tensor, " track"], config: RefineConfig) -> Int[Tensor, " drawn"]:
    """Numbers of at most `most_tracks` of the usable ones, drawn by the seed."""
    numbers = is_usable.nonzero()[:, 0].numpy()
    return torch.from_numpy(np.sort(np.random.default_rng(config.seed).permutation(numbers)[: config.most_tracks]))


def _consistent(
    scene: Scene, tracks: FeatureTracks, chosen: Int[Tensor, " chosen"], config: RefineConfig
) -> Int[Tensor, " consistent"]:
    return chosen[consistent_tracks(scene.cameras, select_tracks(tracks, chosen), scene.size, config.seed)]


def split(
    usable: Int[Tensor, " usable"], config: RefineConfig
) -> tuple[Int[Tensor, " held_out"], Int[Tensor, " fitted"]]:
    """Numbers of the tracks that are held out, and of those that are fitted."""
    drawn = np.random.default_rng([config.seed, 1]).permutation(usable.numpy())
    count = max(1, round(config.held_out_share * len(drawn)))
    return torch.from_numpy(np.sort(drawn[:count])), torch.from_numpy(np.sort(drawn[count:]))
