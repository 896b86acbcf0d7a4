"""Interface of matchers: features of the cells of two frames in, one correspondence for each query cell out."""

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.records import full_precision

WINDOW_RADIUS = 2
"""Radius of the window around the best cell that determines the expected position, in cells. Hand-tuned."""
EXCLUDED_LOGIT = -1e9
"""Logit of pairs of cells that may not match: finite, so that a cell without any pair has no NaN gradient."""


class Assignment(NamedTuple):
    """Correspondences of the query cells of frame pairs; positions and lengths are in cells. See `Matches`."""

    positions: Float[Tensor, "pair cells 2"]
    """Position (x, y) in the target frame; the center of the first cell is (0.5, 0.5)."""
    mass: Float[Tensor, "pair cells"]
    """Certainty of the match, in [0, 1]."""
    standard_deviation: Float[Tensor, "pair cells"]
    """Standard deviation of the position."""
    log_partition: Float[Tensor, "pair cells"]
    """Log of the denominator of the probabilities of a query cell."""
    target_potentials: Float[Tensor, "pair target_cells"] | None = None
    """Addition to the logits of each target cell; None for matchers that treat query cells independently."""


class Matcher(Protocol):
    """Assigns the cells of query frames to the cells of target frames or to a dustbin.

    Log probability of a pair of cells = logit + target potential - log partition, of the dustbin = dustbin logit - log
    partition, where the logit is the product of the two features.
    """

    def __call__(
        self,
        query: Float[Tensor, "pair cells channels"],
        target: Float[Tensor, "pair target_cells channels"],
        dustbin_logit: Float[Tensor, ""],
        cell_grid: tuple[int, int],
        allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
    ) -> Assignment:
        """Match cells.

        Args:
            query: Features of the query cells, divided by the temperature.
            target: Unit features of the target cells.
            dustbin_logit: Logit of the dustbin, a scalar.
            cell_grid: Number of cell rows and columns of the frames.
            allowed: Pairs of cells that may match; None for all. A query cell without any has mass 0 and stays at its
                own position.

        Returns:
            The assignment, in at least single precision.
        """
        ...


def correlate(
    query: Float[Tensor, "pair cells channels"],
    target: Float[Tensor, "pair target_cells channels"],
    allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
) -> Float[Tensor, "pair cells target_cells"]:
    """Compute the logits of all pairs of cells in at least single precision.

    Args:
        query: Features of the query cells, divided by the temperature.
        target: Unit features of the target cells.
        allowed: Pairs of cells that may match; None for all.

    Returns:
        Products of features; `EXCLUDED_LOGIT` for excluded pairs.
    """
    logits = full_precision(query) @ full_precision(target).transpose(-1, -2)
    return logits if allowed is None else logits.masked_fill(~allowed, EXCLUDED_LOGIT)


def windowed_expectation(
    logits: Float[Tensor, "pair cells target_cells"],
    log_partition: Float[Tensor, "pair cells"],
    cell_grid: tuple[int, int],
    allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
) -> tuple[Float[Tensor, "pair cells 2"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"]]:
    """Compute the expected position inside the window around the best cell (windowed soft argmax).

    A second, distant peak cannot bias the position.

    Args:
        logits: Logits of all pairs of cells.
        log_partition: Log of the denominator of the probabilities of each query cell.
        cell_grid: Number of cell rows and columns.
        allowed: Pairs of cells that may match; None for all.

    Returns:
        Position (x, y) in cells, probability mass inside the window, and standard deviation in cells.
    """
    rows, columns, inside = _window(logits.detach().argmax(dim=-1), cell_grid)
    window_logits = logits.gather(-1, rows * cell_grid[1] + columns)
    probability = torch.exp(window_logits - log_partition[..., None]) * inside

    mass = probability.sum(dim=-1)
    weight = probability / mass.clamp(min=1e-6)[..., None]
    centers = torch.stack([columns, rows], dim=-1).to(weight.dtype) + 0.5
    position = (weight[..., None] * centers).sum(dim=-2)
    variance = (weight[..., None] * (centers - position[..., None, :]).square()).sum(dim=(-1, -2))
    if allowed is not None:
        position = torch.where(allowed.any(dim=-1)[..., None], position, own_centers(cell_grid, position))
    # The offset (a hundredth of a cell, squared) keeps the square root differentiable if one cell has all the mass.
    return position, mass, (variance + 1e-4).sqrt()


def own_centers(cell_grid: tuple[int, int], like: Tensor) -> Float[Tensor, "cells 2"]:
    """Compute the centers of the cells of a frame.

    Args:
        cell_grid: Number of cell rows and columns.
        like: Tensor of any shape that gives device and dtype.

    Returns:
        Positions (x, y) in cells, in row-major order.
    """
    return centers_of_cells(torch.arange(cell_grid[0] * cell_grid[1], device=like.device), cell_grid).to(like.dtype)


def centers_of_cells(cells: Int[Tensor, "*batch"], cell_grid: tuple[int, int]) -> Float[Tensor, "*batch 2"]:
    """Compute the centers of cells given by their row-major index.

    Args:
        cells: Indices of cells.
        cell_grid: Number of cell rows and columns.

    Returns:
        Positions (x, y) in cells.
    """
    return torch.stack([cells % cell_grid[1], cells // cell_grid[1]], dim=-1) + 0.5


def _window(best: Tensor, cell_grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and columns of the window around each best cell, clamped to the image, and which are inside it."""
    offset = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, device=best.device)
    row_offset, column_offset = torch.cartesian_prod(offset, offset).unbind(-1)
    rows = best[..., None] // cell_grid[1] + row_offset
    columns = best[..., None] % cell_grid[1] + column_offset
    inside = (rows >= 0) & (rows < cell_grid[0]) & (columns >= 0) & (columns < cell_grid[1])
    return rows.clamp(0, cell_grid[0] - 1), columns.clamp(0, cell_grid[1] - 1), inside
