"""Tests of triangulation with fixed cameras."""

import pytest
import torch
from perturbed_scenes import feature_tracks_of_scene, synthetic_scene
from scenes import make_scene

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.bundle_adjustment import reprojection_errors
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.tracks.located_tracks import locate_tracks


def test_points_are_found_with_fixed_cameras() -> None:
    scene = make_scene()
    assert scene.tracks is not None
    points = scene.tracks.points[0, 0]
    start = points + 0.1 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    found = refine_points(scene.cameras, feature_tracks_of_scene(scene), start)
    torch.testing.assert_close(found.float(), points, atol=1e-2, rtol=0)


def test_an_outlier_has_little_influence() -> None:
    scene = synthetic_scene(4)
    located = locate_tracks(scene, feature_tracks_of_scene(scene, 300))
    many = located.take((located.tracks.visibility.sum(dim=0) >= 5).nonzero()[:, 0])
    pixels = many.tracks.pixels.clone()
    pixels[0] += 30
    tracks = FeatureTracks(pixels, many.tracks.visibility)
    found = refine_points(scene.cameras, tracks, many.points(scene.cameras))
    errors, is_observed = reprojection_errors(scene.cameras, tracks, found)
    assert errors[1:][is_observed[1:]].quantile(0.9) < 0.2


def test_a_distant_point_is_found_from_a_near_start() -> None:
    """The point is 1000 baselines away, and the start at one."""
    world_from_cam = torch.eye(4).repeat(2, 1, 1)
    world_from_cam[1, 0, 3] = 1
    intrinsics = torch.tensor([[500.0, 0, 100], [0, 500, 100], [0, 0, 1]]).expand(2, 3, 3)
    pixels = torch.tensor([[[150.0, 100.0]], [[149.5, 100.0]]])
    tracks = FeatureTracks(pixels, torch.ones(2, 1))
    found = refine_points(Cameras(world_from_cam, intrinsics), tracks, torch.tensor([[0.1, 0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[100.0, 0.0, 1000.0]]).double(), rtol=1e-3, atol=1e-2)


def test_points_are_found_through_a_distorting_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps suffice with exact derivatives, which include those of the distortion."""
    monkeypatch.setattr("recon4d.refine.cameras.point_refinement.NUM_STEPS", 2)
    scene, lens = make_scene(), RadialDistortion(-0.2, 0.05)
    assert scene.tracks is not None
    points, tracks = scene.tracks.points[0, 0], feature_tracks_of_scene(scene)
    center = scene.cameras.intrinsics[:, None, :2, 2]
    focal_lengths = scene.cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    pixels = center + lens.factors((tracks.pixels - center) / focal_lengths) * (tracks.pixels - center)
    distorted = FeatureTracks(pixels, tracks.visibility)
    found = refine_points(scene.cameras, distorted, points + 0.05, distortion=lens)
    torch.testing.assert_close(found.float(), points, atol=2e-3, rtol=0)
