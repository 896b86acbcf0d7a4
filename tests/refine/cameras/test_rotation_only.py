"""Cameras that turn on the spot are found with their lens, and then no depth is proven."""

import math
from dataclasses import replace

import pytest
import torch

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import (
    field_of_view,
    intrinsics_from_field_of_view,
    project,
    rigid,
    rotation_angle,
    rotation_from_axis_angle,
)
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine import RefineConfig, refine_scene
from recon4d.refine.cameras.rotation_only import rotation_only_cameras

SIZE = (144, 192)
FRAMES = 6
SCALES = RefineConfig.loss_scales


def turning(degrees: float, lens: float, frames: int = FRAMES) -> Cameras:
    """Cameras at (1, 2, 3) that pan and nod, `degrees` further each time, `lens` degrees wide."""
    steps = torch.arange(frames, dtype=torch.float64)[:, None] * math.radians(degrees)
    rotation = rotation_from_axis_angle(steps * torch.tensor([0.3, 1.0, 0.1], dtype=torch.float64))
    across = math.radians(lens)
    down = 2 * math.atan(math.tan(across / 2) * SIZE[0] / SIZE[1])
    center = torch.tensor([90.0, 75.0]).double()
    intrinsics = intrinsics_from_field_of_view(torch.tensor([across, down]).double(), center, *SIZE)
    centers = torch.tensor([1.0, 2.0, 3.0]).double().expand(frames, 3)
    return Cameras(rigid(rotation, centers), intrinsics.expand(frames, 3, 3))


