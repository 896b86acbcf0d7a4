"""Random true tracks and noisy predictions, on which the published formulas of protocols are compared."""

from dataclasses import replace

import torch
from scenes import make_scene
from scored import tracks_of, with_tracks

from recon4d import geometry as g
from recon4d.records import Scene, Tracks


def protocol_scenes(seed: int, frames: int = 6, queries: int = 10) -> tuple[Scene, Scene]:
    """Create known true tracks in meters, the first half of them static, and a noisy prediction in another unit."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    start = noise(1, 1, queries, 3) + torch.tensor([0.0, 0.0, 5.0])
    steps = 0.1 * noise(1, frames, queries, 3)
    steps[:, :, : queries // 2] = 0
    steps[:, 0] = 0
    visibility = (noise(1, frames, queries) > -0.3).float()
    visibility[0, 0, :8] = 1
    visibility[0, 0, 8:] = 0
    truth = make_scene(frames, metres_per_unit=1.0)
    truth = replace(
        truth,
        tracks=Tracks(
            points=start + steps.cumsum(dim=1),
            visibility=visibility,
            confidence=torch.ones(1, frames, queries),
            anchors=torch.tensor([0]),
            pixels=torch.rand(1, queries, 2, generator=generator) * 10,
        ),
    )
    off = tracks_of(truth).points + 0.15 * noise(1, frames, queries, 3) * noise(1, 1, queries, 1)
    predicted_visibility = torch.rand(1, frames, queries, generator=generator)
    predicted = with_tracks(truth, points=off, visibility=predicted_visibility)
    return predicted.transformed(g.similarity(torch.tensor(0.5), torch.eye(3), torch.zeros(3))), truth
