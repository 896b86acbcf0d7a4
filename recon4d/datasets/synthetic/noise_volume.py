"""Periodic 3D noise that patterns sample: clouds at several scales, cracks and cells."""

import functools
import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import CounterRng, mix

SIDE = 64
"""Side of a volume in voxels."""
CELL = 8
"""Side of a Voronoi cell in voxels."""
NUM_VOLUMES = 8
"""Number of different volumes; each scene uses one."""


@functools.lru_cache(maxsize=4)
def noise_volumes(device: torch.device) -> Float[Tensor, "volume 4 side side side"]:
    """Compute all noise volumes, which are the same on every device.

    The channels are two independent cloud noises, cracks between cells, and the gray value of the cell. The first voxel
    is repeated at the end of each axis, so that interpolation is periodic.

    Args:
        device: Device of the result.

    Returns:
        The volumes.
    """
    keys = mix(torch.arange(NUM_VOLUMES, dtype=torch.int64))
    rng = CounterRng(keys)
    clouds = [_clouds(rng) for _ in range(2)]
    volumes = torch.stack([*clouds, *_voronoi(rng)], dim=1)
    for axis in (2, 3, 4):
        volumes = torch.cat([volumes, volumes.narrow(axis, 0, 1)], dim=axis)
    return volumes.to(device)


def sample_noise(
    volumes: Float[Tensor, "batch 4 side side side"], positions: Float[Tensor, "batch time n 3"]
) -> Float[Tensor, "batch time n 4"]:
    """Sample noise trilinearly at periodic positions.

    Args:
        volumes: One volume per scene.
        positions: Positions in cells; the period is SIDE / CELL cells.

    Returns:
        The four channels at each position.
    """
    period = positions * (CELL / SIDE)
    wrapped = 2 * (period - period.floor()) - 1
    values = F.grid_sample(volumes, wrapped[:, :, :, None], align_corners=True)
    return values[..., 0].permute(0, 2, 3, 1)


def _clouds(rng: CounterRng) -> Float[Tensor, "volume side side side"]:
    """Sum smooth noise of doubling frequency and decreasing amplitude (fractal Brownian motion)."""
    total, weight, height = torch.zeros(len(rng.keys), SIDE, SIDE, SIDE), 0.0, 1.0
    for lattice in (8, 16, 32, 64):
        values = rng.uniform(lattice, lattice, lattice) - 0.5
        for axis in (1, 2, 3):
            values = _upsample(values, axis)
        total, weight, height = total + height * values, weight + height**2, 0.6 * height
    return (1.6 * total / weight**0.5 + 0.5).clamp(0, 1)


def _upsample(values: Tensor, axis: int) -> Tensor:
    """Upsample one periodic axis to `SIDE` samples with smoothstep interpolation."""
    lattice = values.shape[axis]
    place = torch.arange(SIDE) / (SIDE // lattice)
    below = place.floor().long()
    share = place - below
    share = (share * share * (3 - 2 * share)).reshape([-1 if i == axis else 1 for i in range(4)])
    one, other = values.index_select(axis, below), values.index_select(axis, (below + 1) % lattice)
    return one + (other - one) * share


def _voronoi(rng: CounterRng) -> tuple[Tensor, Tensor]:
    """Compute the difference of the distances to the two nearest points, and the gray value of the nearest point."""
    cells = SIDE // CELL
    inside, gray = rng.uniform(cells, cells, cells, 3), rng.uniform(cells, cells, cells)
    within = (torch.arange(CELL) + 0.5) / CELL
    # Voxels by cell and position in the cell, per axis: (volume, x cell, x, y cell, y, z cell, z).
    nearest = torch.full((NUM_VOLUMES, cells, CELL, cells, CELL, cells, CELL), torch.inf)
    second, gray_of_nearest = nearest, torch.zeros_like(nearest)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        back = tuple(-step for step in offset)
        points = inside.roll(back, dims=(1, 2, 3)) + torch.tensor(offset)
        # The squared distance is a sum over axes, and each summand depends on the cells and one voxel coordinate only.
        x, y, z = (points[..., None] - within).square().unbind(-2)
        x = x.permute(0, 1, 4, 2, 3)[:, :, :, :, None, :, None]
        y = y.permute(0, 1, 2, 4, 3)[:, :, None, :, :, :, None]
        distance = x + y + z[:, :, None, :, None, :, :]
        its_gray = gray.roll(back, dims=(1, 2, 3))[:, :, None, :, None, :, None]
        gray_of_nearest = torch.where(distance < nearest, its_gray, gray_of_nearest)
        second = torch.minimum(second, torch.maximum(nearest, distance))
        nearest = torch.minimum(nearest, distance)
    cube = (NUM_VOLUMES, SIDE, SIDE, SIDE)
    return (second.sqrt() - nearest.sqrt()).clamp(0, 1).reshape(cube), gray_of_nearest.reshape(cube)
