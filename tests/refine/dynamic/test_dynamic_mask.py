"""Tests of the mask of what moves: textured squares over textured backgrounds, seen by resting and turning cameras."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from moving_square import FRAMES, SPEED, filmed, turning_cameras

from recon4d.geometry import rigid
from recon4d.records import Cameras
from recon4d.refine.dynamic.background import background_evidence
from recon4d.refine.dynamic.dynamic_mask import MOVING_LOG_ODDS, find_dynamic_pixels
from recon4d.refine.dynamic.residual_flow import residual_flow


def overlap(dynamic: torch.Tensor | None, mask: torch.Tensor) -> float:
    assert dynamic is not None
    found = dynamic > 0.5
    return float((found & mask).sum() / (found | mask).sum())


@pytest.mark.parametrize("degrees", [0.0, 1.5])
@pytest.mark.parametrize("is_rotation_only", [False, True])
def test_a_square_that_moves_is_cut_out(degrees: float, is_rotation_only: bool) -> None:
    clip, scene, mask = filmed(degrees)
    rough = F.max_pool2d(mask.float(), 17, 1, 8)  # a network's mask spreads over the surroundings
    scene = replace(scene, dynamic=0.3 + 0.4 * rough)
    assert overlap(find_dynamic_pixels(clip, scene, None, is_rotation_only), mask) > 0.65


def test_nothing_moves_in_a_static_scene_whatever_the_network_says() -> None:
    clip, scene, _ = filmed(0.0, speed=0)
    noise = torch.randn(clip.images.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(clip, images=(clip.images + 3 * noise).round().clamp(0, 255).byte())
    moving = find_dynamic_pixels(noisy, replace(scene, dynamic=torch.full_like(scene.dynamic, 0.95)), None)
    assert moving is not None
    assert not (moving > 0.5).any()


def test_wrong_cameras_tell_nothing_about_motion() -> None:
    clip, scene, _ = filmed(0.0)
    wrong = replace(scene, cameras=turning_cameras(2.0))
    assert find_dynamic_pixels(clip, wrong, None) is None


def test_the_network_decides_where_flow_confirms_it() -> None:
    """A uniform square has no flow inside; its rim moves where the network expects motion."""
    clip, scene, mask = filmed(0.0)
    images = torch.where(mask[:, None], torch.tensor([200, 60, 40], dtype=torch.uint8)[:, None, None], clip.images)
    uniform = replace(clip, images=images)
    expected = replace(scene, dynamic=torch.where(mask, 0.9, 0.1))
    assert overlap(find_dynamic_pixels(uniform, expected, None), mask) > 0.75


def test_verified_pixels_are_static() -> None:
    clip, scene, mask = filmed(0.0)
    verified = torch.ones_like(mask)
    dynamic = find_dynamic_pixels(clip, scene, verified)
    assert dynamic is not None
    assert not (dynamic > 0.5).any()


def test_the_mask_has_the_size_of_the_scene() -> None:
    clip, scene, _ = filmed(0.0)
    dynamic = find_dynamic_pixels(clip, scene.resized(48, 64), None)
    assert dynamic is not None
    assert dynamic.shape == (FRAMES, 48, 64)


def test_residual_flow_is_small_on_the_background_and_large_on_what_moves() -> None:
    clip, scene, mask = filmed(1.5)
    flows = residual_flow(clip.images.float().mean(dim=1) / 255, scene)
    assert [len(flow.residuals) for flow in flows] == [2, 3, 4, 4, 3, 2]
    middle = flows[2]
    inner = -F.max_pool2d(-mask[2].float()[None], 9, 1, 4)[0] > 0.5
    outer = F.max_pool2d(mask[2].float()[None], 25, 1, 12)[0] < 0.5
    assert middle.is_reliable[:, outer].float().mean() > 0.8
    assert middle.residuals[:, outer][middle.is_reliable[:, outer]].quantile(0.9) < 0.5
    assert middle.residuals[:, inner][middle.is_reliable[:, inner]].median() > SPEED / 2


def test_motion_along_the_epipolar_line_counts_only_outside_of_possible_depths() -> None:
    """Cameras that move to the right see static surfaces move to the left, never to the right."""
    clip, scene, mask = filmed(0.0)
    centers = torch.arange(FRAMES)[:, None] * torch.tensor([0.05, 0, 0])
    moving = replace(
        scene, cameras=Cameras(rigid(torch.eye(3).expand(FRAMES, 3, 3), centers), scene.cameras.intrinsics)
    )
    inner = -F.max_pool2d(-mask[2].float()[None], 9, 1, 4)[0] > 0.5
    images = clip.images.float().mean(dim=1) / 255
    towards, away = residual_flow(images, moving)[2], residual_flow(images.flip(0), moving)[FRAMES - 3]
    right, left = (flow.residuals[:, inner][flow.is_reliable[:, inner]].median() for flow in (towards, away))
    assert right > 2
    assert right > 2 * left


def test_what_no_flow_decides_differs_from_the_background_of_a_turning_camera() -> None:
    """A uniform square has no flow inside, and the network does not know it."""
    clip, scene, mask = filmed(0.5, speed=15)
    images = torch.where(mask[:, None], torch.tensor([200, 60, 40], dtype=torch.uint8)[:, None, None], clip.images)
    uniform = replace(clip, images=images)
    evidence = background_evidence(uniform, scene.cameras, scene.size)
    assert evidence[mask].median() > 1
    assert evidence[~mask].median() < -1
    found = find_dynamic_pixels(uniform, scene, None, is_rotation_only=True)
    assert overlap(found, mask) > overlap(find_dynamic_pixels(uniform, scene, None), mask) + 0.1


def test_flicker_is_no_motion() -> None:
    clip, scene, mask = filmed(0.0)
    gains = torch.tensor([1.0, 0.75, 1.2, 0.85, 1.1, 0.7])[:, None, None, None]
    flickering = replace(clip, images=(gains * clip.images).round().clamp(0, 255).byte())
    assert background_evidence(flickering, scene.cameras, scene.size)[~mask].median() < -1
    assert overlap(find_dynamic_pixels(flickering, scene, None, is_rotation_only=True), mask) > 0.65


def test_matches_that_look_different_are_not_relied_on() -> None:
    """Flow of the noise of a screen often leads there and back, but the pictures do not confirm it."""
    clip, scene, _ = filmed(0.0, speed=0)
    images = clip.images.float().mean(dim=1) / 255
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    images[:, 20:70, 60:120] = 0.4 + 0.2 * noise[:, 20:70, 60:120]
    reliable = torch.stack([flow.is_reliable.float().mean(dim=0) for flow in residual_flow(images, scene)])
    assert reliable[:, 30:60, 70:110].mean() < 0.2
    assert reliable[:, :, :45].mean() > 0.9


def test_what_the_neighbors_do_not_show_is_no_evidence_of_motion() -> None:
    """The first frame of a fast pan is the only one that shows its left border."""
    clip, scene, _ = filmed(8.0, speed=0)
    dynamic = find_dynamic_pixels(clip, scene, None)
    assert dynamic is not None
    without_evidence = float(torch.sigmoid(torch.tensor(-MOVING_LOG_ODDS)))
    assert dynamic[0, :, :8].mean() < without_evidence + 0.02
