"""Tests of rotation-only cameras: rotations and focal length are recovered, and depth stays as predicted."""

import math
from dataclasses import replace

import pytest
import torch
from perturbed_scenes import synthetic_sample

from recon4d.geometry import (
    field_of_view,
    intrinsics_from_field_of_view,
    project,
    rigid,
    rotation_angle,
    rotation_from_axis_angle,
)
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine import refine_scene
from recon4d.refine.cameras import model_selection
from recon4d.refine.cameras.bundle_adjustment import LOSS_SCALES
from recon4d.refine.cameras.rotation_only import rotation_only_cameras

SIZE = (144, 192)
FRAMES = 6


def rotating_cameras(degrees: float, angle: float, frames: int = FRAMES) -> Cameras:
    """Return cameras at (1, 2, 3) that pan and tilt by `degrees` per frame, with a field of view of `angle` degrees."""
    steps = torch.arange(frames, dtype=torch.float64)[:, None] * math.radians(degrees)
    rotation = rotation_from_axis_angle(steps * torch.tensor([0.3, 1.0, 0.1], dtype=torch.float64))
    across = math.radians(angle)
    down = 2 * math.atan(math.tan(across / 2) * SIZE[0] / SIZE[1])
    center = torch.tensor([90.0, 75.0]).double()
    intrinsics = intrinsics_from_field_of_view(torch.tensor([across, down]).double(), center, *SIZE)
    centers = torch.tensor([1.0, 2.0, 3.0]).double().expand(frames, 3)
    return Cameras(rigid(rotation, centers), intrinsics.expand(frames, 3, 3))


