"""Periodic noise in three dimensions that patterns are cut from: clouds at several scales, cracks and cells."""

import functools
import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import Draws, mix

SIDE = 64
CELL = 8
"""Voxels across one Voronoi cell."""
VOLUMES = 8
"""How many there are; each world picks one."""


@functools.lru_cache(maxsize=4)
def noise_volumes(device: torch.device) -> Float[Tensor, "volume 4 side side side"]:
    """The same volumes on every device: clouds, other clouds, cracks between cells, and the cells' own gray.

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
    """The distance to the border between the two nearest points, and the nearest point's gray."""
    cells = SIDE // CELL
    inside, gray = draws.uniform(cells, cells, cells, 3), draws.uniform(cells, cells, cells)
    within = (torch.arange(CELL) + 0.5) / CELL
    # Voxels by cell and place in it, axis for axis: (volume, x cell, x, y cell, y, z cell, z).
    nearest = torch.full((VOLUMES, cells, CELL, cells, CELL, cells, CELL), torch.inf)
    second, gray_of_nearest = nearest, torch.zeros_like(nearest)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        back = tuple(-step for step in offset)
        points = inside.roll(back, dims=(1, 2, 3)) + torch.tensor(offset)
        # A squared distance is a sum over the axes, each of which knows the three cells and its own place alone.
        x, y, z = (points[..., None] - within).square().unbind(-2)
        x = x.permute(0, 1, 4, 2, 3)[:, :, :, :, None, :, None]
        y = y.permute(0, 1, 2, 4, 3)[:, :, None, :, :, :, None]
        distance = x + y + z[:, :, None, :, None, :, :]
        its_gray = gray.roll(back, dims=(1, 2, 3))[:, :, None, :, None, :, None]
        gray_of_nearest = torch.where(distance < nearest, its_gray, gray_of_nearest)
        second = torch.minimum(second, torch.maximum(nearest, distance))
        nearest = torch.minimum(nearest, distance)
    cube = (VOLUMES, SIDE, SIDE, SIDE)
    return (second.sqrt() - nearest.sqrt()).clamp(0, 1).reshape(cube), gray_of_nearest.reshape(cube)
