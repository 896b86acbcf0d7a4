"""Scenes with given or noisy depth, for tests of depth metrics."""

from dataclasses import replace

import torch
from scenes import make_scene

from recon4d.eval.metrics.score import Score
from recon4d.records import Scene


def with_depths(values: list[float], metres_per_unit: float = torch.nan) -> Scene:
    """Create a scene with known depths only at the first pixels of the last frame; all other depths are NaN."""
    scene = make_scene(metres_per_unit=metres_per_unit)
    depths, confidence = torch.full_like(scene.depths, torch.nan), torch.zeros_like(scene.depths)
    depths[-1].view(-1)[: len(values)] = torch.tensor(values)
    confidence[-1].view(-1)[: len(values)] = 1
    return replace(scene, depths=depths, depth_confidence=confidence)


def noisy(truth: Scene, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.exp(0.3 * torch.randn(truth.depths.shape, generator=generator))
    is_known = torch.rand(truth.depths.shape, generator=generator) > 0.2
    return replace(truth, depths=0.7 * truth.depths * noise - 0.2, depth_confidence=3.5 * is_known)


def partly_known(truth: Scene, seed: int = 5) -> Scene:
    known = torch.rand(truth.depths.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    return replace(
        truth, depths=torch.where(known, truth.depths, torch.nan), depth_confidence=known.to(truth.depths.dtype)
    )


def values(scores: tuple[Score, ...]) -> dict[str, float]:
    return {score.metric: score.value for score in scores}
