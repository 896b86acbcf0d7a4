"""Scenes with given, random or noisy cameras, for tests of camera metrics."""

import dataclasses

import torch
from scenes import make_scene
from scored import scores_by_name
from torch import Tensor

from recon4d import geometry as g
from recon4d.eval.metrics.score import Score
from recon4d.records import Scene


def with_cameras(scene: Scene, world_from_cam: Tensor, intrinsics: Tensor | None = None) -> Scene:
    cameras = dataclasses.replace(
        scene.cameras,
        world_from_cam=world_from_cam,
        intrinsics=scene.cameras.intrinsics if intrinsics is None else intrinsics,
    )
    return dataclasses.replace(scene, cameras=cameras)


def cameras_at(centers: list[list[float]], rotations: list[list[float]] | None = None) -> Tensor:
    """Create ``world_from_cam`` with these centers and rotations, given as axis-angle vectors in degrees."""
    angles = torch.tensor(rotations if rotations is not None else [[0.0, 0.0, 0.0]] * len(centers), dtype=torch.float64)
    return g.rigid(g.rotation_from_axis_angle(angles.deg2rad()), torch.tensor(centers, dtype=torch.float64)).float()


def scene_at(centers: list[list[float]], rotations: list[list[float]] | None = None) -> Scene:
    return with_cameras(make_scene(len(centers)), cameras_at(centers, rotations))


def without_frames(scene: Scene, *numbers: int) -> Scene:
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[list(numbers)] = torch.nan
    return with_cameras(scene, world_from_cam)


def without_depth(scene: Scene) -> Scene:
    return dataclasses.replace(scene, depth_confidence=torch.zeros_like(scene.depths))


def random_cameras(frames: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = g.rotation_from_axis_angle(torch.randn(frames, 3, generator=generator))
    return g.rigid(rotation, torch.randn(frames, 3, generator=generator))


def noisy(world_from_cam: Tensor, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = g.rotation_from_axis_angle(size * torch.randn(len(world_from_cam), 3, generator=generator))
    shift = size * torch.randn(len(world_from_cam), 3, generator=generator)
    return g.rigid(rotation @ world_from_cam[:, :3, :3], world_from_cam[:, :3, 3] + shift)


def value(scores: tuple[Score, ...], metric: str) -> float:
    return scores_by_name(scores)[metric].value
