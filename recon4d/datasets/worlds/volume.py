"""Periodic noise in three dimensions that patterns are cut from: clouds at several scales, cracks and cells."""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.worlds.randomness import Draws, mix

SIDE = 64
CELL = 8
"""Voxels across one Voronoi cell."""
VOLUMES = 8
"""How many there are; each world picks one."""


@functools.lru_cache(maxsize=4)
def noise_volumes(device: torch.device) -> Float[Tensor, "volume 4 side side side"]:
    """The same volumes on every device: clouds, other clouds, cracks between cells, and the cells' own grey.

    One voxel is repeated at the end of each axis, so that interpolation closes the period.
    """
    keys = mix(torch.arange(VOLUMES, dtype=torch.int64))
    draws = Draws(keys)
    clouds = [_clouds(draws) for _ in range(2)]
    volumes = torch.stack([*clouds, *_voronoi(draws)], dim=1)
    for axis in (2, 3, 4):
        volumes = torch.cat([volumes, volumes.narrow(axis, 0, 1)], dim=axis)
    return volumes.to(device)


def look_up(
    volumes: Float[Tensor, "batch 4 side side side"], positions: Float[Tensor, "batch time n 3"]
) -> Float[Tensor, "batch time n 4"]:
    """Noise at positions in cells (one period is SIDE / CELL of them)."""
    period = positions * (CELL / SIDE)
    wrapped = 2 * (period - period.floor()) - 1
    values = F.grid_sample(volumes, wrapped[:, :, :, None], align_corners=True)
    return values[..., 0].permute(0, 2, 3, 1)


def _clouds(draws: Draws) -> Float[Tensor, "volume side side side"]:
    """Sums of smooth noise whose detail doubles and fades (fractal Brownian motion)."""
    total, weight, height = torch.zeros(len(draws.keys), SIDE, SIDE, SIDE), 0.0, 1.0
    for lattice in (8, 16, 32, 64):
        values = draws.uniform(lattice, lattice, lattice) - 0.5
        for axis in (1, 2, 3):
            values = _upsample(values, axis)
        total, weight, height = total + height * values, weight + height**2, 0.6 * height
    return (1.6 * total / weight**0.5 + 0.5).clamp(0, 1)


def _upsample(values: Tensor, axis: int) -> Tensor:
    """One periodic axis at SIDE samples, with smooth steps between lattice points."""
    lattice = values.shape[axis]
    place = torch.arange(SIDE) / (SIDE // lattice)
    below = place.floor().long()
    share = place - below
    share = (share * share * (3 - 2 * share)).reshape([-1 if i == axis else 1 for i in range(4)])
    one, other = values.index_select(axis, below), values.index_select(axis, (below + 1) % lattice)
    return one + (other - one) * share


def _voronoi(draws: Draws) -> tuple[Tensor, Tensor]:
    """The distance to the border between the two nearest points, and the nearest point's grey."""
    cells = SIDE // CELL
    inside, grey = draws.uniform(cells, cells, cells, 3), draws.uniform(cells, cells, cells)
    axis = torch.arange(SIDE)
    voxel = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    position, home = (voxel + 0.5) / CELL, voxel // CELL
    distances, greys = [], []
    offsets = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3)
    for offset in offsets:
        cell = home + offset
        x, y, z = (cell % cells).unbind(-1)
        distances.append((inside[:, x, y, z] + cell - position).norm(dim=-1))
        greys.append(grey[:, x, y, z])
    nearest, which = torch.stack(distances).topk(2, dim=0, largest=False)
    return (nearest[1] - nearest[0]).clamp(0, 1), torch.stack(greys).gather(0, which[:1])[0]
