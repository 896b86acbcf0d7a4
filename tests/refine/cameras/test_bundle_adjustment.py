"""Tests of bundle adjustment, triangulation and reprojection errors on exact scenes."""

from dataclasses import replace

import pytest
import torch
from perturbed_scenes import feature_tracks_of_scene, perturb_cameras, synthetic_scene
from scenes import make_scene

from recon4d.geometry import invert
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.bundle_adjustment import (
    BundleProblem,
    FreeIntrinsics,
    adjust,
    reprojection_errors,
    triangulation_angles,
)
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.tracks.located_tracks import take_tracks


def exact_problem() -> tuple[BundleProblem, torch.Tensor]:
    """Return tracks of a wall observed by three cameras, and its points."""
    scene = make_scene()
    tracks = feature_tracks_of_scene(scene)
    assert scene.tracks is not None
    points = scene.tracks.points[0, 0]
    return BundleProblem(scene.cameras, tracks, points, scene.size), points


def test_reprojection_errors_are_pixels() -> None:
    problem, points = exact_problem()
    errors, is_observed = reprojection_errors(problem.cameras, problem.tracks, points)
    assert is_observed.all()
    assert errors.max() < 1e-3
    shifted = FeatureTracks(problem.tracks.pixels + torch.tensor([3.0, 4.0]), problem.tracks.visibility)
    five = torch.full((3, 192), 5.0).double()
    torch.testing.assert_close(reprojection_errors(problem.cameras, shifted, points)[0], five, atol=1e-3, rtol=0)
    behind, _ = reprojection_errors(problem.cameras, problem.tracks, -points)
    assert behind.isinf().all()


def test_the_triangulation_angle_is_the_largest_among_observing_cameras() -> None:
    """Cameras at x = 0 and x = 1 observe the point (0, 0, 1) under 45 degrees; a third one does not observe it."""
    world_from_cam = torch.eye(4).repeat(3, 1, 1)
    world_from_cam[1, 0, 3], world_from_cam[2, 0, 3] = 1, 50
    cameras = Cameras(world_from_cam, torch.eye(3).expand(3, 3, 3))
    visibility = torch.tensor([[1.0], [1.0], [0.0]])
    tracks = FeatureTracks(torch.zeros(3, 1, 2), visibility)
    angle = triangulation_angles(cameras, tracks, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(angle.rad2deg(), torch.tensor([45.0]).double())


@pytest.mark.parametrize(
    "intrinsics", [FreeIntrinsics(), FreeIntrinsics(focal_length=True), FreeIntrinsics(True, principal_point=True)]
)
def test_only_free_intrinsics_change(intrinsics: FreeIntrinsics) -> None:
    """The start has a longer focal length and another principal point, in maps whose pixels are not square."""
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 300)
    tracks = take_tracks(tracks, (tracks.visibility.sum(dim=0) > 1).nonzero()[:, 0])
    row, column = tracks.pixels[0].long().flip(-1).unbind(-1)
    aspect, shift = torch.tensor([1.0, 1.3]), torch.tensor([4.0, -3.0])
    tracks = FeatureTracks((tracks.pixels + shift) * aspect, tracks.visibility)
    initial = truth.cameras.intrinsics * torch.tensor([[1.1, 1, 1], [1.3, 1.1 * 1.3, 1.3], [1, 1, 1]])
    initial[:, 0, 2], initial[:, 1, 2] = 128, 96 * 1.3
    start = Cameras(truth.cameras.world_from_cam, initial)
    problem = BundleProblem(start, tracks, truth.points[0, row, column], (250, 256))
    found = adjust(problem, torch.ones(len(row), dtype=torch.bool), intrinsics).cameras.intrinsics.float()
    assert torch.equal(found, found[:1].expand(8, 3, 3))
    torch.testing.assert_close(found[0, 1, 1] / found[0, 0, 0], torch.tensor(1.3))
    moved = found[0, :2, 2] - start.intrinsics[0, :2, 2]
    if intrinsics.principal_point:
        torch.testing.assert_close(moved, shift * aspect, atol=0.1, rtol=0)
        torch.testing.assert_close(found[0, 0, 0], truth.cameras.intrinsics[0, 0, 0], rtol=2e-3, atol=0)
    else:
        torch.testing.assert_close(moved, torch.zeros(2), atol=1e-4, rtol=0)
        assert torch.isclose(found[0, 0, 0], start.intrinsics[0, 0, 0], rtol=1e-4) == (not intrinsics.focal_length)


def test_the_first_camera_and_fixed_points_do_not_move() -> None:
    problem, points = exact_problem()
    perturbed = perturb_cameras(make_scene(), degrees=1, share=0.05).cameras
    is_free = torch.zeros(len(points), dtype=torch.bool)
    found = adjust(replace(problem, cameras=replace(perturbed, intrinsics=problem.cameras.intrinsics)), is_free)
    torch.testing.assert_close(found.points.float(), points)
    torch.testing.assert_close(found.cameras.world_from_cam[0], torch.eye(4).double())
    expected = problem.cameras.world_from_cam.double()
    torch.testing.assert_close(found.cameras.world_from_cam, expected, atol=1e-4, rtol=0)
    assert torch.equal(invert(found.cameras.cam_from_world)[0], found.cameras.world_from_cam[0])


@pytest.mark.parametrize(("k1", "k2", "num_coefficients"), [(-0.15, 0.0, 1), (0.1, 0.0, 1), (-0.2, 0.06, 2)])
def test_the_coefficients_of_a_lens_are_found(k1: float, k2: float, num_coefficients: int) -> None:
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 300)
    tracks = take_tracks(tracks, (tracks.visibility.sum(dim=0) > 1).nonzero()[:, 0])
    row, column = tracks.pixels[0].long().flip(-1).unbind(-1)
    lens = RadialDistortion(k1, k2)
    focal_lengths, center = truth.cameras.intrinsics[:, None, 0, :1], truth.cameras.intrinsics[:, None, :2, 2]
    pixels = center + lens.factors((tracks.pixels - center) / focal_lengths) * (tracks.pixels - center)
    problem = BundleProblem(
        truth.cameras, FeatureTracks(pixels, tracks.visibility), truth.points[0, row, column], truth.size
    )
    free = FreeIntrinsics(focal_length=True, num_coefficients=num_coefficients)
    found = adjust(problem, torch.ones(len(row), dtype=torch.bool), free)
    assert found.distortion.k1 == pytest.approx(k1, abs=0.01)
    assert found.distortion.k2 == pytest.approx(k2, abs=0.03)
    torch.testing.assert_close(
        found.cameras.intrinsics[0, 0, 0].float(), truth.cameras.intrinsics[0, 0, 0], rtol=5e-3, atol=0
    )
    errors, is_observed = reprojection_errors(found.cameras, problem.tracks, found.points, found.distortion)
    assert errors[is_observed].median() < 0.02
    without, _ = reprojection_errors(found.cameras, problem.tracks, found.points)
    assert without[is_observed].median() > 0.1
