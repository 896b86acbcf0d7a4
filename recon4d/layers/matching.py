"""Soft attention matching: where every small cell of one frame is seen in another, with how much certainty.

This is what makes geometry learnable from scratch: without it cameras and motion stay at zero. Cells are half a
patch wide. Unit features of two frames are correlated, a learned bin takes what has no match, and the position is the
expectation over a window about the best cell, so it is finer than a cell and differentiable.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon4d.records import TensorRecord, full_precision
from recon4d.records.configs import FILE_KEY

CELLS_PER_PATCH_SIDE = 2
WINDOW_RADIUS = 2
"""Cells on each side of the best one that count toward the expected position."""
NEIGHBORS = 3
"""First, previous and next frame by time: what every token is told about."""
MAX_LOGITS = 2**25
"""Correlations computed at once (128 MiB in float32); more pairs go in chunks."""


@dataclass(frozen=True)
class MatchingConfig:
    """The soft matching layer."""

    after_block: int = field(default=1, metadata={FILE_KEY: "after_pair"})
    """How many (frame, global) pairs of blocks the tokens pass before they are matched."""
    channels: int = 128
    temperature: float = 0.07
    """Initial temperature of the correlation; learned."""
    dustbin_logit: float = field(default=10.0, metadata={FILE_KEY: "no_match_logit"})
    """Initial logit of the no-match bin; learned."""


@dataclass(frozen=True, eq=False)
class Matches(TensorRecord):
    """For `pair` pairs of frames, where each cell of the query frame is in the target frame."""

    query_frames: Int[Tensor, "*batch pair"]
    target_frames: Int[Tensor, "*batch pair"]
    valid: Bool[Tensor, "*batch pair"]
    """False where there is no such pair (no previous frame, photos without an order); the rest is then zero."""
    positions: Float[Tensor, "*batch pair cell 2"]
    """Expected pixel (x, y) in the target frame."""
    mass: Float[Tensor, "*batch pair cell"]
    """Probability inside the window about the best cell."""
    standard_deviation: Float[Tensor, "*batch pair cell"]
    """Standard deviation inside that window, in pixels."""
    log_partition: Float[Tensor, "*batch pair cell"]
    """Log of the sum over all cells and the no-match bin; a match's log probability is its logit minus this."""


