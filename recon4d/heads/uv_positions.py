"""Sinusoidal encodings of image position, added to feature maps of any size and aspect ratio (VGGT)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

STRENGTH = 0.1
"""Factor of the encoding when it is added (VGGT)."""
BASE = 100.0
"""Frequencies decrease from 1 toward 1 / BASE, in radians per half diagonal of the image (VGGT)."""


def add_uv_positions(
    maps: Float[Tensor, "n channels rows columns"], aspect: float
) -> Float[Tensor, "n channels rows columns"]:
    """Add position encodings to feature maps.

    Args:
        maps: Feature maps; the number of channels is a multiple of 4.
        aspect: Width over height of the image.

    Returns:
        Maps with the encoding added.
    """
    table = uv_table(maps.shape[1], (maps.shape[2], maps.shape[3]), aspect, maps.device)
    return maps + (STRENGTH * table).to(maps.dtype)


def uv_table(
    channels: int, size: tuple[int, int], aspect: float, device: torch.device | None = None
) -> Float[Tensor, "channels rows columns"]:
    """Compute position encodings: sine and cosine of the horizontal, then of the vertical position.

    Each of the four takes a quarter q of the channels, with frequencies BASE^(-k / q), k = 0 ... q - 1. Positions are
    cell centers, relative to the image center, in units of half the image diagonal. One row and one column are computed
    in float64 on the CPU, because not every device supports it, and repeated over the grid.

    Args:
        channels: Number of channels; a multiple of 4.
        size: Number of rows and columns of cells.
        aspect: Width over height of the image.
        device: Device of the result.

    Returns:
        The encodings in float32.
    """
    assert channels % 4 == 0
    rows, columns = size
    half_width = aspect / math.hypot(aspect, 1.0)
    half_height = 1.0 / math.hypot(aspect, 1.0)
    across = _waves(half_width, columns, channels // 4).to(device)
    down = _waves(half_height, rows, channels // 4).to(device)
    return torch.cat([across[:, None, :].expand(-1, rows, -1), down[:, :, None].expand(-1, -1, columns)])


def _waves(half_side: float, cells: int, frequencies: int) -> Float[Tensor, "waves cells"]:
    """Return sines, then cosines, at the centers of `cells` equal parts of the interval [-half_side, half_side]."""
    centers = half_side * ((2 * torch.arange(cells, dtype=torch.float64) + 1) / cells - 1)
    angular = BASE ** (-torch.arange(frequencies, dtype=torch.float64) / frequencies)
    angles = angular[:, None] * centers
    return torch.cat([angles.sin(), angles.cos()]).float()
