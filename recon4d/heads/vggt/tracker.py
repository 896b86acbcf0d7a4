"""The point tracker of VGGT: positions of query pixels in every frame, refined iteratively.

Every track has a position and a feature in each frame. Each iteration correlates the feature with the feature maps
around the position, and a transformer over all tracks and frames predicts updates of both (Karaev et al. 2023,
"CoTracker"; Wang et al. 2025, "VGGT", whose weights it uses).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.errors import UserError
from recon4d.heads.vggt.tracker_update import UpdateTransformer
from recon4d.layers import BlockConfig
from recon4d.records import TensorRecord, full_precision

MAX_WINDOW_VALUES = 2**27
"""Largest number of feature values in correlation windows at once (512 MiB in float32)."""
MAX_FLOW_FREQUENCY = 1000.0
"""Upper limit of the frequencies of the flow embedding, in radians per cell (VGGT)."""
POSITION_BASE = 10000.0
"""Frequencies of the position embedding decrease from 1 radian per cell toward 1 / POSITION_BASE (VGGT)."""


@dataclass(frozen=True)
class TrackerConfig:
    """Configuration of the tracker; the defaults are VGGT's."""

    channels: int = 128
    """Channels of the feature maps and of the feature of a track; a multiple of 4."""
    stride: int = 2
    """Pixels of the image per cell of the feature maps."""
    first_centre: float = 0.5
    """Pixel coordinate of the first cell's center: 0.5 if maps were resized with aligned corners, as in VGGT;
    stride / 2 if cells tile the image."""
    levels: int = 7
    """Levels of the pyramid of feature maps; each has half the size of the previous one."""
    radius: int = 4
    """Radius of the correlation window in cells, at every level."""
    width: int = 384
    """Channels of the update transformer."""
    heads: int = 8
    """Attention heads of the update transformer."""
    mlp_width: int = 1536
    """Hidden channels of its MLPs."""
    depth: int = 6
    """Number of its blocks."""
    virtual_tracks: int = 64
    """Number of learned virtual tracks through which tracks exchange information."""
    flow_scale: float = 518.0
    """Divisor of the raw flow, in cells, at the input of the transformer."""
    iterations: int = 4
    """Number of refinements."""

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise UserError(f"the tracker has {self.channels} channels; wanted a multiple of 4")
        if min(self.stride, self.levels, self.depth, self.virtual_tracks, self.iterations) < 1 or self.radius < 0:
            raise UserError(f"wanted a radius of at least 0 and all other sizes of at least 1; given {self}")

    @property
    def block(self) -> BlockConfig:
        """Configuration of the blocks of the update transformer."""
        return BlockConfig(self.width, self.heads, self.mlp_width, qk_norm="none", qkv_bias=True)

    @property
    def window(self) -> int:
        """Number of correlations of one position at one level."""
        return (2 * self.radius + 1) ** 2


@dataclass(frozen=True, eq=False)
class TrackedPoints(TensorRecord):
    """Positions of queries in every frame after each refinement, with visibility and confidence."""

    stages: Float[Tensor, "*batch stage time query 2"]
    """Pixels (x, y) after each refinement; in the query frame exactly the query."""
    visibility_logits: Float[Tensor, "*batch time query"]
    """Logits of the visibility."""
    confidence_logits: Float[Tensor, "*batch time query"]
    """Logits of the confidence."""

    @property
    def pixels(self) -> Float[Tensor, "*batch time query 2"]:
        """Pixels (x, y) of the full-resolution image after the last refinement."""
        return self.stages[..., -1, :, :, :]

    @property
    def visibility(self) -> Float[Tensor, "*batch time query"]:
        """Probability that the point is visible in the frame."""
        return self.visibility_logits.sigmoid()

    @property
    def confidence(self) -> Float[Tensor, "*batch time query"]:
        """Probability that the position is correct (VGGT: within a few pixels of the ground truth)."""
        return self.confidence_logits.sigmoid()


