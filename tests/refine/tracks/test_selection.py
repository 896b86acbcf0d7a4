"""Tests of the selection of tracks: a scene's own tracks, random samples and the held-out share."""

from dataclasses import replace

import torch
from perturbed_scenes import synthetic_scene

from recon4d.records import FeatureTracks
from recon4d.refine import RefineConfig
from recon4d.refine.tracks.located_tracks import LocatedTracks, locate_tracks
from recon4d.refine.tracks.selection import hold_out, sample_tracks


def numbered_tracks(count: int) -> LocatedTracks:
    """Return tracks whose depth is their number."""
    tracks = FeatureTracks(torch.zeros(2, count, 2), torch.ones(2, count))
    return LocatedTracks(tracks, torch.zeros(count, dtype=torch.long), torch.arange(float(count)))


def test_samples_and_held_out_tracks_are_disjoint_ordered_and_of_the_given_size() -> None:
    config = RefineConfig(num_tracks=50, held_out_fraction=0.3)
    sampled = sample_tracks(numbered_tracks(200), config)
    assert len(sampled) == 50
    assert (sampled.depths.diff() > 0).all()
    fitted, held_out = hold_out(sampled, config)
    assert (len(fitted), len(held_out)) == (35, 15)
    assert (fitted.depths.diff() > 0).all()
    assert torch.equal(torch.cat([fitted.depths, held_out.depths]).sort().values, sampled.depths)
    assert len(sample_tracks(numbered_tracks(20), config)) == 20
    other = sample_tracks(numbered_tracks(200), replace(config, seed=1))
    assert not torch.equal(other.depths, sampled.depths)


def test_located_tracks_have_a_depth_and_two_observations() -> None:
    truth = replace(synthetic_scene(4), tracks=None).frames([0, 2, 4])
    pixels = torch.tensor([20.5, 30.5]).expand(3, 4, 2).clone()
    pixels[0, 1] = torch.tensor([-5.0, 30.5])
    visibility = torch.ones(3, 4)
    visibility[1:, 2] = 0  # observed once
    confidence = truth.depth_confidence.clone()
    pixels[:, 3] = torch.tensor([40.5, 50.5])
    confidence[:, 50, 40] = 0  # no depth in any frame
    located = locate_tracks(replace(truth, depth_confidence=confidence), FeatureTracks(pixels, visibility))
    # The first track has its depth in the first frame; the second one is outside of the image there.
    assert located.frames.tolist() == [0, 1]
    torch.testing.assert_close(located.depths, truth.depths[[0, 1], 30, 20])
