"""Tests of COLMAP's global mapper on tracks: cameras are recovered at any image size and initial focal length."""

from dataclasses import replace

import pytest
import torch
from perturbed_scenes import feature_tracks_of_scene, synthetic_sample

from recon4d.geometry import rotation_angle
from recon4d.records import FeatureTracks
from recon4d.refine import ColmapFailure, map_tracks
from recon4d.refine.cameras.mapper import pairs_to_match


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_cameras_of_a_static_scene_are_recovered_from_its_tracks(factor: float) -> None:
    truth = synthetic_sample(4).scene
    tracks = feature_tracks_of_scene(truth, num_tracks=1500)
    size = (round(truth.size[0] * factor), round(truth.size[1] * factor))
    at_size = FeatureTracks(tracks.pixels * factor, tracks.visibility)
    wrong_focal_length = torch.tensor([[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]])
    cameras = truth.cameras.resized(truth.size, size)
    guess = replace(cameras, intrinsics=cameras.intrinsics * wrong_focal_length)
    found = map_tracks(guess, at_size, size)

    assert found.world_from_cam.isfinite().all()
    torch.testing.assert_close(found.intrinsics, cameras.intrinsics, rtol=0.01, atol=0.1)
    turned, true = (one.world_from_cam[:, :3, :3].double() for one in (found, cameras))
    relative = turned[:1].transpose(1, 2) @ turned
    expected = true[:1].transpose(1, 2) @ true
    assert rotation_angle(relative.transpose(1, 2) @ expected).rad2deg().max() < 0.1
    again = map_tracks(guess, at_size, size)
    assert torch.equal(again.world_from_cam, found.world_from_cam)


def test_intrinsics_are_kept_and_constrain_the_poses() -> None:
    """The tracks are transformed to a camera with different focal lengths and a distant principal point."""
    truth = synthetic_sample(4).scene
    tracks = feature_tracks_of_scene(truth, num_tracks=1500)
    transform = torch.tensor([[1.2, 0.0, 25.0], [0.0, 1.0, -9.0], [0.0, 0.0, 1.0]])
    height, width = truth.size
    bounds = torch.tensor([[0.0, width], [0.0, height], [1.0, 1.0]])
    corners = (transform @ bounds)[:2]
    pixels = tracks.pixels @ transform[:2, :2].T + transform[:2, 2]
    inside = ((pixels > 0) & (pixels < corners.amax(dim=1))).all(dim=-1)
    cameras = replace(truth.cameras, intrinsics=transform @ truth.cameras.intrinsics)
    size = (round(float(corners[1].max())), round(float(corners[0].max())))
    found = map_tracks(cameras, FeatureTracks(pixels, tracks.visibility * inside), size, keep_intrinsics=True)

    torch.testing.assert_close(found.intrinsics, cameras.intrinsics, rtol=1e-4, atol=1e-2)
    longer_focal_length = replace(
        cameras, intrinsics=cameras.intrinsics * torch.tensor([[1.1, 1, 1], [1, 1.1, 1], [1, 1, 1]])
    )
    kept = map_tracks(
        longer_focal_length, FeatureTracks(pixels, tracks.visibility * inside), size, keep_intrinsics=True
    )
    torch.testing.assert_close(kept.intrinsics, longer_focal_length.intrinsics, rtol=1e-4, atol=1e-2)
    turned, true = (one.world_from_cam[:, :3, :3].double() for one in (found, cameras))
    relative, expected = turned[:1].transpose(1, 2) @ turned, true[:1].transpose(1, 2) @ true
    assert rotation_angle(relative.transpose(1, 2) @ expected).rad2deg().max() < 0.1


def test_long_clips_are_matched_in_few_pairs_that_still_join_all_frames() -> None:
    assert len(pairs_to_match(8)) == 28
    pairs = pairs_to_match(200)
    assert len(pairs) < 8 * 200
    assert {j - i for i, j in pairs} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert all((i, i + 1) in pairs for i in range(199))


def test_too_few_tracks_are_a_colmap_failure() -> None:
    truth = synthetic_sample(4).scene
    with pytest.raises(ColmapFailure):
        map_tracks(truth.cameras, feature_tracks_of_scene(truth, num_tracks=10), truth.size)
