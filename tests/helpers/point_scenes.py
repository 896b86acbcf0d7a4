"""Scenes with curved or noisy point maps, for tests of point metrics."""

import dataclasses

import torch
from scenes import make_scene
from torch import Tensor

from recon4d.records import Scene


def noise(shape: tuple[int, ...], size: float, seed: int) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def curved(frames: int = 2, seed: int = 0) -> Scene:
    """Create a scene with a wavy surface, for which the alignment of point clouds is unique. Depths are unchanged."""
    scene = make_scene(frames, metres_per_unit=1.0)
    points = scene.points.clone()
    points[..., 2] += 0.2 * torch.sin(3 * points[..., 0]) * torch.cos(4 * points[..., 1] + seed)
    return dataclasses.replace(scene, points=points)


def with_noise(scene: Scene, size: float, seed: int = 0) -> Scene:
    return dataclasses.replace(scene, points=scene.points + noise(tuple(scene.points.shape), size, seed))


def with_known(scene: Scene, known: Tensor) -> Scene:
    """Return the scene with points only at known pixels; all others are NaN."""
    unknown = torch.where(known[..., None], scene.points, torch.nan)
    return dataclasses.replace(scene, points=unknown, point_confidence=known.float())
