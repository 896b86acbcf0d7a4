"""Matching layer: differentiable correspondences between the cells of two frames, with their uncertainty.

Matching makes geometry learnable from scratch: without it, predicted cameras and motion stay at zero. A cell is half a
patch wide. Normalized features of two frames are correlated, a learned dustbin collects cells without a match, and the
position is the expectation over a window around the best cell, which gives subcell precision. That is soft matching,
the default; `MatchingConfig.assignment` selects one of the other matchers (`recon4d.layers.matchers`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.layers.matchers import (
    HoughMatcher,
    Matcher,
    NearestMatcher,
    SinkhornMatcher,
    SoftMatcher,
    TwoViewFilter,
)
from recon4d.records import DYNAMIC_THRESHOLD, Cameras, TensorRecord, full_precision
from recon4d.records.configs import FILE_KEY

CELLS_PER_PATCH_SIDE = 2
"""Cells along each side of a patch. Part of the architecture: checkpoints depend on it."""
NUM_NEIGHBORS = 3
"""Number of frames that each frame is matched to: the first, the previous and the next in time."""
MAX_LOGITS = 2**25
"""Largest number of correlations of a clip computed at once (128 MiB in float32); more frame pairs are split into
chunks."""
MIN_EPIPOLAR_WIDTH = math.sqrt(0.5)
"""Smallest width of the epipolar filter in cells: the center of the cell that contains a point is that near to it."""

AssignmentKind = Literal["soft", "sinkhorn", "nearest", "hough"]
"""Way to assign the cells of one frame to those of another."""


@dataclass(frozen=True)
class MatchingConfig:
    """Configuration of the matching layer.

    The parameters of the layer do not depend on `assignment`, so trained weights can be used with any of them.

    Raises:
        UserError: If a value is out of range.
    """

    after_block: int = field(default=1, metadata={FILE_KEY: "after_pair"})
    """Number of (frame, global) pairs of aggregator blocks before matching."""
    channels: int = 128
    """Number of channels of the cell features."""
    temperature: float = 0.07
    """Initial temperature of the softmax over correlations; learned."""
    dustbin_logit: float = field(default=10.0, metadata={FILE_KEY: "no_match_logit"})
    """Initial logit of the dustbin, which collects cells without a match; learned."""
    assignment: AssignmentKind = "soft"
    """How cells are assigned: by a softmax for each cell, by Sinkhorn's algorithm (target cells are shared out too), to
    mutual nearest neighbors, or by Hough voting of neighboring cells for a displacement."""
    sinkhorn_iterations: int = 5
    """Number of iterations of Sinkhorn's algorithm; with 0 it equals the softmax. More than 5 change nothing for the
    default model (`python -m benchmarks.matchers`)."""
    hough_radius: int = 3
    """Largest distance of the cells that vote for the displacement of a cell, in cells. Hand-tuned (`python -m
    benchmarks.matchers`)."""
    epipolar_width: float | None = None
    """Cells farther than this from the epipolar line of known or predicted cameras are not matched, in cells; None
    considers all cells. Moving objects leave the lines."""

    def __post_init__(self) -> None:
        if self.assignment not in _MATCHERS:
            raise UserError(f"assignment is {self.assignment!r}, wanted one of {', '.join(_MATCHERS)}")
        if self.sinkhorn_iterations < 0 or self.hough_radius < 0:
            raise UserError(
                f"sinkhorn_iterations ({self.sinkhorn_iterations}) and hough_radius ({self.hough_radius}) must not be "
                "negative"
            )
        if self.epipolar_width is not None and not self.epipolar_width >= MIN_EPIPOLAR_WIDTH:
            raise UserError(
                f"epipolar_width is {self.epipolar_width} cells, wanted at least {MIN_EPIPOLAR_WIDTH:.2f} so that the "
                "cell of the true match is never excluded"
            )


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
    target_potentials: Float[Tensor, "*batch pair cell"] | None = None
    """Addition to the logits of each cell of the target frame, from Sinkhorn's algorithm; None for other matchers."""