class Matching(nn.Module):
    """Cell features, their correlation between frames, and what tokens learn from the result."""

    def __init__(self, config: MatchingConfig, width: int, patch_size: int, eighth_channels: int) -> None:
        super().__init__()
        self.after_pair = config.after_block
        self.cell_size = patch_size / CELLS_PER_PATCH_SIDE
        cells = CELLS_PER_PATCH_SIDE**2
        self.from_tokens = nn.Linear(width, cells * config.channels)
        self.from_eighth = nn.Conv2d(eighth_channels, config.channels, 1) if eighth_channels else None
        self.project = nn.Sequential(
            nn.LayerNorm(config.channels),
            nn.Linear(config.channels, config.channels),
            nn.GELU(),
            nn.Linear(config.channels, config.channels),
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.no_match = nn.Parameter(torch.tensor(config.dustbin_logit))
        self.to_tokens = nn.Sequential(nn.Linear(NEIGHBORS * 4 * cells, 256), nn.GELU(), nn.Linear(256, width))

    def reset_parameters(self) -> None:
        """Larger weights than elsewhere: correlations and flows must matter from the first step."""
        for linear in (self.from_tokens, self.project[1], self.project[3]):
            nn.init.trunc_normal_(linear.weight, std=0.06)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.to_tokens[0].weight, std=0.3)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.to_tokens[2].weight, std=0.05)  # pyright: ignore[reportArgumentType]

    def features(
        self,
        tokens: Float[Tensor, "n tokens width"],
        eighth: Float[Tensor, "n eighth_channels eighth_height eighth_width"] | None,
        grid: tuple[int, int],
    ) -> Float[Tensor, "n cells channels"]:
        """Unit features of the cells of n frames, row by row, from tokens and the backbone's finer features."""
        maps = self.from_tokens(tokens).transpose(1, 2).unflatten(2, grid)
        maps = F.pixel_shuffle(maps, CELLS_PER_PATCH_SIDE)
        if self.from_eighth is not None:
            assert eighth is not None
            maps = maps + self.from_eighth(F.gelu(eighth))
        features = self.project(maps.flatten(2).transpose(1, 2))
        return F.normalize(full_precision(features), dim=-1)

    def match(
        self,
        features: Float[Tensor, "batch time cells channels"],
        query_frames: Int[Tensor, "batch pair"],
        target_frames: Int[Tensor, "batch pair"],
        valid: Bool[Tensor, "batch pair"],
        grid: tuple[int, int],
    ) -> Matches:
        """Match the cells of query frames to target frames; `grid` counts patches (rows, columns)."""
        num_cells = features.shape[2]
        flat = features.flatten(0, 1)
        offsets = features.shape[1] * torch.arange(features.shape[0], device=features.device)[:, None]
        queries, targets = (query_frames + offsets).flatten(), (target_frames + offsets).flatten()
        chunk = max(1, MAX_LOGITS // num_cells**2)
        scale = torch.exp(-full_precision(self.log_temperature))
        cell_grid = (grid[0] * CELLS_PER_PATCH_SIDE, grid[1] * CELLS_PER_PATCH_SIDE)
        with torch.autocast(features.device.type, enabled=False):
            parts = [
                soft_match(scale * flat[query], flat[target], full_precision(self.no_match), cell_grid)
                for query, target in zip(queries.split(chunk), targets.split(chunk), strict=True)
            ]
        positions, mass, spread, log_partition = (
            torch.where(_like(valid, values), values, torch.zeros_like(values))
            for values in (torch.cat(part).unflatten(0, valid.shape) for part in zip(*parts, strict=True))
        )
        return Matches(
            query_frames=query_frames,
            target_frames=target_frames,
            valid=valid,
            positions=positions * self.cell_size,
            mass=mass,
            standard_deviation=spread * self.cell_size,
            log_partition=log_partition,
        )

    def match_neighbors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        times: Float[Tensor, "batch time"],
        grid: tuple[int, int],
    ) -> Matches:
        """Every frame's cells in its first, previous and next frame by time: pairs (frame, neighbor)."""
        targets, valid = temporal_neighbors(times)
        queries = torch.arange(times.shape[1], device=times.device)[:, None].expand_as(targets)
        return self.match(features, queries.flatten(1), targets.flatten(1), valid.flatten(1), grid)

    def match_anchors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        anchors: Int[Tensor, "batch anchor"],
        grid: tuple[int, int],
    ) -> Matches:
        """Every anchor's cells in every frame: pairs (anchor, frame), the frame fastest."""
        time = features.shape[1]
        queries = anchors[:, :, None].expand(-1, -1, time).flatten(1)
        targets = torch.arange(time, device=features.device).expand(*anchors.shape, -1).flatten(1)
        return self.match(features, queries, targets, torch.ones_like(queries, dtype=torch.bool), grid)

    def flow_features(self, matches: Matches, grid: tuple[int, int]) -> Float[Tensor, "batch pair cells 4"]:
        """Displacement in an eighth of the picture's side, mass, and spread in cells; zero where there is no pair."""
        cells = cell_centers(grid, self.cell_size, matches.positions)
        side = math.sqrt(grid[0] * grid[1]) * CELLS_PER_PATCH_SIDE * self.cell_size
        flow = (matches.positions - cells) * (8 / side)
        features = torch.cat(
            [flow, matches.mass[..., None], matches.standard_deviation[..., None] / self.cell_size], dim=-1
        )
        return torch.where(_like(matches.valid, features), features, torch.zeros_like(features))

    def tell_tokens(self, matches: Matches, grid: tuple[int, int]) -> Float[Tensor, "batch time tokens width"]:
        """What is added to the patch tokens of every frame, from its matches to its `NEIGHBORS` in turn."""
        features = self.flow_features(matches, grid)
        features = features.unflatten(1, (-1, NEIGHBORS)).movedim(2, -2).flatten(-2)
        return self.to_tokens(cells_to_patches(features, grid))