def tracks_of(cameras: Cameras, count: int = 300, wrong: float = 0.0) -> FeatureTracks:
    """Directions from the cameras' place, seen where they are inside, a share of `wrong` anywhere else."""
    generator = torch.Generator().manual_seed(0)
    middle = cameras.world_from_cam[len(cameras.intrinsics) // 2, :3, :3]
    width = torch.tan(field_of_view(cameras.intrinsics[:1], *SIZE).amax())
    spread = width * (torch.rand(count, 2, generator=generator).double() - 0.5)
    directions = torch.cat([spread, torch.ones(count, 1)], dim=1).double() @ middle.T
    in_camera = torch.einsum("tji,kj->tki", cameras.world_from_cam[:, :3, :3], directions)
    pixels = project(in_camera, cameras.intrinsics)
    inside = (in_camera[..., 2] > 0) & (pixels > 0).all(-1) & (pixels < torch.tensor([SIZE[1], SIZE[0]])).all(-1)
    anywhere = torch.rand(pixels.shape, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    is_wrong = torch.rand(inside.shape, generator=generator) < wrong
    pixels = torch.where(is_wrong[..., None], anywhere, pixels.float())
    kept = inside.sum(dim=0) >= 2
    return FeatureTracks(pixels[:, kept], inside[:, kept].float())


def predicted(cameras: Cameras, zoom: float = 1.0) -> Cameras:
    """Like a network's answer: turned and moved a little wrong, with a lens `zoom` times as long."""
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
    """A predicted scene of those cameras, its depth a guess."""
    scene = replace(WORLDS_V1["8"].sample(4).scene, tracks=None).resized(*SIZE).frames(range(len(cameras.intrinsics)))
    return scene.with_cameras(predicted(cameras, zoom))


def rotation_errors(found: Cameras, truth: Cameras) -> torch.Tensor:
    """Degrees of each camera to the first."""
    turned, wanted = (
        one.world_from_cam[:1, :3, :3].double().transpose(1, 2) @ one.world_from_cam[:, :3, :3].double()
        for one in (found, truth)
    )
    return rotation_angle(turned.transpose(1, 2) @ wanted).rad2deg()


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_rotations_and_lens_are_found_together(zoom: float, wrong: float) -> None:
    truth = turning(degrees=4, lens=55)
    start = predicted(truth, zoom)
    assert rotation_errors(start, truth).max() > 1
    found = rotation_only_cameras(start, tracks_of(truth, wrong=wrong), SIZE, True, SCALES)
    assert rotation_errors(found, truth).max() < 0.01
    torch.testing.assert_close(found.intrinsics, truth.intrinsics, rtol=2e-3, atol=1e-2)
    torch.testing.assert_close(found.centers, truth.centers[:1].expand(FRAMES, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.world_from_cam[0], start.world_from_cam[0].double(), rtol=0, atol=1e-6)


def test_a_lens_that_is_to_stay_stays() -> None:
    truth = turning(degrees=4, lens=55)
    found = rotation_only_cameras(predicted(truth), tracks_of(truth), SIZE, False, SCALES)
    torch.testing.assert_close(found.intrinsics, truth.intrinsics, rtol=1e-6, atol=0)
    assert rotation_errors(found, truth).max() < 0.01


def test_no_lens_is_answered_that_hardly_exists() -> None:
    """Seen through 12 degrees: the longest lens that there plausibly is turns less for the same pixels."""
    truth = turning(degrees=0.8, lens=12)
    found = rotation_only_cameras(predicted(truth, zoom=0.3), tracks_of(truth), SIZE, True, SCALES)
    angle = float(field_of_view(found.intrinsics[:1], *SIZE).amax().rad2deg())
    assert 20 <= angle < 23
    turned = rotation_angle(found.world_from_cam[0, :3, :3].T @ found.world_from_cam[-1, :3, :3]).rad2deg()
    assert turned > 6  # 4 degrees of 12, as 6.7 of 20


def test_a_frame_without_tracks_does_not_turn() -> None:
    truth = turning(degrees=4, lens=55)
    tracks, start = tracks_of(truth), predicted(truth)
    tracks.visibility[3] = 0
    tracks = FeatureTracks(tracks.pixels[:, tracks.visibility.any(0)], tracks.visibility[:, tracks.visibility.any(0)])
    found = rotation_only_cameras(start, tracks, SIZE, True, SCALES)
    torch.testing.assert_close(found.world_from_cam[3, :3, :3], start.world_from_cam[3, :3, :3].double())
    others = [0, 1, 2, 4, 5]
    assert rotation_errors(found, truth)[others].max() < 0.01


@pytest.mark.parametrize(("degrees", "lens", "zoom"), [(4, 55, 0.8), (0.0, 60, 1.0), (1, 25, 0.35)])
def test_a_turning_camera_is_not_taken_for_one_that_moves(degrees: float, lens: float, zoom: float) -> None:
    """The last is a long lens that follows something far away: moving before something flat looks like it."""
    truth = turning(degrees, lens)
    scene = scene_of(truth, zoom)
    tracks = tracks_of(truth)
    noise = 0.05 * torch.randn(tracks.pixels.shape, generator=torch.Generator().manual_seed(2))
    refinement = refine_scene(scene, FeatureTracks(tracks.pixels + noise, tracks.visibility))
    assert refinement.accepted
    assert refinement.is_rotation_only
    assert "turning on the spot, which proves no depth" in str(refinement)
    cameras = refinement.scene.cameras
    assert rotation_errors(cameras, truth).max() < 0.2
    assert (cameras.centers - cameras.centers[0]).norm(dim=-1).max() < 1e-5
    torch.testing.assert_close(refinement.scene.depths, scene.depths)
    assert math.isnan(refinement.depth_after)
    # Without turning, nothing is told of the lens: it stays.
    wanted = truth if degrees else scene.cameras
    torch.testing.assert_close(cameras.intrinsics.double(), wanted.intrinsics.double(), rtol=0.05, atol=0.5)


def test_where_cameras_hardly_turn_another_lens_is_not_worth_it() -> None:
    truth = turning(degrees=0.05, lens=55)
    scene, tracks = scene_of(truth, zoom=0.85), tracks_of(truth)
    noise = 0.05 * torch.randn(tracks.pixels.shape, generator=torch.Generator().manual_seed(2))
    noisy = FeatureTracks(tracks.pixels + noise, tracks.visibility)
    for config in (RefineConfig(), RefineConfig(significance=0), RefineConfig(least_gain=0)):
        kept = refine_scene(scene, noisy, config).scene.cameras
        torch.testing.assert_close(kept.intrinsics, scene.cameras.intrinsics)
    changed = refine_scene(scene, noisy, RefineConfig(significance=0, least_gain=0)).scene.cameras
    assert changed.intrinsics[0, 0, 0] > 1.05 * kept.intrinsics[0, 0, 0]