class Matching(nn.Module):
    """Matching layer: cell features, correspondences between frames, and the resulting update of patch tokens.

    Args:
        config: Configuration of the layer.
        width: Number of channels of the patch tokens.
        patch_size: Side of a patch in pixels.
        eighth_channels: Number of channels of backbone features at an eighth of the image size; 0 if there are none.
    """

    def __init__(self, config: MatchingConfig, width: int, patch_size: int, eighth_channels: int) -> None:
        super().__init__()
        self.after_block = config.after_block
        self.matcher: Matcher = _MATCHERS[config.assignment](config)
        self.epipolar_width = config.epipolar_width
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
        two_view: TwoViewFilter | None = None,
    ) -> Matches:
        """Match the cells of query frames to target frames.

        Args:
            features: Cell features of all frames (`features`).
            query_frames: Index of the query frame of each pair.
            target_frames: Index of the target frame of each pair.
            valid: Pairs that exist; the matches of others are zero.
            grid: Number of patch rows and columns.
            two_view: Epipolar constraint of the cells (`two_view_filter`); None for none.

        Returns:
            Matches with positions in pixels.
        """
        num_cells = features.shape[2]
        flat = features.flatten(0, 1)
        offsets = features.shape[1] * torch.arange(features.shape[0], device=features.device)[:, None]
        # Chunks of the pairs of a clip: their number does not depend on the batch, which exported networks leave open.
        chunk = max(1, MAX_LOGITS // num_cells**2)
        queries, targets = (
            [part.flatten() for part in (frames + offsets).split(chunk, dim=1)]
            for frames in (query_frames, target_frames)
        )
        scale = torch.exp(-full_precision(self.log_temperature))
        cell_grid = (grid[0] * CELLS_PER_PATCH_SIDE, grid[1] * CELLS_PER_PATCH_SIDE)
        centers = cell_centers(grid, self.cell_size, full_precision(flat))
        with torch.autocast(features.device.type, enabled=False):
            parts = [
                self.matcher(
                    scale * flat[query],
                    flat[target],
                    full_precision(self.no_match),
                    cell_grid,
                    None if two_view is None else two_view.allowed(query, target, centers),
                )
                for query, target in zip(queries, targets, strict=True)
            ]
        positions, mass, deviation, log_partition, potentials = (
            _concatenate(part, valid) for part in zip(*parts, strict=True)
        )
        assert positions is not None
        assert mass is not None
        assert deviation is not None
        assert log_partition is not None
        return Matches(
            query_frames=query_frames,
            target_frames=target_frames,
            valid=valid,
            positions=positions * self.cell_size,
            mass=mass,
            standard_deviation=deviation * self.cell_size,
            log_partition=log_partition,
            target_potentials=potentials,
        )

    def match_neighbors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        times: Float[Tensor, "batch time"],
        grid: tuple[int, int],
        two_view: TwoViewFilter | None = None,
    ) -> Matches:
        """Match every frame to the first, the previous and the next frame in time.

        Args:
            features: Cell features of all frames.
            times: Time of each frame in seconds; NaN if unknown.
            grid: Number of patch rows and columns.
            two_view: Epipolar constraint of the cells; None for none.

        Returns:
            Matches of the pairs (frame, neighbor), flattened with the neighbor fastest.
        """
        targets, valid = temporal_neighbors(times)
        queries = torch.arange(times.shape[1], device=times.device)[:, None].expand_as(targets)
        return self.match(features, queries.flatten(1), targets.flatten(1), valid.flatten(1), grid, two_view)

    def match_anchors(
        self,
        features: Float[Tensor, "batch time cells channels"],
        anchors: Int[Tensor, "batch anchor"],
        grid: tuple[int, int],
        two_view: TwoViewFilter | None = None,
    ) -> Matches:
        """Match every anchor frame to every frame.

        Args:
            features: Cell features of all frames.
            anchors: Indices of the anchor frames.
            grid: Number of patch rows and columns.
            two_view: Epipolar constraint of the cells; None for none.

        Returns:
            Matches of the pairs (anchor, frame), flattened with the frame fastest.
        """
        time = features.shape[1]
        queries = anchors[:, :, None].expand(-1, -1, time).flatten(1)
        targets = torch.arange(time, device=features.device).expand(*anchors.shape, -1).flatten(1)
        return self.match(features, queries, targets, torch.ones_like(queries, dtype=torch.bool), grid, two_view)

    def two_view_filter(
        self,
        known: Cameras | None,
        predicted: Cameras | None = None,
        dynamic: Float[Tensor, "batch time height width"] | None = None,
    ) -> TwoViewFilter | None:
        """Build the epipolar constraint of `MatchingConfig.epipolar_width`.

        Args:
            known: Known cameras, NaN for frames without; None if there are none.
            predicted: Predicted cameras, for pairs of frames of which one is not known; None if there are none.
            dynamic: Predicted dynamic probability, NaN if unknown; cells with a dynamic pixel are not constrained.

        Returns:
            The constraint, or None if the layer does not use it or no camera is given.
        """
        cameras = predicted if known is None else known
        if self.epipolar_width is None or cameras is None:
            return None
        unconstrained = None
        if dynamic is not None:
            rows, columns = (round(side / self.cell_size) for side in dynamic.shape[-2:])
            # An unknown probability (NaN) compares as false.
            is_dynamic = (dynamic.detach() > DYNAMIC_THRESHOLD).to(torch.float32)
            unconstrained = F.adaptive_max_pool2d(is_dynamic, (rows, columns)).flatten(2) > 0
        width = self.epipolar_width * self.cell_size
        return TwoViewFilter.from_cameras(cameras, width, None if known is None else predicted, unconstrained)

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


def _concatenate(parts: Sequence[Tensor | None], valid: Bool[Tensor, "batch pair"]) -> Tensor | None:
    """Concatenate the values of chunks of pairs, with zeros for invalid pairs; None if there are no values."""
    chunks = [part.unflatten(0, (valid.shape[0], -1)) for part in parts if part is not None]
    if not chunks:
        return None
    values = torch.cat(chunks, dim=1)
    return torch.where(_expand_like(valid, values), values, torch.zeros_like(values))


def _expand_like(valid: Tensor, values: Tensor) -> Tensor:
    """Append singleton axes to `valid` so that it broadcasts against `values`."""
    return valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))


_MATCHERS: dict[str, Callable[[MatchingConfig], Matcher]] = {
    "soft": lambda config: SoftMatcher(),
    "sinkhorn": lambda config: SinkhornMatcher(config.sinkhorn_iterations),
    "nearest": lambda config: NearestMatcher(),
    "hough": lambda config: HoughMatcher(config.hough_radius),
}
"""Matcher of each assignment."""
