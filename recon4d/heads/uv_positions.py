"""Where in the picture a feature lies, as sines and cosines added to feature maps of any size and aspect."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

STRENGTH = 0.1
"""What the table is multiplied by where it is added (VGGT)."""
BASE = 100.0
"""Frequencies fall from 1 toward 1 / BASE, in radians per half diagonal of the picture."""


def add_uv_positions(
    maps: Float[Tensor, "n channels rows columns"], aspect: float
) -> Float[Tensor, "n channels rows columns"]:
    """`maps` of pictures whose width over height is `aspect`, told where each feature lies."""
    table = uv_table(maps.shape[1], (maps.shape[2], maps.shape[3]), aspect, maps.device)
    return maps + (STRENGTH * table).to(maps.dtype)


def uv_table(
    channels: int, size: tuple[int, int], aspect: float, device: torch.device | None = None
) -> Float[Tensor, "channels rows columns"]:
    """Sines, then cosines, of the horizontal position; then both of the vertical one: a quarter of `channels` each.

    Positions are of the centers of a (rows, columns) grid over the picture, whose half diagonal is 1 and whose origin
    is its center. A quarter of q channels has the frequencies BASE^(-k / q), k = 0 ... q - 1. float32, made in
    float64 on the CPU, since not every device has it: only a row and a column are computed, and repeated over the grid.
    """
    assert channels % 4 == 0
    rows, columns = size
    half_width = aspect / math.hypot(aspect, 1.0)
    half_height = 1.0 / math.hypot(aspect, 1.0)
    across = _waves(half_width, columns, channels // 4).to(device)
    down = _waves(half_height, rows, channels // 4).to(device)
    return torch.cat([across[:, None, :].expand(-1, rows, -1), down[:, :, None].expand(-1, -1, columns)])


def _waves(half_side: float, cells: int, frequencies: int) -> Float[Tensor, "waves cells"]:
    """Sines, then cosines, at the centers of `cells` equal parts of a side from -half_side to half_side."""
    centers = half_side * ((2 * torch.arange(cells, dtype=torch.float64) + 1) / cells - 1)
    angular = BASE ** (-torch.arange(frequencies, dtype=torch.float64) / frequencies)
    angles = angular[:, None] * centers
    return torch.cat([angles.sin(), angles.cos()]).float()
