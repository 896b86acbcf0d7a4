"""Random point clouds and a similarity transform in general position."""

import torch

from recon4d import geometry as g


def cloud(count: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example_sim3(scale: float = 2.5) -> torch.Tensor:
    rotation = g.rotation_from_axis_angle(torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64))
    return g.similarity(torch.tensor(scale).double(), rotation, torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
