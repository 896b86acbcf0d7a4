"""Tests of the selection of tracks: a scene's own tracks, random samples and the held-out share."""

from dataclasses import replace

import pytest
import torch
from perturbed_scenes import synthetic_scene

from recon4d.errors import UserError
from recon4d.geometry import project, transform_points
from recon4d.records import FeatureTracks
from recon4d.refine import RefineConfig, feature_tracks_of_scene
from recon4d.refine.tracks.located_tracks import LocatedTracks, locate_tracks
from recon4d.refine.tracks.selection import hold_out, sample_tracks


def numbered_tracks(count: int) -> LocatedTracks:
    """Return tracks whose depth is their number."""
    tracks = FeatureTracks(torch.zeros(2, count, 2), torch.ones(2, count))
    return LocatedTracks(tracks, torch.zeros(count, dtype=torch.long), torch.arange(float(count)))


def test_tracks_of_a_scene_are_static_and_at_their_true_pixels() -> None:
    truth = synthetic_scene(2)
    tracks = feature_tracks_of_scene(truth, 500)
    assert tracks.pixels.shape == (8, 500, 2)
    assert (tracks.visibility[0] == 1).all()
    assert 0.3 < tracks.visibility.mean() < 1
    column, row = tracks.pixels[0].long().unbind(-1)
    assert (truth.dynamic[0, row, column] == 0).all()
    points = truth.points[0, row, column]
    for frame in range(1, 8):
        pixels = project(transform_points(truth.cameras.cam_from_world[frame], points), truth.cameras.intrinsics[frame])
        is_observed = tracks.visibility[frame] > 0
        torch.testing.assert_close(pixels[is_observed], tracks.pixels[frame, is_observed], atol=0.02, rtol=0)
    with pytest.raises(UserError, match="no tracks"):
        feature_tracks_of_scene(replace(truth, tracks=None))


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
