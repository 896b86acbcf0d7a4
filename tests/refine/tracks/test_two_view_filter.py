"""Tests of the two-view filter: dynamic tracks violate the epipolar constraint."""

from dataclasses import replace

import torch
from perturbed_scenes import feature_tracks_of_scene, perturb_cameras, synthetic_scene

from recon4d.records import FeatureTracks
from recon4d.refine.tracks.two_view_filter import MAX_MATCHES, consistent_tracks


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


def test_tracks_of_a_turning_camera_are_tested_all_even_those_that_the_geometry_is_not_estimated_from() -> None:
    """Without translation a homography holds, and any fundamental matrix with one of its epipoles fits too."""
    generator = torch.Generator().manual_seed(0)
    cameras = synthetic_scene(2).frames([0, 0]).cameras
    angle = torch.tensor(0.1)
    turn = torch.eye(3)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    first = torch.rand(4 * MAX_MATCHES, 2, generator=generator) * 100 + 60
    rays = torch.cat([first, torch.ones(len(first), 1)], dim=1) @ torch.linalg.inv(cameras.intrinsics[0]).T
    mapped = rays @ turn.T @ cameras.intrinsics[0].T
    second = mapped[:, :2] / mapped[:, 2:]
    is_wrong = torch.rand(len(first), generator=generator) < 0.2
    anywhere = second + 20 * torch.randn(second.shape, generator=generator)
    pixels = torch.stack([first, torch.where(is_wrong[:, None], anywhere, second)])
    kept = consistent_tracks(cameras, FeatureTracks(pixels, torch.ones(pixels.shape[:2])), (192, 256))
    assert kept[~is_wrong].all()
    assert kept[is_wrong].float().mean() < 0.1
