"""Cameras located by exact matches are exact, their expected errors are honest, and chance locates nothing."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from recon4d import geometry as g
from recon4d.refine.localization import localize as localization
from recon4d.refine.localization.features import Features, detect_features, match_features
from recon4d.refine.localization.localize import IntrinsicsHypothesis, Location, localize
from recon4d.refine.localization.scene_views import SceneView
from recon4d.refine.no_solution import NoSolution

SIZE = (480, 640)
FOCAL = 500.0
NUM_POINTS = 300


def intrinsics(focal: float = FOCAL) -> torch.Tensor:
    return torch.tensor([[focal, 0, 320], [0, focal, 240], [0, 0, 1]], dtype=torch.double)


def look(angle: float, x: float, z: float) -> torch.Tensor:
    """Return cam_from_world of a camera at (x, 0, z), turned about the vertical axis."""
    rotation = g.rotation_from_axis_angle(torch.tensor([0.0, angle, 0.0], dtype=torch.double))
    return g.invert(g.rigid(rotation, torch.tensor([x, 0.0, z], dtype=torch.double)))


POSE = look(-0.15, 0.8, 0.3)
"""The camera to locate."""


def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points in front of the cameras and a distinct descriptor for each."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-1.5, -1.2, 3.0]), torch.tensor([2.0, 1.2, 8.0])
    points = low + (high - low) * torch.rand(NUM_POINTS, 3, generator=generator)
    return points.double(), F.normalize(torch.randn(NUM_POINTS, 128, generator=generator), dim=1)


def project(cam_from_world: torch.Tensor, points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return g.project(g.transform_points(cam_from_world, points), matrix)


def make_views(
    noise: float = 0.0, depth_error: float = 0.0, poses: tuple[torch.Tensor, ...] | None = None
) -> list[SceneView]:
    points, descriptors = world()
    views = []
    generator = torch.Generator().manual_seed(3)
    for pose in poses or (look(0.0, 0.0, 0.0), look(0.05, 0.3, 0.0), look(-0.1, 0.5, 0.2)):
        depths = g.transform_points(pose, points)[:, 2]
        errors = depth_error * torch.randn(NUM_POINTS, generator=generator, dtype=torch.double)
        pixels = project(pose, points, intrinsics())
        pixels = pixels + noise * torch.randn(NUM_POINTS, 2, generator=generator, dtype=torch.double)
        features = Features(pixels.float(), descriptors)
        assumed = torch.full((NUM_POINTS,), max(depth_error, 0.02), dtype=torch.double)
        views.append(SceneView(features, SIZE, pose, intrinsics(), depths * errors.exp(), assumed))
    return views


def make_query(noise: float = 0.0, wrong: int = 0, focal: float = FOCAL, seed: int = 5) -> Features:
    """Return the features of the picture to locate; the first `wrong` are at random places."""
    points, descriptors = world()
    generator = torch.Generator().manual_seed(seed)
    pixels = project(POSE, points, intrinsics(focal))
    pixels = pixels + noise * torch.randn(NUM_POINTS, 2, generator=generator, dtype=torch.double)
    pixels[:wrong] = torch.tensor([640.0, 480.0]) * torch.rand(wrong, 2, generator=generator)
    return Features(pixels.float(), descriptors)


SAME = IntrinsicsHypothesis("same", intrinsics(), 0.0)
FREE = IntrinsicsHypothesis("free", intrinsics(700.0), 0.5, is_guess=True)


def errors_of(location: Location) -> tuple[float, float]:
    """Return the error of the rotation in degrees and of the position."""
    truth = g.invert(POSE)
    angle = g.rotation_angle(location.world_from_cam[:3, :3].T @ truth[:3, :3])
    return math.degrees(float(angle)), float((location.world_from_cam[:3, 3] - truth[:3, 3]).norm())


@pytest.mark.parametrize("hypothesis", [SAME, FREE])
def test_exact_matches_give_the_exact_camera(hypothesis: IntrinsicsHypothesis) -> None:
    location = localize(make_query(), SIZE, make_views(), [hypothesis])
    degrees, distance = errors_of(location)
    assert degrees < 1e-3
    assert distance < 1e-3
    torch.testing.assert_close(location.intrinsics, intrinsics(), rtol=1e-4, atol=1e-3)
    assert location.num_inliers > 0.9 * NUM_POINTS


def test_wrong_matches_do_not_matter() -> None:
    location = localize(make_query(noise=0.5, wrong=180), SIZE, make_views(noise=0.5), [SAME])
    degrees, distance = errors_of(location)
    assert degrees < 0.1
    assert distance < 0.02
    assert location.inlier_fraction < 0.55


def test_errors_of_depth_do_not_matter_where_several_frames_see_a_point() -> None:
    """RANSAC uses the points of single depth maps and is off by more than the adjusted camera."""
    views = make_views(depth_error=0.15)
    degrees, distance = errors_of(localize(make_query(), SIZE, views, [SAME]))
    assert degrees < 0.02
    assert distance < 0.004
    alone = errors_of(localize(make_query(), SIZE, views[:1], [SAME]))
    assert alone[1] > 2 * distance


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_the_expected_errors_are_those_that_occur(noise: float) -> None:
    """Over ten pictures, the errors divided by the expected ones have a mean square of about one."""
    ratios = []
    for seed in range(10):
        location = localize(make_query(noise=noise, seed=seed), SIZE, make_views(noise=noise), [SAME])
        degrees, distance = errors_of(location)
        ratios.append([degrees / location.rotation_error, distance / location.position_error])
    square = torch.tensor(ratios).square().mean(dim=0)
    assert (square > 0.1).all()
    assert (square < 2.5).all()


def test_errors_of_the_cameras_of_the_scene_are_expected() -> None:
    """The camera of one view is turned by half a degree: its points contradict those of the others."""
    views = make_views()
    turn = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.0, math.radians(0.5), 0.0])), torch.zeros(3)).double()
    bad = [*views[:2], replace(views[2], cam_from_world=turn @ views[2].cam_from_world)]
    exact, inexact = (localize(make_query(), SIZE, given, [SAME]) for given in (views, bad))
    assert inexact.rotation_error > 2 * exact.rotation_error


def test_another_focal_length_must_win_significantly() -> None:
    """The scene's own focal length may be wrong by a few percent, which is no zoom."""
    zoomed = localize(make_query(noise=0.5, focal=650.0), SIZE, make_views(noise=0.5), [SAME, FREE])
    assert zoomed.hypothesis is FREE
    assert float(zoomed.intrinsics[0, 0]) == pytest.approx(650, rel=0.01)
    assert localize(make_query(noise=1.0), SIZE, make_views(noise=1.0), [SAME, FREE]).hypothesis is SAME
    slightly = make_query(noise=0.5, focal=520.0)
    assert localize(slightly, SIZE, make_views(noise=0.5), [SAME, FREE]).hypothesis is SAME


