"""Scenes with few tracks, by hand and at random, for tests of track metrics."""

from dataclasses import replace

import torch
from scenes import make_scene
from scored import with_tracks

from recon4d.records import Cameras, Scene, Tracks


def scene_of(
    points: torch.Tensor,
    visibility: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    anchors: tuple[int, ...] = (0,),
    pixels: torch.Tensor | None = None,
    metres_per_unit: float = 1.0,
) -> Scene:
    """Create a scene with tracks of shape (anchor, time, query, 3), static cameras at the origin and no known depth."""
    num_frames, num_queries = points.shape[1:3]
    scene = make_scene(num_frames, metres_per_unit=metres_per_unit)
    ones = torch.ones(points.shape[:-1])
    if pixels is None:
        pixels = torch.stack([torch.arange(num_queries) * 2.0 + 0.6, torch.arange(num_queries) * 1.3 + 0.7], dim=-1)
    return replace(
        scene,
        cameras=Cameras(torch.eye(4).expand(num_frames, 4, 4), scene.cameras.intrinsics),
        depth_confidence=torch.zeros_like(scene.depths),
        point_confidence=torch.zeros_like(scene.depths),
        tracks=Tracks(
            points=points,
            visibility=ones if visibility is None else visibility,
            confidence=ones if confidence is None else confidence,
            anchors=torch.tensor(anchors),
            pixels=pixels.expand(points.shape[0], -1, -1),
        ),
    )


def by_hand() -> tuple[Scene, Scene]:
    """Create three tracks over four frames.

    A stays at (0, 0, 4), B stays at (3, 0, 4), and C moves by 1 per frame from (0, 0, 2).
    """
    static = torch.tensor([[[0.0, 0.0, 4.0], [3.0, 0.0, 4.0]]]).expand(4, 2, 3)
    dynamic = torch.tensor([0.0, 0.0, 2.0]) + torch.arange(4.0)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    true = torch.cat([static, dynamic], dim=1)[None]
    predicted = true.clone()
    predicted[0, 3, 0, 0] += 0.2
    predicted[0, 2, 2, 1] += 0.4
    predicted[0, 3, 2, 1] += 0.6
    visibility = torch.ones(1, 4, 3)
    visibility[0, 2:, 2] = 0
    confidence = torch.ones(1, 4, 3)
    confidence[0, 1, 1] = 0
    predicted_visibility = visibility.clone()
    predicted_visibility[0, 2, 2] = 1
    predicted_visibility[0, 1, 0] = 0.5
    return scene_of(predicted, predicted_visibility, confidence * 2), scene_of(true, visibility)


def random_scenes(seed: int, frames: int = 5, queries: int = 6) -> tuple[Scene, Scene]:
    """Create sparse dynamic true tracks of two anchors, partly occluded and unknown, and a noisy prediction."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    start = noise(2, 1, queries, 3) + torch.tensor([0.0, 0.0, 4.0])
    true = start + (0.2 * noise(2, frames, queries, 3)).cumsum(dim=1)
    confidence = (noise(2, frames, queries) > -1).float()
    confidence[0, 0], confidence[1, 2] = 1, 1
    visibility = (noise(2, frames, queries) > 0).float() * confidence
    truth = scene_of(true, visibility, confidence, (0, 2))
    predicted = (true + 0.3 * noise(2, frames, queries, 3)) / 2
    found = (noise(2, frames, queries) > -1.5).float() * 3
    prediction = with_tracks(
        truth, points=predicted, visibility=torch.rand(2, frames, queries, generator=generator), confidence=found
    )
    return prediction, truth