def soft_match(
    query: Float[Tensor, "pair cells channels"],
    target: Float[Tensor, "pair cells channels"],
    no_match: Float[Tensor, ""],
    cell_grid: tuple[int, int],
) -> tuple[
    Float[Tensor, "pair cells 2"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"]
]:
    """Expected position, mass, spread and log partition of each query cell, with positions in cells.

    Probabilities are a softmax over all target cells and the no-match bin; the position is their expectation inside
    the window about the best cell (a soft argmax that a second, far peak cannot pull away).
    """
    logits = query @ target.transpose(-1, -2)
    log_partition = torch.logaddexp(logits.logsumexp(dim=-1), no_match.expand(logits.shape[:-1]))
    rows, columns, inside = _window(logits.detach().argmax(dim=-1), cell_grid)
    window_logits = logits.gather(-1, rows * cell_grid[1] + columns)
    probability = torch.exp(window_logits - log_partition[..., None]) * inside

    mass = probability.sum(dim=-1)
    share = probability / mass.clamp(min=1e-6)[..., None]
    centers = torch.stack([columns, rows], dim=-1).to(share.dtype) + 0.5
    position = (share[..., None] * centers).sum(dim=-2)
    variance = (share[..., None] * (centers - position[..., None, :]).square()).sum(dim=(-1, -2))
    # The floor (a hundredth of a cell) keeps the square root differentiable for a match on one cell alone.
    return position, mass, (variance + 1e-4).sqrt(), log_partition


def temporal_neighbors(
    times: Float[Tensor, "batch time"],
) -> tuple[Int[Tensor, "batch time 3"], Bool[Tensor, "batch time 3"]]:
    """For every frame the first frame of the clip, the previous and the next by time, and whether there is one.

    The first frame is the one whose camera the answer starts at. Frames without a time (NaN) have no previous and no
    next one. Where there is none, the frame itself stands in.
    """
    frames = torch.arange(times.shape[1], device=times.device).expand(times.shape)
    timed = torch.isfinite(times)
    order = torch.where(timed, times, torch.inf).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    previous = order.gather(1, (rank - 1).clamp(min=0))
    following = order.gather(1, (rank + 1).clamp(max=times.shape[1] - 1))
    targets = torch.stack([torch.zeros_like(frames), previous, following], dim=-1)
    both_timed = timed[..., None] & timed.gather(1, targets.flatten(1)).unflatten(1, (-1, 3))
    both_timed[..., 0] = True
    valid = both_timed & (targets != frames[..., None])
    return torch.where(valid, targets, frames[..., None]), valid


def cell_centers(grid: tuple[int, int], cell_size: float, like: Tensor) -> Float[Tensor, "cells 2"]:
    """The pixel (x, y) at the center of every cell of a (rows, columns) `grid` of patches, row by row."""
    rows, columns = (
        (torch.arange(n * CELLS_PER_PATCH_SIDE, device=like.device, dtype=like.dtype) + 0.5) * cell_size for n in grid
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)


def cells_to_patches(
    features: Float[Tensor, "*batch cells channels"], grid: tuple[int, int]
) -> Float[Tensor, "*batch tokens patch_channels"]:
    """The features of the cells inside each patch side by side."""
    side = CELLS_PER_PATCH_SIDE
    cells = features.unflatten(-2, (grid[0], side, grid[1], side))
    return cells.transpose(-4, -3).flatten(-3).flatten(-3, -2)


def _window(best: Tensor, cell_grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the window about each best cell, clamped to the picture, and which of them are inside."""
    offset = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, device=best.device)
    row_offset, column_offset = torch.cartesian_prod(offset, offset).unbind(-1)
    rows = best[..., None] // cell_grid[1] + row_offset
    columns = best[..., None] % cell_grid[1] + column_offset
    inside = (rows >= 0) & (rows < cell_grid[0]) & (columns >= 0) & (columns < cell_grid[1])
    return rows.clamp(0, cell_grid[0] - 1), columns.clamp(0, cell_grid[1] - 1), inside


def _like(valid: Tensor, values: Tensor) -> Tensor:
    return valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))