@pytest.mark.parametrize("seed", range(3))
def test_random_matches_locate_nothing(seed: int) -> None:
    with pytest.raises(NoSolution, match="agree"):
        localize(make_query(wrong=NUM_POINTS, seed=seed), SIZE, make_views(), [SAME, FREE])


def test_few_matches_locate_nothing() -> None:
    with pytest.raises(NoSolution, match="only 10 places match"):
        localize(make_query().take(slice(0, 10)), SIZE, make_views(), [SAME])
    with pytest.raises(NoSolution, match="no frame"):
        localize(make_query(), SIZE, [], [SAME])


def test_chance_is_told_from_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 matches, 24 are right: as many agree by chance in one of 10^35 pictures, which is refused here."""
    query = make_query(wrong=NUM_POINTS - 24)
    assert localize(query, SIZE, make_views(), [SAME]).num_inliers >= 24
    monkeypatch.setattr(localization, "MAX_LOG_FALSE_ALARMS", -45.0)
    with pytest.raises(NoSolution, match="may be chance"):
        localize(query, SIZE, make_views(), [SAME])


def test_a_camera_that_is_not_determined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points near the center of the picture determine the camera less well than points all over it."""
    points, _ = world()
    distances = (project(POSE, points, intrinsics()) - torch.tensor([320.0, 240.0])).norm(dim=1)
    query = make_query(noise=1.0).take(distances.argsort()[:30])
    location = localize(query, SIZE, make_views(noise=1.0), [SAME])
    everywhere = localize(make_query(noise=1.0), SIZE, make_views(noise=1.0), [SAME])
    assert location.rotation_error > 3 * everywhere.rotation_error
    assert location.coverage < 0.4 * everywhere.coverage
    monkeypatch.setattr(localization, "MAX_ROTATION_ERROR", 0.9 * location.rotation_error)
    with pytest.raises(NoSolution, match="do not determine the camera"):
        localize(query, SIZE, make_views(noise=1.0), [SAME])


# Features


def test_features_follow_a_shifted_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 40, 60, generator=generator)
    image = (255 * F.interpolate(coarse, (240, 360), mode="bicubic").clamp(0, 1)).to(torch.uint8)[0]
    one, other = detect_features(image[:, :, :320]), detect_features(image[:, :, 17:337])
    pairs = match_features(one, other)
    assert len(pairs) > 50
    shifts = one.pixels[pairs[:, 0]] - other.pixels[pairs[:, 1]]
    torch.testing.assert_close(shifts.median(dim=0).values, torch.tensor([17.0, 0.0]), rtol=0, atol=0.1)
    assert ((shifts - torch.tensor([17.0, 0.0])).norm(dim=1) < 1).double().mean() > 0.95


def test_pictures_without_texture_have_no_features() -> None:
    features = detect_features(torch.full((3, 64, 64), 120, dtype=torch.uint8))
    assert len(features) == 0
    assert match_features(features, features).shape == (0, 2)
