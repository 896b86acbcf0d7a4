"""The point tracker: where chosen pixels of one frame are in every other frame, refined a few times.

Every track keeps, for each frame, a position and a feature. Each refinement compares the feature with the frame's
feature maps around the position, and a transformer over all tracks and frames answers how both should change (Karaev
et al. 2023, "CoTracker"; Wang et al. 2025, "VGGT", whose track head this is, weight for weight).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.heads.vggt.tracker_update import UpdateTransformer
from recon4d.layers import BlockConfig
from recon4d.records import TensorRecord, full_precision

MAX_WINDOW_VALUES = 2**27
"""Feature values of correlation windows held at once (half a GiB in float32); more queries are taken in chunks."""
MAX_FLOW_FREQUENCY = 1000.0
"""Radians per cell that the frequencies of the flow embedding stay below."""
POSITION_BASE = 10000.0
"""Frequencies of the position embedding fall from 1 radian per cell toward this many times less."""


@dataclass(frozen=True)
class TrackerConfig:
    """The shape of a tracker; the defaults are VGGT's."""

    channels: int = 128
    """Channels of the feature maps, and of a track's feature; a multiple of 4."""
    stride: int = 2
    """Pixels of the image per cell of the feature maps."""
    first_centre: float = 0.5
    """The pixel coordinate of the first cell's center: 0.5 where maps were resized with aligned corners, as VGGT's
    are; stride / 2 where cells tile the picture."""
    levels: int = 7
    """Levels of the pyramid of feature maps, each half the size of the one before."""
    radius: int = 4
    """Cells on each side of a position that are compared, at every level."""
    width: int = 384
    heads: int = 8
    mlp_width: int = 1536
    depth: int = 6
    virtual_tracks: int = 64
    flow_scale: float = 518.0
    """Cells by which the plain flow is divided before the transformer sees it."""
    iterations: int = 4

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"a tracker was given {self.channels} channels; wanted a multiple of 4")
        if min(self.stride, self.levels, self.depth, self.virtual_tracks, self.iterations) < 1 or self.radius < 0:
            raise ValueError(f"a tracker needs a radius of 0 or more, and of all else 1 or more; given {self}")

    @property
    def block(self) -> BlockConfig:
        """What each block of the update transformer is made of."""
        return BlockConfig(self.width, self.heads, self.mlp_width, qk_norm="none", qkv_bias=True)

    @property
    def window(self) -> int:
        """Correlations of one position at one level."""
        return (2 * self.radius + 1) ** 2


@dataclass(frozen=True, eq=False)
class TrackedPoints(TensorRecord):
    """Where each query is in each frame, after every refinement, and how sure the tracker is."""

    stages: Float[Tensor, "*batch stage time query 2"]
    """Pixels (x, y) after each refinement; exactly the query in the frame that it was asked in."""
    visibility_logits: Float[Tensor, "*batch time query"]
    confidence_logits: Float[Tensor, "*batch time query"]

    @property
    def pixels(self) -> Float[Tensor, "*batch time query 2"]:
        """The last refinement: pixels (x, y) of the full image."""
        return self.stages[..., -1, :, :, :]

    @property
    def visibility(self) -> Float[Tensor, "*batch time query"]:
        """The probability that the point is seen in the frame."""
        return self.visibility_logits.sigmoid()

    @property
    def confidence(self) -> Float[Tensor, "*batch time query"]:
        """The probability that the pixel is right (VGGT: within a few pixels of the truth)."""
        return self.confidence_logits.sigmoid()


