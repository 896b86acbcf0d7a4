"""Positional encodings of patch tokens: 2D rotary encodings and an additive absolute encoding."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines that rotate queries and keys."""

    cosine: Float[Tensor, "tokens width"]
    """Cosine of the rotation angle of each channel, one row per token."""
    sine: Float[Tensor, "tokens width"]
    """Sine of the rotation angle of each channel, one row per token."""

    def tiled(self, num_frames: int) -> "RotaryTable":
        """Repeat the table for the concatenated tokens of several frames.

        Args:
            num_frames: Number of frames.

        Returns:
            A table in which equal positions of different frames have equal rows.
        """
        return RotaryTable(self.cosine.repeat(num_frames, 1), self.sine.repeat(num_frames, 1))

    def rows(self, index: Int[Tensor, "selected"] | slice) -> "RotaryTable":
        """Select tokens.

        Args:
            index: Indices of tokens, or a slice.

        Returns:
            The table of these tokens.
        """
        return RotaryTable(self.cosine[index], self.sine[index])


def rotary_table(
    grid: tuple[int, int],
    num_special: int,
    width: int,
    device: torch.device | None = None,
    base: float = 100.0,
) -> RotaryTable:
    """Compute the 2D rotary encoding (RoPE) of special tokens followed by patch tokens.

    The first half of the channels encodes the row, the second half the column, with frequencies base^(-i / (width / 4))
    (Su et al. 2021; Heo et al. 2024). Special tokens have position 0, where the rotation is the identity; patch
    positions start at 1.

    Args:
        grid: Number of patch rows and columns.
        num_special: Number of special tokens before the patch tokens.
        width: Number of channels per head, a multiple of 4.
        device: Device of the table; None is the default device.
        base: Ratio of the highest to the (extrapolated) lowest frequency.

    Returns:
        The table, with patch tokens in row-major order.
    """
    rows = torch.arange(grid[0], device=device, dtype=torch.float32) + 1
    columns = torch.arange(grid[1], device=device, dtype=torch.float32) + 1
    patch_positions = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    positions = torch.cat([patch_positions.new_zeros(num_special, 2), patch_positions])
    quarter = width // 4
    frequencies = base ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    angles = positions[:, :, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return RotaryTable(angles.cos(), angles.sin())


def shared_rotary_table(
    num_tokens: int, num_special: int, width: int, device: torch.device | None = None
) -> RotaryTable:
    """Compute the rotary encoding of `rotary_table` with all patch tokens at the same position, (1, 1).

    It distinguishes special tokens from patch tokens and encodes no position among patches (Depth Anything 3).

    Args:
        num_tokens: Number of special and patch tokens.
        num_special: Number of special tokens before the patch tokens.
        width: Number of channels per head, a multiple of 4.
        device: Device of the table; None is the default device.

    Returns:
        The table.
    """
    one_patch = rotary_table((1, 1), num_special, width, device)
    return one_patch.rows(torch.arange(num_tokens, device=device).clamp(max=num_special))


class NormalizedRotary(nn.Module):
    """2D rotary encoding of positions normalized by the image size (DINOv3, Simeoni et al. 2025; VGGT-Omega).

    The longer side of the image spans -1 to 1; the shorter side starts at -1 and has the same scale, which keeps the
    aspect ratio. A channel of period p completes one rotation per distance p. Periods are a buffer stored with the
    weights.

    Args:
        width: Number of channels per head, a multiple of 4.
        base: Ratio of the (extrapolated) longest to the shortest period.
    """

    def __init__(self, width: int, base: float = 100.0) -> None:
        super().__init__()
        quarter = width // 4
        self.register_buffer("periods", base ** (torch.arange(quarter, dtype=torch.float32) / quarter))

    def forward(self, grid: tuple[int, int], num_special: int) -> RotaryTable:
        """Compute the encoding of special tokens followed by patch tokens.

        Args:
            grid: Number of patch rows and columns.
            num_special: Number of special tokens, which are not rotated.

        Returns:
            The table, with patch tokens in row-major order.
        """
        periods = self.get_buffer("periods").float()
        rows, columns = (
            (2 * torch.arange(n, device=periods.device, dtype=torch.float32) + 1) / max(grid) - 1 for n in grid
        )
        patch_positions = torch.cartesian_prod(rows, columns).reshape(-1, 2)
        angles = 2 * math.pi * patch_positions[:, :, None] / periods
        angles = torch.cat([angles, angles], dim=-1).flatten(1)
        angles = torch.cat([angles.new_zeros(num_special, angles.shape[-1]), angles])
        return RotaryTable(angles.cos(), angles.sin())


def apply_rotary(
    features: Float[Tensor, "batch heads tokens width"], table: RotaryTable
) -> Float[Tensor, "batch heads tokens width"]:
    """Rotate queries or keys by their positions, so that their products depend on relative positions only.

    Args:
        features: Queries or keys.
        table: Rotary encoding of the tokens.

    Returns:
        The rotated features.
    """
    row_a, row_b, column_a, column_b = features.chunk(4, dim=-1)
    rotated = torch.cat([-row_b, row_a, -column_b, column_a], dim=-1)
    return features * table.cosine + rotated * table.sine


class AbsolutePosition(nn.Module):
    """Additive encoding of absolute patch positions, which rotary encodings cannot express.

    Sines and cosines of the patch center pass through a linear layer that is initialized to a scaled identity.
    Positions are relative to the image center, in units of half the geometric mean of both sides (a square spans -1 to
    1), so that any size and aspect ratio can be encoded.

    Args:
        width: Number of channels of the tokens, a multiple of 4.
        scale: Initial scale of the encoding.
    """

    def __init__(self, width: int, scale: float = 0.4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.scale = scale
        octaves = torch.linspace(-1, 4, width // 4)
        self.register_buffer("frequencies", math.pi / 2 * 2.0**octaves, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the linear layer to the scaled identity."""
        # Not nn.init.eye_, which imports torch._dynamo (a second) for weights on the meta device.
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight.diagonal().fill_(self.scale)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "tokens width"]:
        """Compute the encoding of every patch.

        Args:
            grid: Number of patch rows and columns.

        Returns:
            Encodings to add to the patch tokens, in row-major order.
        """
        weight = self.linear.weight
        side = math.sqrt(grid[0] * grid[1])
        rows, columns = (
            (torch.arange(n, device=weight.device, dtype=weight.dtype) + 0.5 - n / 2) * (2 / side) for n in grid
        )
        centers = torch.cartesian_prod(rows, columns).reshape(-1, 2)
        angles = (centers[:, :, None] * self.get_buffer("frequencies").to(weight.dtype)).flatten(1)
        return self.linear(torch.cat([angles.sin(), angles.cos()], dim=-1))
