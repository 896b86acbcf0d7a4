"""Where a token stands in its picture: rotary positions between tokens, absolute positions added to them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines that rotate queries and keys, one row for each token."""

    cosine: Float[Tensor, "tokens width"]
    sine: Float[Tensor, "tokens width"]

    def tiled(self, times: int) -> "RotaryTable":
        """The table of `times` frames side by side: positions within a frame, none between frames."""
        return RotaryTable(self.cosine.repeat(times, 1), self.sine.repeat(times, 1))

    def rows(self, index: Int[Tensor, "chosen"] | slice) -> "RotaryTable":
        """The table of some of the tokens."""
        return RotaryTable(self.cosine[index], self.sine[index])


def rotary_table(
    grid: tuple[int, int],
    num_special: int,
    width: int,
    device: torch.device | None = None,
    base: float = 100.0,
) -> RotaryTable:
    """The 2D rotary table of `num_special` special tokens and then the patches of a (rows, columns) `grid`.

    The first half of the head's `width` turns with the row, the second half with the column, at frequencies
    base^(-i / (width / 4)) (Su et al. 2021; Heo et al. 2024). Special tokens stand at position 0, where the
    rotation is the identity, and patches from 1.
    """
    rows = torch.arange(grid[0], device=device, dtype=torch.float32) + 1
    columns = torch.arange(grid[1], device=device, dtype=torch.float32) + 1
    patches = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    positions = torch.cat([patches.new_zeros(num_special, 2), patches])
    quarter = width // 4
    frequencies = base ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    angles = positions[:, :, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return RotaryTable(angles.cos(), angles.sin())


class NormalizedRotary(nn.Module):
    """2D rotary positions over a picture that always spans the same angle, however many patches it has.

    Patch centers run from -1 to 1 along the longer side, and from -1 at the same scale along the other, so that the
    aspect is kept; a period of p turns once for a distance of p (DINOv3, Simeoni et al. 2025; VGGT-Omega). Periods are
    stored with the weights.
    """

    def __init__(self, width: int, base: float = 100.0) -> None:
        super().__init__()
        quarter = width // 4
        self.register_buffer("periods", base ** (torch.arange(quarter, dtype=torch.float32) / quarter))

    def forward(self, grid: tuple[int, int], num_special: int) -> RotaryTable:
        """The table of `num_special` tokens that do not turn, and then of the patches of a (rows, columns) `grid`."""
        periods = self.get_buffer("periods").float()
        rows, columns = (
            (2 * torch.arange(n, device=periods.device, dtype=torch.float32) + 1) / max(grid) - 1 for n in grid
        )
        patches = torch.cartesian_prod(rows, columns).reshape(-1, 2)
        angles = 2 * math.pi * patches[:, :, None] / periods
        angles = torch.cat([angles, angles], dim=-1).flatten(1)
        angles = torch.cat([angles.new_zeros(num_special, angles.shape[-1]), angles])
        return RotaryTable(angles.cos(), angles.sin())


def apply_rotary(
    features: Float[Tensor, "batch heads tokens width"], table: RotaryTable
) -> Float[Tensor, "batch heads tokens width"]:
    """Queries or keys turned by their positions, so that their products depend on differences of positions only."""
    row_a, row_b, column_a, column_b = features.chunk(4, dim=-1)
    quarter_turn = torch.cat([-row_b, row_a, -column_b, column_a], dim=-1)
    return features * table.cosine + quarter_turn * table.sine


class AbsolutePosition(nn.Module):
    """What a token must add to know where in the picture it is: rotary positions alone cannot say.

    Sines and cosines of the patch center, in half geometric-mean sides from the image center (a square spans -1 to
    1), through a linear layer that starts as a scaled identity, so any size and aspect has a position.
    """

    def __init__(self, width: int, scale: float = 0.4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.scale = scale
        octaves = torch.linspace(-1, 4, width // 4)
        self.register_buffer("frequencies", math.pi / 2 * 2.0**octaves, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The scaled identity."""
        nn.init.eye_(self.linear.weight)
        with torch.no_grad():
            self.linear.weight.mul_(self.scale)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "tokens width"]:
        """The position of every patch of a (rows, columns) `grid`, row by row."""
        weight = self.linear.weight
        side = math.sqrt(grid[0] * grid[1])
        rows, columns = (
            (torch.arange(n, device=weight.device, dtype=weight.dtype) + 0.5 - n / 2) * (2 / side) for n in grid
        )
        centers = torch.cartesian_prod(rows, columns).reshape(-1, 2)
        angles = (centers[:, :, None] * self.get_buffer("frequencies").to(weight.dtype)).flatten(1)
        return self.linear(torch.cat([angles.sin(), angles.cos()], dim=-1))
