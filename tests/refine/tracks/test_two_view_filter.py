"""Tests of the two-view filter: dynamic tracks violate the epipolar constraint."""

from dataclasses import replace

import torch
from perturbed_scenes import perturb_cameras, synthetic_scene

from recon4d.records import FeatureTracks
from recon4d.refine import feature_tracks_of_scene
from recon4d.refine.tracks.two_view_filter import consistent_tracks


def test_dynamic_tracks_are_inconsistent() -> None:
    truth = synthetic_scene(2)
    everything = feature_tracks_of_scene(replace(truth, dynamic=torch.zeros_like(truth.dynamic)), 1500)
    kept = consistent_tracks(truth.cameras, everything, truth.size)
    column, row = everything.pixels[0].long().unbind(-1)
    is_dynamic = truth.dynamic[0, row, column] > 0
    assert is_dynamic.float().mean() > 0.2
    assert kept[~is_dynamic].float().mean() > 0.9
    assert kept[is_dynamic].float().mean() < 0.6
    # The poses of the cameras have no influence.
    assert torch.equal(kept, consistent_tracks(perturb_cameras(truth, share=0.0).cameras, everything, truth.size))


def test_tracks_with_one_observation_or_without_enough_others_are_not_consistent() -> None:
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 300)
    visibility = tracks.visibility.clone()
    visibility[1:, :10] = 0
    kept = consistent_tracks(truth.cameras, FeatureTracks(tracks.pixels, visibility), truth.size)
    assert not kept[:10].any()
    assert kept[10:].float().mean() > 0.9
    few = FeatureTracks(tracks.pixels[:, :15], tracks.visibility[:, :15])
    assert not consistent_tracks(truth.cameras, few, truth.size).any()
