"""Soft matching: differentiable correspondences between the cells of two frames, with their uncertainty.

Matching makes geometry learnable from scratch: without it, predicted cameras and motion stay at zero. A cell is half a
patch wide. Normalized features of two frames are correlated, a learned dustbin collects cells without a match, and the
position is the expectation over a window around the best cell, which gives subcell precision.
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
"""Cells along each side of a patch. Part of the architecture: checkpoints depend on it."""
WINDOW_RADIUS = 2
"""Radius of the window around the best cell that determines the expected position, in cells. Hand-tuned."""
NUM_NEIGHBORS = 3
"""Number of frames that each frame is matched to: the first, the previous and the next in time."""
MAX_LOGITS = 2**25
"""Largest number of correlations computed at once (128 MiB in float32); more frame pairs are split into chunks."""


@dataclass(frozen=True)
class MatchingConfig:
    """Configuration of the soft matching layer."""

    after_block: int = field(default=1, metadata={FILE_KEY: "after_pair"})
    """Number of (frame, global) pairs of aggregator blocks before matching."""
    channels: int = 128
    """Number of channels of the cell features."""
    temperature: float = 0.07
    """Initial temperature of the softmax over correlations; learned."""
    dustbin_logit: float = field(default=10.0, metadata={FILE_KEY: "no_match_logit"})
    """Initial logit of the dustbin, which collects cells without a match; learned."""


@dataclass(frozen=True, eq=False)
class Matches(TensorRecord):
    """Correspondences of frame pairs: the position of each cell of the query frame in the target frame.

    All maps have one entry per cell of the query frame, in row-major order. They are zero for invalid pairs.
    """

    query_frames: Int[Tensor, "*batch pair"]
    """Index of the query frame of each pair."""
    target_frames: Int[Tensor, "*batch pair"]
    """Index of the target frame of each pair."""
    valid: Bool[Tensor, "*batch pair"]
    """False for pairs that do not exist, such as the previous frame of the first frame or of photos without times."""
    positions: Float[Tensor, "*batch pair cell 2"]
    """Expected position (x, y) in the target frame, in pixels."""
    mass: Float[Tensor, "*batch pair cell"]
    """Probability mass inside the window around the best cell, in [0, 1]: the certainty of the match."""
    standard_deviation: Float[Tensor, "*batch pair cell"]
    """Standard deviation of the position inside that window, in pixels."""
    log_partition: Float[Tensor, "*batch pair cell"]
    """Log of the softmax denominator over all cells and the dustbin: log probability = logit - log_partition."""


class Matching(nn.Module):
    """Soft matching layer: cell features, correspondences between frames, and the resulting update of patch tokens.

    Args:
        config: Configuration of the layer.
        width: Number of channels of the patch tokens.
        patch_size: Side of a patch in pixels.
        eighth_channels: Number of channels of backbone features at an eighth of the image size; 0 if there are none.
    """

    def __init__(self, config: MatchingConfig, width: int, patch_size: int, eighth_channels: int) -> None:
        super().__init__()
        self.after_block = config.after_block
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
        # Logit of the dustbin. The name is a key of checkpoints.
        self.no_match = nn.Parameter(torch.tensor(config.dustbin_logit))
        self.to_tokens = nn.Sequential(nn.Linear(NUM_NEIGHBORS * 4 * cells, 256), nn.GELU(), nn.Linear(256, width))

    def reset_parameters(self) -> None:
        """Initialize with larger weights than other layers: correlations must matter from the first training step."""
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
        """Compute normalized cell features.

        Args:
            tokens: Patch tokens of n frames.
            eighth: Backbone features at an eighth of the image size; None if the layer was built without them.
            grid: Number of patch rows and columns.

        Returns:
            Unit-length features of the cells in row-major order, in full precision.
        """
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
        """Match the cells of query frames to target frames.

        Args:
            features: Cell features of all frames (`features`).
            query_frames: Index of the query frame of each pair.
            target_frames: Index of the target frame of each pair.
            valid: Pairs that exist; the matches of others are zero.
            grid: Number of patch rows and columns.

        Returns:
            Matches with positions in pixels.
        """
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
        positions, mass, deviation, log_partition = (
            torch.where(_expand_like(valid, values), values, torch.zeros_like(values))
            for values in (torch.cat(part).unflatten(0, valid.shape) for part in zip(*parts, strict=True))
        )
        return Matches(
            query_frames=query_frames,
            target_frames=target_frames,
            valid=valid,
            positions=positions * self.cell_size,
            mass=mass,
            standard_deviation=deviation * self.cell_size,
            log_partition=log_partition,
        )

    def match_neighbors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        times: Float[Tensor, "batch time"],
        grid: tuple[int, int],
    ) -> Matches:
        """Match every frame to the first, the previous and the next frame in time.

        Args:
            features: Cell features of all frames.
            times: Time of each frame in seconds; NaN if unknown.
            grid: Number of patch rows and columns.

        Returns:
            Matches of the pairs (frame, neighbor), flattened with the neighbor fastest.
        """
        targets, valid = temporal_neighbors(times)
        queries = torch.arange(times.shape[1], device=times.device)[:, None].expand_as(targets)
        return self.match(features, queries.flatten(1), targets.flatten(1), valid.flatten(1), grid)

    def match_anchors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        anchors: Int[Tensor, "batch anchor"],
        grid: tuple[int, int],
    ) -> Matches:
        """Match every anchor frame to every frame.

        Args:
            features: Cell features of all frames.
            anchors: Indices of the anchor frames.
            grid: Number of patch rows and columns.

        Returns:
            Matches of the pairs (anchor, frame), flattened with the frame fastest.
        """
        time = features.shape[1]
        queries = anchors[:, :, None].expand(-1, -1, time).flatten(1)
        targets = torch.arange(time, device=features.device).expand(*anchors.shape, -1).flatten(1)
        return self.match(features, queries, targets, torch.ones_like(queries, dtype=torch.bool), grid)

    def flow_features(self, matches: Matches, grid: tuple[int, int]) -> Float[Tensor, "batch pair cells 4"]:
        """Encode matches as input features of other layers.

        Args:
            matches: Matches of any frame pairs.
            grid: Number of patch rows and columns.

        Returns:
            Displacement (x, y) in eighths of the geometric mean of the image sides, probability mass, and standard
            deviation in cells; zero for invalid pairs.
        """
        cells = cell_centers(grid, self.cell_size, matches.positions)
        side = math.sqrt(grid[0] * grid[1]) * CELLS_PER_PATCH_SIDE * self.cell_size
        flow = (matches.positions - cells) * (8 / side)
        features = torch.cat(
            [flow, matches.mass[..., None], matches.standard_deviation[..., None] / self.cell_size], dim=-1
        )
        return torch.where(_expand_like(matches.valid, features), features, torch.zeros_like(features))

    def token_update(self, matches: Matches, grid: tuple[int, int]) -> Float[Tensor, "batch time tokens width"]:
        """Compute the update of patch tokens from the matches to neighboring frames.

        Args:
            matches: Matches of `match_neighbors`.
            grid: Number of patch rows and columns.

        Returns:
            Addition to the patch tokens of every frame.
        """
        features = self.flow_features(matches, grid)
        features = features.unflatten(1, (-1, NUM_NEIGHBORS)).movedim(2, -2).flatten(-2)
        return self.to_tokens(cells_to_patch_tokens(features, grid))


def soft_match(
    query: Float[Tensor, "pair cells channels"],
    target: Float[Tensor, "pair cells channels"],
    dustbin_logit: Float[Tensor, ""],
    cell_grid: tuple[int, int],
) -> tuple[
    Float[Tensor, "pair cells 2"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"]
]:
    """Match cells by a softmax over all target cells and a dustbin, followed by a windowed soft argmax.

    The position is the expectation inside the window around the best cell, so a second, distant peak cannot bias it.

    Args:
        query: Features of the query cells, divided by the temperature.
        target: Unit features of the target cells.
        dustbin_logit: Logit of the dustbin, a scalar.
        cell_grid: Number of cell rows and columns.

    Returns:
        Position (x, y) in cells, probability mass inside the window, standard deviation in cells, and log partition of
        each query cell. See `Matches`.
    """
    logits = query @ target.transpose(-1, -2)
    log_partition = torch.logaddexp(logits.logsumexp(dim=-1), dustbin_logit.expand(logits.shape[:-1]))
    rows, columns, inside = _window(logits.detach().argmax(dim=-1), cell_grid)
    window_logits = logits.gather(-1, rows * cell_grid[1] + columns)
    probability = torch.exp(window_logits - log_partition[..., None]) * inside

    mass = probability.sum(dim=-1)
    weight = probability / mass.clamp(min=1e-6)[..., None]
    centers = torch.stack([columns, rows], dim=-1).to(weight.dtype) + 0.5
    position = (weight[..., None] * centers).sum(dim=-2)
    variance = (weight[..., None] * (centers - position[..., None, :]).square()).sum(dim=(-1, -2))
    # The offset (a hundredth of a cell, squared) keeps the square root differentiable if one cell has all the mass.
    return position, mass, (variance + 1e-4).sqrt(), log_partition


def temporal_neighbors(
    times: Float[Tensor, "batch time"],
) -> tuple[Int[Tensor, "batch time 3"], Bool[Tensor, "batch time 3"]]:
    """Find the neighbors of every frame: the first frame of the clip, and the previous and the next frame in time.

    Args:
        times: Time of each frame in seconds. Frames without a time (NaN) have no previous and no next frame.

    Returns:
        Index of each neighbor, and whether it exists. The index of a missing neighbor is that of the frame itself. The
        first frame is the reference frame at index 0, which has no neighbor "first".
    """
    frames = torch.arange(times.shape[1], device=times.device).expand(times.shape)
    has_time = torch.isfinite(times)
    order = torch.where(has_time, times, torch.inf).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    previous_frame = order.gather(1, (rank - 1).clamp(min=0))
    next_frame = order.gather(1, (rank + 1).clamp(max=times.shape[1] - 1))
    targets = torch.stack([torch.zeros_like(frames), previous_frame, next_frame], dim=-1)
    both_have_times = has_time[..., None] & has_time.gather(1, targets.flatten(1)).unflatten(1, (-1, 3))
    both_have_times[..., 0] = True
    valid = both_have_times & (targets != frames[..., None])
    return torch.where(valid, targets, frames[..., None]), valid


def cell_centers(grid: tuple[int, int], cell_size: float, like: Tensor) -> Float[Tensor, "cells 2"]:
    """Compute the centers of all cells.

    Args:
        grid: Number of patch rows and columns.
        cell_size: Side of a cell in pixels.
        like: Tensor of any shape that gives device and dtype.

    Returns:
        Pixel coordinates (x, y) of the cell centers in row-major order.
    """
    rows, columns = (
        (torch.arange(n * CELLS_PER_PATCH_SIDE, device=like.device, dtype=like.dtype) + 0.5) * cell_size for n in grid
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)


def cells_to_patch_tokens(
    features: Float[Tensor, "*batch cells channels"], grid: tuple[int, int]
) -> Float[Tensor, "*batch tokens patch_channels"]:
    """Concatenate the features of the cells inside each patch.

    Args:
        features: Cell features in row-major order over the image.
        grid: Number of patch rows and columns.

    Returns:
        Features of the patches in row-major order; the channels hold the cells of a patch in row-major order.
    """
    side = CELLS_PER_PATCH_SIDE
    cells = features.unflatten(-2, (grid[0], side, grid[1], side))
    return cells.transpose(-4, -3).flatten(-3).flatten(-3, -2)


def _window(best: Tensor, cell_grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and columns of the window around each best cell, clamped to the image, and which are inside it."""
    offset = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, device=best.device)
    row_offset, column_offset = torch.cartesian_prod(offset, offset).unbind(-1)
    rows = best[..., None] // cell_grid[1] + row_offset
    columns = best[..., None] % cell_grid[1] + column_offset
    inside = (rows >= 0) & (rows < cell_grid[0]) & (columns >= 0) & (columns < cell_grid[1])
    return rows.clamp(0, cell_grid[0] - 1), columns.clamp(0, cell_grid[1] - 1), inside


def _expand_like(valid: Tensor, values: Tensor) -> Tensor:
    """Append singleton axes to `valid` so that it broadcasts against `values`."""
    return valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))