class Tracker(nn.Module):
    """Iterative refinement of tracks from feature maps; frames other than the query's are a set without order."""

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        # Flow embedding and features of the correlations and of the track, and the flow itself, twice.
        token_width = 3 * channels + 4
        self.map_norm = nn.LayerNorm(channels)
        self.correlation = nn.Sequential(
            nn.Linear(config.levels * config.window, config.width), nn.GELU(), nn.Linear(config.width, channels)
        )
        self.frame_tokens = nn.Parameter(torch.empty(1, 2, token_width))
        """Tells the query's frame (first) from the others (second)."""
        self.update = UpdateTransformer(config.block, config.depth, config.virtual_tracks, token_width, 2 + channels)
        self.feature_norm = nn.LayerNorm(channels)
        self.feature_update = nn.Linear(channels, channels)
        self.visibility = nn.Linear(channels, 1)
        self.confidence = nn.Linear(channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every point stays where its query was, and whether it is seen is even odds."""
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
        """Follow `queries`, pixels (x, y) of the full image in frame `query_frame` (of each clip), through all frames.

        Raises ``ValueError`` where shapes, the frame, or the size of the maps do not fit. Whether the queries are
        inside the image is for `check_queries`: values in tensors are not looked at here, which would wait for the
        device.
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
        told = frame_token + position_embedding(query_cells, (height, width), frame_token.shape[-1])[:, None]

        start = query_cells[:, None].expand(-1, time, -1, -1)
        cells = start
        asked = maps[torch.arange(batch, device=maps.device), query_frame]
        followed = read_maps(asked, query_cells[:, :, None], "border").squeeze(-1).transpose(1, 2)
        track = followed[:, None].expand(-1, time, -1, -1)
        stages = []
        for _ in range(config.iterations):
            # Positions carry no gradient from one refinement to the next (Teed and Deng 2020, "RAFT").
            cells = cells.detach()
            windows = local_correlation(pyramid, track.flatten(0, 1), cells.flatten(0, 1), config.radius)
            compared = self.correlation(windows).unflatten(0, (batch, time))
            flow = cells - start
            plain = flow / config.flow_scale
            known = [flow_embedding(flow, config.channels), plain, plain, compared, track]
            step, change = self.update(torch.cat(known, dim=-1) + told).split([2, config.channels], dim=-1)
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
            raise ValueError(f"the query frame is {query_frame}; wanted one of the {features.shape[1]} frames from 0")
        smallest = 2 ** (self.config.levels - 1)
        if min(features.shape[-2:]) < smallest:
            given = f"{self.config.levels} levels of feature maps of {tuple(features.shape[-2:])} cells"
            raise ValueError(f"the tracker wants {given}; they need {smallest} cells or more each way, or fewer levels")


def check_queries(queries: Float[Tensor, "*batch query 2"], size: tuple[int, int]) -> None:
    """Raises ``ValueError`` where a query, a pixel (x, y), is not inside an image of `size` (height, width)."""
    height, width = size
    x, y = queries.unbind(-1)
    # Said this way round, NaN is outside too.
    outside = ~((x >= 0) & (x <= width) & (y >= 0) & (y <= height))
    if outside.any():
        first = tuple(queries[outside][0].tolist())
        raise ValueError(
            f"{int(outside.sum())} of {outside.numel()} queries are outside the image, the first at {first}; "
            f"wanted x from 0 to {width} and y from 0 to {height}"
        )


def feature_pyramid(
    maps: Float[Tensor, "n channels height width"], levels: int
) -> list[Float[Tensor, "n channels _ _"]]:
    """The maps, and `levels` - 1 times their means over two by two cells; an odd last row or column is left out."""
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
    """What `features` have in common with the maps around `cells` (x, y), level by level, the column slowest.

    A bilinear reading is linear, so the product of a feature with what is read from the maps is what would be read
    from its products with all cells. Nothing is outside the maps. Queries are taken in chunks, and the windows are
    read again in the backward pass, so that few of them are held at once.
    """
    n, _, channels = features.shape
    chunk = max(1, MAX_WINDOW_VALUES // (n * (2 * radius + 1) ** 2 * channels))
    parts = [
        checkpoint(_correlate, pyramid, *some, radius, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else _correlate(pyramid, *some, radius)
        for some in zip(features.split(chunk, dim=1), cells.split(chunk, dim=1), strict=True)
    ]
    return torch.cat(parts, dim=1)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _correlate(pyramid: Sequence[Tensor], features: Tensor, cells: Tensor, radius: int) -> Tensor:
    steps = torch.arange(-radius, radius + 1, device=cells.device, dtype=cells.dtype)
    offsets = torch.cartesian_prod(steps, steps).reshape(-1, 2)
    features = features.transpose(1, 2) / math.sqrt(features.shape[-1])
    correlations = []
    for level, maps in enumerate(pyramid):
        windows = read_maps(maps, cells[:, :, None] / 2**level + offsets, "zeros")
        # Not a matrix product, which would first copy the windows and, under autocast, round them.
        correlations.append((windows * features[..., None]).sum(dim=1))
    return torch.cat(correlations, dim=-1)


def read_maps(
    maps: Float[Tensor, "n channels height width"], cells: Float[Tensor, "n rows columns 2"], outside: str
) -> Float[Tensor, "n channels rows columns"]:
    """Bilinear values at `cells` (x, y), the first cell's center being at 0; `outside` is "zeros" or "border".

    Along an axis of one cell that cell is read from everywhere: so it was where the published weights were trained.
    """
    height, width = maps.shape[-2:]
    x, y = cells.unbind(-1)
    grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=-1)
    return F.grid_sample(maps, grid, align_corners=True, padding_mode=outside)


def flow_embedding(flow: Float[Tensor, "*batch 2"], channels: int) -> Float[Tensor, "*batch channels"]:
    """Sines and cosines, side by side, of x and then of y at evenly spaced frequencies from 0."""
    count = channels // 4
    frequencies = torch.arange(count, device=flow.device, dtype=flow.dtype) * (MAX_FLOW_FREQUENCY / count)
    angles = flow[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def position_embedding(
    cells: Float[Tensor, "batch query 2"], size: tuple[int, int], width: int
) -> Float[Tensor, "batch query width"]:
    """Sines and cosines of the column, then of the row, of a position in maps of `size` (height, width).

    Between cells it is what a bilinear reading gives of a table with one entry for each cell, and outside the maps it
    is that of the border. A bilinear reading of what depends on one axis only is linear along that axis.
    """
    # In float64 as the published table was: hundreds of cells times a frequency would lose the sine's last digits.
    exponents = torch.arange(width // 4, device=cells.device, dtype=torch.float64) / (width // 4)
    embedded = []
    for place, count in zip(cells.unbind(-1), size[::-1], strict=True):
        inside = place.clamp(0, count - 1)[..., None]
        before = inside.floor()
        angles = [cell.double() * POSITION_BASE**-exponents for cell in (before, (before + 1).clamp(max=count - 1))]
        left, right = (torch.cat([angle.sin(), angle.cos()], dim=-1).to(cells.dtype) for angle in angles)
        embedded.append(torch.lerp(left, right, inside - before))
    return torch.cat(embedded, dim=-1)