class Tracker(nn.Module):
    """Refines tracks iteratively on feature maps; the order of frames other than the query frame does not matter.

    Args:
        config: Configuration of the tracker.
    """

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        # Flow embedding, correlation features, track features, and the raw flow twice (VGGT).
        token_width = 3 * channels + 4
        self.map_norm = nn.LayerNorm(channels)
        self.correlation = nn.Sequential(
            nn.Linear(config.levels * config.window, config.width), nn.GELU(), nn.Linear(config.width, channels)
        )
        self.frame_tokens = nn.Parameter(torch.empty(1, 2, token_width))
        """Embeddings of the query frame (first) and of all other frames (second)."""
        self.update = UpdateTransformer(config.block, config.depth, config.virtual_tracks, token_width, 2 + channels)
        self.feature_norm = nn.LayerNorm(channels)
        self.feature_update = nn.Linear(channels, channels)
        self.visibility = nn.Linear(channels, 1)
        self.confidence = nn.Linear(channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the tracker so that points stay at their queries with a visibility of one half."""
        self.update.reset_parameters()
        nn.init.zeros_(self.update.output.weight[:2])
        nn.init.normal_(self.frame_tokens)
        for linear in (self.correlation[0], self.correlation[2], self.feature_update):
            nn.init.xavier_uniform_(linear.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(linear.bias)  # pyright: ignore[reportArgumentType]
        for linear in (self.visibility, self.confidence):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        features: Float[Tensor, "batch time channels height width"],
        queries: Float[Tensor, "batch query 2"],
        query_frame: Int[Tensor, "batch"] | int = 0,
    ) -> TrackedPoints:
        """Track query pixels through all frames.

        Whether queries are inside the image is checked by `check_queries`, not here: reading values would synchronize
        with the device.

        Args:
            features: Feature maps of all frames.
            queries: Pixels (x, y) of the full-resolution image.
            query_frame: Frame of the queries, for each clip or for all.

        Returns:
            Positions, visibility and confidence in every frame.

        Raises:
            UserError: If the query frame does not exist, or the maps are too small for the pyramid.
            ValueError: If shapes do not fit.
        """
        self._check(features, queries, query_frame)
        config, (batch, time, _, height, width) = self.config, features.shape
        maps = self.map_norm(full_precision(features).movedim(2, -1)).movedim(-1, 2)
        pyramid = feature_pyramid(maps.flatten(0, 1), config.levels)
        queries = full_precision(queries).to(maps.dtype)

        query_cells = (queries - config.first_centre) / config.stride
        if isinstance(query_frame, int):
            query_frame = torch.full((batch,), query_frame, device=maps.device)
        is_query_frame = (torch.arange(time, device=maps.device) == query_frame[:, None])[..., None, None]
        frame_token = torch.where(is_query_frame, *self.frame_tokens.unbind(1))
        track_embedding = frame_token + position_embedding(query_cells, (height, width), frame_token.shape[-1])[:, None]

        start = query_cells[:, None].expand(-1, time, -1, -1)
        cells = start
        query_maps = maps[torch.arange(batch, device=maps.device), query_frame]
        query_features = read_maps(query_maps, query_cells[:, :, None], "border").squeeze(-1).transpose(1, 2)
        track = query_features[:, None].expand(-1, time, -1, -1)
        stages = []
        for _ in range(config.iterations):
            # Positions propagate no gradient from one refinement to the next (Teed and Deng 2020, "RAFT").
            cells = cells.detach()
            windows = local_correlation(pyramid, track.flatten(0, 1), cells.flatten(0, 1), config.radius)
            correlation = self.correlation(windows).unflatten(0, (batch, time))
            flow = cells - start
            scaled_flow = flow / config.flow_scale
            inputs = [flow_embedding(flow, config.channels), scaled_flow, scaled_flow, correlation, track]
            step, change = self.update(torch.cat(inputs, dim=-1) + track_embedding).split([2, config.channels], dim=-1)
            track = track + full_precision(F.gelu(self.feature_update(self.feature_norm(change))))
            cells = torch.where(is_query_frame, start, cells + step)
            stages.append(queries[:, None] + config.stride * (cells - start))
        with torch.autocast(maps.device.type, enabled=False):
            return TrackedPoints(
                stages=torch.stack(stages, dim=1),
                visibility_logits=self.visibility(track).squeeze(-1),
                confidence_logits=self.confidence(track).squeeze(-1),
            )

    def _check(self, features: Tensor, queries: Tensor, query_frame: Tensor | int) -> None:
        if features.ndim != 5 or features.shape[2] != self.config.channels:
            wanted = f"(batch, time, {self.config.channels}, height, width)"
            raise ValueError(f"the tracker was given features of shape {tuple(features.shape)}; wanted {wanted}")
        if queries.ndim != 3 or queries.shape[0] != features.shape[0] or queries.shape[1] < 1 or queries.shape[2] != 2:
            wanted = f"({features.shape[0]}, query, 2) with one query or more"
            raise ValueError(f"the tracker was given queries of shape {tuple(queries.shape)}; wanted {wanted}")
        if isinstance(query_frame, int) and not 0 <= query_frame < features.shape[1]:
            raise UserError(f"the query frame is {query_frame}; wanted 0 to {features.shape[1] - 1}")
        smallest = 2 ** (self.config.levels - 1)
        if min(features.shape[-2:]) < smallest:
            given = f"{self.config.levels} levels of feature maps of {tuple(features.shape[-2:])} cells"
            raise UserError(f"the tracker needs {given}; wanted at least {smallest} cells per axis, or fewer levels")


def check_queries(queries: Float[Tensor, "*batch query 2"], size: tuple[int, int]) -> None:
    """Verify that queries are inside the image.

    Args:
        queries: Pixels (x, y).
        size: Height and width of the image in pixels.

    Raises:
        UserError: If a query is outside the image or NaN.
    """
    height, width = size
    x, y = queries.unbind(-1)
    # This form treats NaN as outside.
    outside = ~((x >= 0) & (x <= width) & (y >= 0) & (y <= height))
    if outside.any():
        first = tuple(queries[outside][0].tolist())
        raise UserError(
            f"{int(outside.sum())} of {outside.numel()} queries are outside the image, the first at {first}; "
            f"wanted x from 0 to {width} and y from 0 to {height}"
        )


def feature_pyramid(
    maps: Float[Tensor, "n channels height width"], levels: int
) -> list[Float[Tensor, "n channels _ _"]]:
    """Build a pyramid by repeated 2 x 2 average pooling; an odd last row or column is dropped.

    Args:
        maps: Feature maps.
        levels: Number of levels, including the maps themselves.

    Returns:
        Maps of all levels, fine to coarse.
    """
    pyramid = [maps]
    while len(pyramid) < levels:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def local_correlation(
    pyramid: Sequence[Float[Tensor, "n channels _ _"]],
    features: Float[Tensor, "n query channels"],
    cells: Float[Tensor, "n query 2"],
    radius: int,
) -> Float[Tensor, "n query correlations"]:
    """Correlate track features with the feature maps around their positions.

    Bilinear sampling is linear, so sampling features and then multiplying equals sampling a correlation volume. Outside
    the maps, features are zero. Queries are processed in chunks and windows are recomputed in the backward pass, which
    bounds memory.

    Args:
        pyramid: Feature maps of all levels.
        features: Feature of each track.
        cells: Positions (x, y) in cells of the finest level.
        radius: Radius of the window in cells.

    Returns:
        Correlations, level by level, with the column as the slower index.
    """
    n, _, channels = features.shape
    chunk = max(1, MAX_WINDOW_VALUES // (n * (2 * radius + 1) ** 2 * channels))
    parts = [
        checkpoint(_correlate, pyramid, *chunks, radius, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else _correlate(pyramid, *chunks, radius)
        for chunks in zip(features.split(chunk, dim=1), cells.split(chunk, dim=1), strict=True)
    ]
    return torch.cat(parts, dim=1)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _correlate(pyramid: Sequence[Tensor], features: Tensor, cells: Tensor, radius: int) -> Tensor:
    steps = torch.arange(-radius, radius + 1, device=cells.device, dtype=cells.dtype)
    offsets = torch.cartesian_prod(steps, steps).reshape(-1, 2)
    features = features.transpose(1, 2) / math.sqrt(features.shape[-1])
    correlations = []
    for level, maps in enumerate(pyramid):
        windows = read_maps(maps, cells[:, :, None] / 2**level + offsets, "zeros")
        # A matrix product would copy the windows first and, under autocast, round them.
        correlations.append((windows * features[..., None]).sum(dim=1))
    return torch.cat(correlations, dim=-1)


def read_maps(
    maps: Float[Tensor, "n channels height width"], cells: Float[Tensor, "n rows columns 2"], outside: str
) -> Float[Tensor, "n channels rows columns"]:
    """Sample maps bilinearly.

    Args:
        maps: Maps to sample.
        cells: Positions (x, y) in cells; the center of the first cell is 0. Along an axis with a single cell, every
            position reads that cell, as in the training of the published weights.
        outside: Padding mode of `grid_sample`: "zeros" or "border".

    Returns:
        Sampled values.
    """
    height, width = maps.shape[-2:]
    x, y = cells.unbind(-1)
    grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=-1)
    return F.grid_sample(maps, grid, align_corners=True, padding_mode=outside)


def flow_embedding(flow: Float[Tensor, "*batch 2"], channels: int) -> Float[Tensor, "*batch channels"]:
    """Embed flow as interleaved sines and cosines of x, then of y, at evenly spaced frequencies from 0.

    Args:
        flow: Displacement (x, y) in cells.
        channels: Channels of the embedding; a multiple of 4.

    Returns:
        The embedding.
    """
    count = channels // 4
    frequencies = torch.arange(count, device=flow.device, dtype=flow.dtype) * (MAX_FLOW_FREQUENCY / count)
    angles = flow[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def position_embedding(
    cells: Float[Tensor, "batch query 2"], size: tuple[int, int], width: int
) -> Float[Tensor, "batch query width"]:
    """Embed positions as sines and cosines of the column, then of the row.

    The result equals bilinear sampling of a table with one entry per cell, clamped to the border. Because each entry
    depends on one axis only, linear interpolation along that axis suffices.

    Args:
        cells: Positions (x, y) in cells.
        size: Height and width of the maps in cells.
        width: Channels of the embedding; a multiple of 4.

    Returns:
        The embedding.
    """
    # float64 as in the published table: float32 would lose the last digits of the sine for hundreds of cells.
    exponents = torch.arange(width // 4, device=cells.device, dtype=torch.float64) / (width // 4)
    axes = []
    for position, count in zip(cells.unbind(-1), size[::-1], strict=True):
        inside = position.clamp(0, count - 1)[..., None]
        before = inside.floor()
        angles = [cell.double() * POSITION_BASE**-exponents for cell in (before, (before + 1).clamp(max=count - 1))]
        left, right = (torch.cat([angle.sin(), angle.cos()], dim=-1).to(cells.dtype) for angle in angles)
        axes.append(torch.lerp(left, right, inside - before))
    return torch.cat(axes, dim=-1)
