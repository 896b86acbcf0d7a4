"""The motion head: displacement and visibility of every pixel of an anchor frame at the time of another frame.

The tokens of the anchor attend to the tokens of frame t, for all t in parallel. One pass tracks every pixel of the
anchor to every time at a cost linear in the number of frames (the anchor-based pipeline of St4RTrack, Feng et al.
2025). The initial estimate is geometric: the matched position and the difference of the two point maps there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.geometry import transform_points
from recon4d.heads.dense import DenseHead
from recon4d.heads.lifting import CellPairs, LiftedPairs, lifted_displacements, static_alignment
from recon4d.layers import CELLS_PER_PATCH_SIDE, BlockConfig, CrossBlock, RotaryTable, cells_to_patch_tokens
from recon4d.records import full_precision

MOTION_CHANNELS = 5
"""Displacement (3), visibility logit, raw confidence."""
GATE_CHANNELS = 2
"""Of lifted matches: logit of how much of the displacement is believed, relative to the logit of the dynamic
probability, and of how much of its component along the ray."""
MIN_PROBABILITY = 1e-3
"""Smallest dynamic probability and smallest static probability whose logit is used."""
START_CHANNELS = 10
"""Flow features of a cell (4), difference of points (3), and that difference times the probability of the match (3)."""
MAX_START = 1.5
"""Limit of point differences, in units of the scene, which limits the effect of wrong matches. Hand-tuned."""


@dataclass(frozen=True)
class MotionHeadConfig:
    """Configuration of the motion head."""

    block: BlockConfig
    """Configuration of the blocks in which anchor tokens attend to the tokens of another frame."""
    blocks: int = 2
    """Number of blocks."""
    lifted: bool = False
    """Whether the displacement is that of the lifted match (`recon4d.heads.lifting`) times a gate, plus a predicted
    correction. It suits point maps that are frozen. False predicts the displacement directly."""

    @property
    def channels(self) -> int:
        """Number of raw maps of the dense head."""
        return MOTION_CHANNELS + GATE_CHANNELS if self.lifted else MOTION_CHANNELS


@dataclass(frozen=True)
class MotionPairs:
    """Pairs of an anchor and a target frame among n flattened frames, with the matches from anchor to target."""

    anchor: Int[Tensor, "pair"]
    """Index of the anchor frame."""
    target: Int[Tensor, "pair"]
    """Index of the target frame."""
    flow: Float[Tensor, "pair cells 4"]
    """Flow features of `Matching.flow_features`."""
    positions: Float[Tensor, "pair cells 2"]
    """Matched pixels (x, y) in the target."""

    def select(self, part: slice) -> "MotionPairs":
        """Select consecutive pairs.

        Args:
            part: Their indices.

        Returns:
            These pairs.
        """
        return MotionPairs(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class MotionFrames:
    """Inputs of the motion head for n flattened frames."""

    tokens: Float[Tensor, "n tokens fused_width"]
    """Fused tokens of the aggregator's output layers, special tokens first."""
    points: Float[Tensor, "n height width 3"]
    """World point maps; the head propagates no gradient into them."""
    skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None
    """Finer backbone features; None if the backbone has none."""
    grid: tuple[int, int]
    """Number of rows and columns of patches."""
    rotary: RotaryTable
    """Rotary position embedding of the tokens of a frame."""
    num_special: int
    """Number of special tokens per frame."""
    depths: Float[Tensor, "n height width"]
    """Depth of the points in their own camera; read without gradient."""
    dynamic: Float[Tensor, "n height width"]
    """Dynamic probability, NaN if unknown; read without gradient."""
    world_from_cam: Float[Tensor, "n 4 4"]
    """Camera of each frame; read without gradient."""

    @property
    def cell_grid(self) -> tuple[int, int]:
        """Number of rows and columns of matching cells, which are half a patch wide."""
        return self.grid[0] * CELLS_PER_PATCH_SIDE, self.grid[1] * CELLS_PER_PATCH_SIDE


