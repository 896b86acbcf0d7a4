"""Tests of the mask of what moves: textured squares over textured backgrounds, seen by resting and turning cameras."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from recon4d.geometry import pixel_grid, rigid, rotation_from_axis_angle
from recon4d.records import Cameras, Clip, Scene
from recon4d.refine.dynamic.dynamic_mask import find_dynamic_pixels
from recon4d.refine.dynamic.residual_flow import residual_flow

HEIGHT, WIDTH, FRAMES, FOCAL = 96, 128, 6, 110.0
SIDE, SPEED = 28, 5
"""Side of the moving square and its motion per frame, in pixels."""


def texture(height: int, width: int, seed: int) -> torch.Tensor:
    """Return colors of shape (3, height, width) in [0, 1], with details of three to twenty pixels."""
    generator, total = torch.Generator().manual_seed(seed), torch.zeros(3, height, width)
    for detail in (3, 8, 20):
        noise = torch.rand(1, 3, height // detail + 2, width // detail + 2, generator=generator)
        total += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[0] / 3
    return (0.5 + 1.5 * (total - 0.5)).clamp(0, 1)


def turning_cameras(degrees: float) -> Cameras:
    """Return cameras that turn about the vertical axis by `degrees` per frame."""
    angles = torch.deg2rad(torch.tensor(degrees)) * torch.arange(FRAMES)
    rotations = torch.stack([rotation_from_axis_angle(torch.tensor([0.0, float(angle), 0.0])) for angle in angles])
    matrix = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Cameras(rigid(rotations, torch.zeros(FRAMES, 3)), matrix.expand(FRAMES, 3, 3).contiguous())


def filmed(degrees: float = 0.0, speed: int = SPEED) -> tuple[Clip, Scene, torch.Tensor]:
    """Film a distant background by a turning camera, with a square that moves through the picture.

    Returns the clip, its scene with a dynamic probability of one half everywhere, and the true mask of the square.
    """
    cameras = turning_cameras(degrees)
    background = texture(HEIGHT, 3 * WIDTH, 0)
    rays = torch.cat([pixel_grid(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH, 1)], dim=-1)
    matrix = cameras.intrinsics[0]
    images, masks = [], []
    for frame in range(FRAMES):
        # A wide picture of the background in the first camera, three times as wide as its own.
        target = rays @ (matrix @ cameras.world_from_cam[frame, :3, :3] @ torch.linalg.inv(matrix)).T
        place = target[..., :2] / target[..., 2:]
        coordinates = 2 * (place + torch.tensor([WIDTH, 0.0])) / torch.tensor([3 * WIDTH, HEIGHT]) - 1
        image = F.grid_sample(background[None], coordinates[None], padding_mode="reflection", align_corners=False)[0]
        left, top = 12 + speed * frame, 30
        mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        mask[top : top + SIDE, left : left + SIDE] = True
        image[:, top : top + SIDE, left : left + SIDE] = (
            0.3 + 0.7 * texture(SIDE, SIDE, 1) * torch.tensor([1, 0.3, 0.2])[:, None, None]
        )
        images.append(image)
        masks.append(mask)
    maps = torch.ones(FRAMES, HEIGHT, WIDTH)
    scene = Scene(cameras, 5 * maps, maps, torch.zeros(FRAMES, HEIGHT, WIDTH, 3), maps, 0.5 * maps, torch.tensor(1.0))
    clip = Clip((255 * torch.stack(images)).round().byte(), torch.arange(float(FRAMES)))
    return clip, replace(scene, points=scene.points_from_depth), torch.stack(masks)


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