def tracks_of(cameras: Cameras, count: int = 300, wrong: float = 0.0) -> FeatureTracks:
    """Return tracks of directions, observed where they are inside the image, with a share of `wrong` observations."""
    generator = torch.Generator().manual_seed(0)
    middle = cameras.world_from_cam[len(cameras.intrinsics) // 2, :3, :3]
    width = torch.tan(field_of_view(cameras.intrinsics[:1], *SIZE).amax())
    offsets = width * (torch.rand(count, 2, generator=generator).double() - 0.5)
    directions = torch.cat([offsets, torch.ones(count, 1)], dim=1).double() @ middle.T
    in_camera = torch.einsum("tji,kj->tki", cameras.world_from_cam[:, :3, :3], directions)
    pixels = project(in_camera, cameras.intrinsics)
    inside = (in_camera[..., 2] > 0) & (pixels > 0).all(-1) & (pixels < torch.tensor([SIZE[1], SIZE[0]])).all(-1)
    anywhere = torch.rand(pixels.shape, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    is_wrong = torch.rand(inside.shape, generator=generator) < wrong
    pixels = torch.where(is_wrong[..., None], anywhere, pixels.float())
    kept = inside.sum(dim=0) >= 2
    return FeatureTracks(pixels[:, kept], inside[:, kept].float())


def predicted(cameras: Cameras, zoom: float = 1.0) -> Cameras:
    """Imitate a prediction: rotations and positions with errors, and focal lengths `zoom` times as long."""
    generator = torch.Generator().manual_seed(1)
    frames = len(cameras.intrinsics)
    axes, ways = 0.03 * torch.randn(2, frames, 3, generator=generator).double()
    axes[0] = ways[0] = 0
    centers = cameras.centers + ways
    rotation = cameras.world_from_cam[:, :3, :3] @ rotation_from_axis_angle(axes)
    return Cameras(rigid(rotation, centers), cameras.intrinsics * torch.tensor([zoom, zoom, 1.0])).to(
        dtype=torch.float32
    )


def scene_of(cameras: Cameras, zoom: float = 1.0) -> Scene:
    """Return a predicted scene with these cameras and the depth of another scene."""
    scene = replace(synthetic_sample(4).scene, tracks=None).resized(*SIZE).frames(range(len(cameras.intrinsics)))
    return scene.with_cameras(predicted(cameras, zoom))


def rotation_errors(found: Cameras, truth: Cameras) -> torch.Tensor:
    """Return the error of each camera's rotation relative to the first, in degrees."""
    turned, expected = (
        one.world_from_cam[:1, :3, :3].double().transpose(1, 2) @ one.world_from_cam[:, :3, :3].double()
        for one in (found, truth)
    )
    return rotation_angle(turned.transpose(1, 2) @ expected).rad2deg()


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_rotations_and_focal_length_are_recovered_jointly(zoom: float, wrong: float) -> None:
    truth = rotating_cameras(degrees=4, angle=55)
    start = predicted(truth, zoom)
    assert rotation_errors(start, truth).max() > 1
    found = rotation_only_cameras(start, tracks_of(truth, wrong=wrong), SIZE, True, LOSS_SCALES)
    assert rotation_errors(found, truth).max() < 0.01
    torch.testing.assert_close(found.intrinsics, truth.intrinsics, rtol=2e-3, atol=1e-2)
    torch.testing.assert_close(found.centers, truth.centers[:1].expand(FRAMES, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.world_from_cam[0], start.world_from_cam[0].double(), rtol=0, atol=1e-6)


def test_the_focal_length_does_not_change_if_it_is_not_refined() -> None:
    truth = rotating_cameras(degrees=4, angle=55)
    found = rotation_only_cameras(predicted(truth), tracks_of(truth), SIZE, False, LOSS_SCALES)
    torch.testing.assert_close(found.intrinsics, truth.intrinsics, rtol=1e-6, atol=0)
    assert rotation_errors(found, truth).max() < 0.01


def test_focal_lengths_stay_plausible() -> None:
    """The true field of view is 12 degrees; the smallest plausible one needs larger rotations for the same pixels."""
    truth = rotating_cameras(degrees=0.8, angle=12)
    found = rotation_only_cameras(predicted(truth, zoom=0.3), tracks_of(truth), SIZE, True, LOSS_SCALES)
    angle = float(field_of_view(found.intrinsics[:1], *SIZE).amax().rad2deg())
    assert 20 <= angle < 23
    turned = rotation_angle(found.world_from_cam[0, :3, :3].T @ found.world_from_cam[-1, :3, :3]).rad2deg()
    assert turned > 6  # 4 degrees of 12, as 6.7 of 20


def test_a_frame_without_tracks_does_not_rotate() -> None:
    truth = rotating_cameras(degrees=4, angle=55)
    tracks, start = tracks_of(truth), predicted(truth)
    tracks.visibility[3] = 0
    tracks = FeatureTracks(tracks.pixels[:, tracks.visibility.any(0)], tracks.visibility[:, tracks.visibility.any(0)])
    found = rotation_only_cameras(start, tracks, SIZE, True, LOSS_SCALES)
    torch.testing.assert_close(found.world_from_cam[3, :3, :3], start.world_from_cam[3, :3, :3].double())
    others = [0, 1, 2, 4, 5]
    assert rotation_errors(found, truth)[others].max() < 0.01


@pytest.mark.parametrize(("degrees", "angle", "zoom"), [(4, 55, 0.8), (0.0, 60, 1.0), (1, 25, 0.35)])
def test_a_rotating_camera_is_not_mistaken_for_a_moving_one(degrees: float, angle: float, zoom: float) -> None:
    """The last case is a long focal length aimed at a distant object, which resembles a moving camera."""
    truth = rotating_cameras(degrees, angle)
    scene = scene_of(truth, zoom)
    tracks = tracks_of(truth)
    noise = 0.05 * torch.randn(tracks.pixels.shape, generator=torch.Generator().manual_seed(2))
    refinement = refine_scene(scene, FeatureTracks(tracks.pixels + noise, tracks.visibility))
    assert refinement.is_accepted
    assert refinement.is_rotation_only
    motion = "only rotates" if degrees else "does not move"
    assert f"the camera {motion}, which determines no depth" in str(refinement)
    cameras = refinement.scene.cameras
    assert rotation_errors(cameras, truth).max() < 0.2
    assert (cameras.centers - cameras.centers[0]).norm(dim=-1).max() < 1e-5
    torch.testing.assert_close(refinement.scene.depths, scene.depths)
    assert math.isnan(refinement.depth_error_after)
    # Without rotation, nothing determines the focal length, which stays as predicted.
    expected = truth if degrees else scene.cameras
    torch.testing.assert_close(cameras.intrinsics.double(), expected.intrinsics.double(), rtol=0.05, atol=0.5)


def test_small_rotations_do_not_justify_another_focal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = rotating_cameras(degrees=0.05, angle=55)
    scene, tracks = scene_of(truth, zoom=0.85), tracks_of(truth)
    noise = 0.05 * torch.randn(tracks.pixels.shape, generator=torch.Generator().manual_seed(2))
    noisy = FeatureTracks(tracks.pixels + noise, tracks.visibility)
    original = model_selection.SIGNIFICANCE, model_selection.MIN_ROTATION_ONLY_GAIN
    for significance, min_gain in (original, (0.0, original[1]), (original[0], 0.0)):
        monkeypatch.setattr(model_selection, "SIGNIFICANCE", significance)
        monkeypatch.setattr(model_selection, "MIN_ROTATION_ONLY_GAIN", min_gain)
        kept = refine_scene(scene, noisy).scene.cameras
        torch.testing.assert_close(kept.intrinsics, scene.cameras.intrinsics)
    monkeypatch.setattr(model_selection, "SIGNIFICANCE", 0.0)
    changed = refine_scene(scene, noisy).scene.cameras
    assert changed.intrinsics[0, 0, 0] > 1.05 * kept.intrinsics[0, 0, 0]