class MotionHead(nn.Module):
    """Cross-attention from anchor tokens to the tokens of another frame, followed by a dense head.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the tokens of each aggregator output layer.
        dense: Dense head that predicts `MotionHeadConfig.channels` raw maps.
    """

    def __init__(self, config: MotionHeadConfig, feature_widths: Sequence[int], dense: DenseHead) -> None:
        super().__init__()
        self.config = config
        width = config.block.width
        self.fuse = nn.Linear(sum(feature_widths), width)
        self.start = nn.Sequential(
            nn.Linear(START_CHANNELS * CELLS_PER_PATCH_SIDE**2, 256), nn.GELU(), nn.Linear(256, width)
        )
        self.matched = nn.Linear(width, width)
        self.blocks = nn.ModuleList([CrossBlock(config.block) for _ in range(config.blocks)])
        self.dense = dense

    def reset_parameters(self) -> None:
        """Initialize the weights of the geometric estimate large enough to matter from the first training step."""
        nn.init.normal_(self.start[0].weight, std=0.3)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.start[2].weight, std=0.05)  # pyright: ignore[reportArgumentType]

    def fuse_features(self, features: Sequence[Float[Tensor, "n tokens _"]]) -> Float[Tensor, "n tokens width"]:
        """Fuse the tokens of several layers, once for all pairs.

        Args:
            features: Tokens of each aggregator output layer.

        Returns:
            Fused tokens.
        """
        return self.fuse(torch.cat(list(features), dim=-1))

    def forward(self, frames: MotionFrames, pairs: MotionPairs) -> Float[Tensor, "pair motion_channels height width"]:
        """Predict the raw motion of every anchor pixel to the time of the target frame.

        Args:
            frames: The flattened frames.
            pairs: Pairs of frames and their matches.

        Returns:
            Raw maps, converted by `decode_displacement`.
        """
        alignment = _static_alignment(frames, pairs) if self.config.lifted else None
        start = self._geometric_start(frames, pairs, alignment)
        patch_tokens = frames.tokens[:, frames.num_special :]
        at_match = self._token_at_match(patch_tokens[pairs.target], start, pairs, frames)
        rotary = frames.rotary.rows(slice(frames.num_special, None))

        geometric = self.start(cells_to_patch_tokens(start, frames.grid))
        query = full_precision(patch_tokens[pairs.anchor]) + geometric + self.matched(at_match)
        layers = [query]
        context = frames.tokens[pairs.target]
        for block in self.blocks:
            query = block(query, context, rotary, frames.rotary)
            layers.append(query)
        raw = self.dense(layers, frames.grid, self._skip(frames, pairs, start))
        if alignment is None:
            return raw
        with torch.autocast(raw.device.type, enabled=False):
            displacement = raw[:, :3] + _gated(raw[:, MOTION_CHANNELS:], frames, pairs, alignment)
        return torch.cat([displacement, raw[:, 3:MOTION_CHANNELS]], dim=1)

    def _geometric_start(
        self, frames: MotionFrames, pairs: MotionPairs, alignment: Tensor | None
    ) -> Float[Tensor, "pair cells start"]:
        """Return flow features and the difference between the matched target point and the anchor point."""
        own, matched = _points_at_cells(frames, pairs)
        if alignment is not None:
            with torch.autocast(matched.device.type, enabled=False):  # positions need full precision
                matched = transform_points(alignment, matched)
        difference = (matched - own).clamp(-MAX_START, MAX_START) * 3
        flow = pairs.flow.detach()
        return torch.cat([flow, difference, difference * flow[..., 2:3]], dim=-1)

    def _token_at_match(
        self, tokens: Tensor, start: Tensor, pairs: MotionPairs, frames: MotionFrames
    ) -> Float[Tensor, "pair patches width"]:
        """Sample target tokens at the matched position of each anchor patch, the weighted mean over its cells."""
        mass = start[..., 2:3] + 1e-3
        weighted = torch.cat([pairs.positions.detach() * mass, mass], dim=-1)
        per_patch = cells_to_patch_tokens(weighted, frames.grid).unflatten(-1, (-1, 3)).sum(dim=-2)
        positions = per_patch[..., :2] / per_patch[..., 2:]
        height, width = frames.points.shape[1:3]
        maps = full_precision(tokens).transpose(1, 2).unflatten(2, frames.grid)
        sampled = _sample(maps, positions[:, None] / positions.new_tensor([float(width), float(height)]))
        return sampled.squeeze(2).transpose(1, 2).to(tokens.dtype)

    def _skip(self, frames: MotionFrames, pairs: MotionPairs, start: Tensor) -> Tensor:
        """Return the geometric estimate as maps, concatenated to the anchor's finer features if there are any."""
        maps = start.transpose(1, 2).unflatten(2, frames.cell_grid)
        if frames.skip is None:
            return maps
        skip = frames.skip[pairs.anchor]
        finer = F.interpolate(maps, skip.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([skip, finer.to(skip.dtype)], dim=1)


def _points_at_cells(frames: MotionFrames, pairs: MotionPairs) -> tuple[Tensor, Tensor]:
    """Return the world points of the anchor's cells and those at their matches, both (pair, cells, 3)."""
    points = frames.points.detach().movedim(-1, 1)
    own = _sample(points, _centers(frames.cell_grid, points)).flatten(2).transpose(1, 2)
    size = points.new_tensor([float(points.shape[-1]), float(points.shape[-2])])
    matched = _sample(points[pairs.target], pairs.positions.detach()[:, None] / size).squeeze(2).transpose(1, 2)
    return own[pairs.anchor], matched


def _static_alignment(frames: MotionFrames, pairs: MotionPairs) -> Float[Tensor, "pair 4 4"]:
    """Fit the motion that static cells share, by the probability of their matches and of being static."""
    own, matched = _points_at_cells(frames, pairs)
    maps = torch.stack([frames.depths.detach(), frames.dynamic.detach().nan_to_num(0.0)], dim=1)
    at_cells = _sample(maps, _centers(frames.cell_grid, maps)).flatten(2)[pairs.anchor]
    weights = full_precision(pairs.flow[..., 2].detach()) * (1 - at_cells[:, 1])
    return static_alignment(CellPairs(own, matched, at_cells[:, 0], weights))


def _gated(
    gates: Tensor, frames: MotionFrames, pairs: MotionPairs, alignment: Tensor
) -> Float[Tensor, "pair 3 height width"]:
    """Lift the matches of all pixels, and weight the displacements by the gates."""
    points = frames.points.detach().movedim(-1, 1)
    size = points.new_tensor([float(points.shape[-1]), float(points.shape[-2])])
    cells = _centers(frames.cell_grid, points).flatten(1, 2) * size
    maps = LiftedPairs(
        own=points[pairs.anchor],
        target=points[pairs.target],
        target_depths=frames.depths.detach()[pairs.target],
        world_from_cam=frames.world_from_cam.detach()[pairs.target],
        flow=(pairs.positions.detach() - cells).transpose(1, 2).unflatten(2, frames.cell_grid),
    )
    full, sideways = lifted_displacements(maps, alignment, MAX_START)
    dynamic = frames.dynamic.detach()[pairs.anchor][:, None].nan_to_num(0.5)
    believed = torch.sigmoid(gates[:, :1] + torch.logit(dynamic, MIN_PROBABILITY))
    return believed * torch.lerp(sideways, full, torch.sigmoid(gates[:, 1:]))


def _centers(grid: tuple[int, int], like: Tensor) -> Float[Tensor, "1 rows columns 2"]:
    """Return the centers (x, y) of a grid of cells over the unit square."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in grid)
    return torch.cartesian_prod(rows, columns).reshape(1, *grid, 2).flip(-1)


def _sample(maps: Tensor, positions: Tensor) -> Tensor:
    """Sample (n, channels, height, width) maps bilinearly at positions (n or 1, rows, columns, 2) in [0, 1]."""
    positions = positions.expand(maps.shape[0], -1, -1, -1).to(maps.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        return F.grid_sample(maps, 2 * positions - 1, align_corners=False, padding_mode="border")
