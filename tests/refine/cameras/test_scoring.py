"""Tests of the likelihood of tracks."""

import math

import torch
from perturbed_scenes import synthetic_scene

from recon4d.records import FeatureTracks
from recon4d.refine.cameras.scoring import NOISE, score_tracks
from recon4d.refine.tracks.located_tracks import LocatedTracks


def test_the_likelihood_is_that_of_a_cauchy_distribution() -> None:
    """A static camera observes three tracks at two places, whose best points lie in the middle, and a fourth one with a
    single outlier."""
    truth = synthetic_scene(4).frames([0, 0, 0])
    noise = NOISE * 256
    pixels = torch.tensor([20.0, 30.0]).expand(3, 4, 2).clone()
    pixels[1, :, 0] += torch.tensor([0, 2 * noise, 1, 50])
    tracks = FeatureTracks(pixels, torch.ones(3, 4))
    tracks.visibility[2, :3] = 0
    located = LocatedTracks(tracks, torch.zeros(4, dtype=torch.long), torch.full((4,), 2.0))
    found = score_tracks(truth.cameras, located, truth.size).costs
    outlier = math.log1p(noise**-2)  # errors are clipped to a pixel
    expected = torch.tensor([0, math.log(2), math.log1p((0.5 / noise) ** 2), outlier / 3]).double()
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
