"""A wall filmed by cameras that move sideways, with clip and info, for tests of written files."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recon4d.io import SceneInfo
from recon4d.records import (
    Cameras,
    Clip,
    ClipSource,
    MotionSamples,
    Scene,
    Tracks,
    Trajectories,
)

NUM_FRAMES, HEIGHT, WIDTH = 3, 12, 16
DEPTH = 2.0
LEFT_COLOR, RIGHT_COLOR = (200, 30, 10), (10, 40, 220)
PANEL_WIDTH, GAP = 480, 4


def make_scene(num_frames: int = NUM_FRAMES) -> Scene:
    """Create a wall at z = 2, filmed by cameras that look along z and move one unit along x per frame."""
    world_from_cam = torch.eye(4).repeat(num_frames, 1, 1)
    world_from_cam[:, 0, 3] = torch.arange(num_frames)
    intrinsics = torch.tensor([[10.0, 0, WIDTH / 2], [0, 10.0, HEIGHT / 2], [0, 0, 1]]).repeat(num_frames, 1, 1)
    maps = (num_frames, HEIGHT, WIDTH)
    return Scene(
        cameras=Cameras(world_from_cam, intrinsics),
        depths=torch.full(maps, DEPTH),
        depth_confidence=torch.ones(maps),
        points=torch.randn(*maps, 3, generator=torch.Generator().manual_seed(0)),
        point_confidence=torch.zeros(maps),
        dynamic=torch.full(maps, math.nan),
        metres_per_unit=torch.tensor(math.nan),
    )


def make_tracks() -> Tracks:
    generator = torch.Generator().manual_seed(1)
    return Tracks(
        points=torch.randn(2, NUM_FRAMES, 5, 3, generator=generator),
        visibility=torch.rand(2, NUM_FRAMES, 5, generator=generator),
        confidence=torch.rand(2, NUM_FRAMES, 5, generator=generator),
        anchors=torch.tensor([0, 2]),
        pixels=torch.rand(2, 5, 2, generator=generator),
    )


def make_curves(num_curves: int = 4, samples: bool = True) -> Trajectories:
    """Create curves of tracked points, one rigid piece, and two samples over a longer interval."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Trajectories(
        control_points=random(num_curves, 5, 3),
        interval=torch.tensor([0.0, 0.2]),
        times=torch.arange(NUM_FRAMES) / 10,
        visibility=random(num_curves, NUM_FRAMES).sigmoid(),
        confidence=1 + random(num_curves).exp(),
        anchors=torch.arange(num_curves) % NUM_FRAMES,
        pixels=2 + random(num_curves, 2).sigmoid(),
        support=torch.tensor([0.0, 0.1]).expand(num_curves, 2).clone(),
        pieces=torch.arange(num_curves) % 2 - 1,
        world_from_piece=torch.eye(4).repeat(1, NUM_FRAMES, 1, 1),
        samples=MotionSamples(random(2, num_curves, 7, 3), torch.tensor([-0.1, 0.3])) if samples else None,
    )


def make_clip(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Clip:
    """Create pictures with one color in the left half and another in the right half."""
    images = torch.empty(num_frames, 3, height, width, dtype=torch.uint8)
    images[..., : width // 2] = torch.tensor(LEFT_COLOR, dtype=torch.uint8)[:, None, None]
    images[..., width // 2 :] = torch.tensor(RIGHT_COLOR, dtype=torch.uint8)[:, None, None]
    return Clip(images=images, times=torch.arange(num_frames) / 10)


def make_info(**changes) -> SceneInfo:
    source = ClipSource(path="street.mp4", names=("street_000000", "street_000010", "ünï"), numbers=(0, 10, 20))
    settings = {"anchors": [0, 2], "refine": False, "precision": "float32", "fps": 2.5, "limit": None, "frames": 3}
    info = SceneInfo("wide", True, "0.1.0", source, (1080, 1920), settings)  # type: ignore[arg-type]
    return replace(info, **changes)


def tensors_of(scene: Scene) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    scene.map(lambda tensor: (tensors.append(tensor), tensor)[1])
    return tensors


def names_in(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)
