"""Clips of a textured square that moves in front of a textured wall, seen by resting and turning cameras."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from recon4d.geometry import pixel_grid, rigid, rotation_from_axis_angle
from recon4d.records import Cameras, Clip, Scene

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
