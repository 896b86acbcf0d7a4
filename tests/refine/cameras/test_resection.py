"""Tests of the estimation of single cameras from points of the other frames."""

from dataclasses import replace

import torch
from perturbed_scenes import feature_tracks_of_scene, synthetic_scene

from recon4d.geometry import rotation_angle
from recon4d.records import FeatureTracks
from recon4d.refine.cameras.radial_distortion import NO_DISTORTION
from recon4d.refine.cameras.resection import resect_cameras
from recon4d.refine.tracks.located_tracks import locate_tracks


def test_a_camera_is_found_from_the_points_of_the_others() -> None:
    truth = synthetic_scene(4)
    located = locate_tracks(truth, feature_tracks_of_scene(truth, 400))
    wrong = truth.cameras.world_from_cam.clone()
    wrong[0] = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    cameras = replace(truth.cameras, world_from_cam=wrong)
    is_determined = torch.arange(8) > 0
    points = located.points(truth.cameras)
    found, is_found = resect_cameras(cameras, is_determined, located.tracks, points, truth.size, NO_DISTORTION)
    assert is_found.all()
    assert torch.equal(found.world_from_cam[1:], wrong[1:])
    rotation = found.world_from_cam[0, :3, :3].T @ truth.cameras.world_from_cam[0, :3, :3]
    assert rotation_angle(rotation).rad2deg() < 0.1


def test_a_camera_with_few_tracks_stays_unknown() -> None:
    truth = synthetic_scene(4)
    located = locate_tracks(truth, feature_tracks_of_scene(truth, 400))
    visibility = located.tracks.visibility.clone()
    visibility[3, 8:] = 0
    tracks = FeatureTracks(located.tracks.pixels, visibility)
    found, is_found = resect_cameras(
        truth.cameras, torch.arange(8) != 3, tracks, located.points(truth.cameras), truth.size, NO_DISTORTION
    )
    assert torch.equal(is_found, torch.arange(8) != 3)
    assert torch.equal(found.world_from_cam, truth.cameras.world_from_cam)
