"""The motion head: where every pixel of an anchor frame is at the time of another frame, and whether it is seen.

The tokens of the anchor attend to the tokens of frame t, for all t side by side: one pass tracks every pixel of the
anchor to every time at a cost linear in frames (the anchor-based pipeline of St4RTrack, Feng et al. 2025). It starts
from geometry: the matched position, and the difference of the two point maps there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.heads.dense import DenseHead
from recon4d.layers import CELLS_PER_PATCH_SIDE, BlockConfig, CrossBlock, RotaryTable, cells_to_patch_tokens
from recon4d.records import full_precision

MOTION_CHANNELS = 5
"""Displacement (3), logit of being seen, raw confidence."""
START_CHANNELS = 10
"""Flow features of a cell (4), difference of points (3), and that difference times the match's mass (3)."""
MAX_START = 1.5
"""Point differences are clamped here (scenes have unit size): a wrong match must not shout."""


@dataclass(frozen=True)
class MotionHeadConfig:
    """Blocks in which anchor tokens attend to the tokens of another frame."""

    block: BlockConfig
    blocks: int = 2


@dataclass(frozen=True)
class MotionPairs:
    """Pairs of an anchor and a target among n flattened frames, and the matches from one to the other."""

    anchor: Int[Tensor, "pair"]
    target: Int[Tensor, "pair"]
    flow: Float[Tensor, "pair cells 4"]
    """Flow features of `Matching.flow_features`."""
    positions: Float[Tensor, "pair cells 2"]
    """Matched pixels (x, y) in the target."""

    def split(self, size: int) -> list["MotionPairs"]:
        """The pairs in chunks of at most `size`."""
        parts = zip(*(getattr(self, name).split(size) for name in self.__dataclass_fields__), strict=True)
        return [MotionPairs(*part) for part in parts]


@dataclass(frozen=True)
class MotionFrames:
    """What the motion head knows of n flattened frames."""

    tokens: Float[Tensor, "n tokens fused_width"]
    """Tapped tokens side by side, special tokens first."""
    points: Float[Tensor, "n height width 3"]
    """World point maps; no gradient flows into them from here."""
    skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None
    grid: tuple[int, int]
    rotary: RotaryTable
    num_special: int

    @property
    def cell_grid(self) -> tuple[int, int]:
        """Rows and columns of cells, which are half a patch wide."""
        return self.grid[0] * CELLS_PER_PATCH_SIDE, self.grid[1] * CELLS_PER_PATCH_SIDE


class MotionHead(nn.Module):
    """Anchor tokens that attend to another frame, then a dense head over them."""

    def __init__(self, config: MotionHeadConfig, tap_widths: Sequence[int], dense: DenseHead) -> None:
        super().__init__()
        width = config.block.width
        self.fuse = nn.Linear(sum(tap_widths), width)
        self.start = nn.Sequential(
            nn.Linear(START_CHANNELS * CELLS_PER_PATCH_SIDE**2, 256), nn.GELU(), nn.Linear(256, width)
        )
        self.matched = nn.Linear(width, width)
        self.blocks = nn.ModuleList([CrossBlock(config.block) for _ in range(config.blocks)])
        self.dense = dense

    def reset_parameters(self) -> None:
        """The geometric start must matter from the first step."""
        nn.init.normal_(self.start[0].weight, std=0.3)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.start[2].weight, std=0.05)  # pyright: ignore[reportArgumentType]

    def fuse_features(self, features: Sequence[Float[Tensor, "n tokens _"]]) -> Float[Tensor, "n tokens width"]:
        """The tokens this head works on, made once for all pairs."""
        return self.fuse(torch.cat(list(features), dim=-1))

    def forward(self, frames: MotionFrames, pairs: MotionPairs) -> Float[Tensor, "pair motion_channels height width"]:
        """Raw motion of every pixel of each pair's anchor to the time of its target."""
        start = self._geometric_start(frames, pairs)
        patches = frames.tokens[:, frames.num_special :]
        at_match = self._token_at_match(patches[pairs.target], start, pairs, frames)
        rotary = frames.rotary.rows(slice(frames.num_special, None))

        told = self.start(cells_to_patch_tokens(start, frames.grid))
        query = full_precision(patches[pairs.anchor]) + told + self.matched(at_match)
        layers = [query]
        context = frames.tokens[pairs.target]
        for block in self.blocks:
            query = block(query, context, rotary, frames.rotary)
            layers.append(query)
        return self.dense(layers, frames.grid, self._skip(frames, pairs, start))

    def _geometric_start(self, frames: MotionFrames, pairs: MotionPairs) -> Float[Tensor, "pair cells start"]:
        """What matching and point maps say already: flow, and how far the matched point is from the anchor's own."""
        points = frames.points.detach().movedim(-1, 1)
        own = _sample(points, _centers(frames.cell_grid, points)).flatten(2).transpose(1, 2)
        size = points.new_tensor([float(points.shape[-1]), float(points.shape[-2])])
        there = _sample(points[pairs.target], pairs.positions.detach()[:, None] / size).squeeze(2).transpose(1, 2)
        difference = (there - own[pairs.anchor]).clamp(-MAX_START, MAX_START) * 3
        flow = pairs.flow.detach()
        return torch.cat([flow, difference, difference * flow[..., 2:3]], dim=-1)

    def _token_at_match(
        self, tokens: Tensor, start: Tensor, pairs: MotionPairs, frames: MotionFrames
    ) -> Float[Tensor, "pair patches width"]:
        """The target's token where each anchor patch was matched: the mean over its cells, weighted by mass."""
        mass = start[..., 2:3] + 1e-3
        weighted = torch.cat([pairs.positions.detach() * mass, mass], dim=-1)
        per_patch = cells_to_patch_tokens(weighted, frames.grid).unflatten(-1, (-1, 3)).sum(dim=-2)
        positions = per_patch[..., :2] / per_patch[..., 2:]
        height, width = frames.points.shape[1:3]
        maps = full_precision(tokens).transpose(1, 2).unflatten(2, frames.grid)
        sampled = _sample(maps, positions[:, None] / positions.new_tensor([float(width), float(height)]))
        return sampled.squeeze(2).transpose(1, 2).to(tokens.dtype)

    def _skip(self, frames: MotionFrames, pairs: MotionPairs, start: Tensor) -> Tensor:
        """The geometric start as a map, beside the anchor's finer features where there are any."""
        maps = start.transpose(1, 2).unflatten(2, frames.cell_grid)
        if frames.skip is None:
            return maps
        skip = frames.skip[pairs.anchor]
        finer = F.interpolate(maps, skip.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([skip, finer.to(skip.dtype)], dim=1)


def _centers(grid: tuple[int, int], like: Tensor) -> Float[Tensor, "1 rows columns 2"]:
    """The centers (x, y) of a grid of cells over the unit square."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in grid)
    return torch.cartesian_prod(rows, columns).reshape(1, *grid, 2).flip(-1)


def _sample(maps: Tensor, positions: Tensor) -> Tensor:
    """Bilinear values of (n, channels, height, width) maps at positions (n or 1, rows, columns, 2) in [0, 1]."""
    positions = positions.expand(maps.shape[0], -1, -1, -1).to(maps.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        return F.grid_sample(maps, 2 * positions - 1, align_corners=False, padding_mode="border")
