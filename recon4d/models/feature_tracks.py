"""Where points of some frames are in all others, as feature tracks: what classical geometry can refine."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry import evenly_spaced
from recon4d.heads import TrackHead
from recon4d.layers import Matching, cell_centers
from recon4d.models.network import Model
from recon4d.models.outputs import Outputs
from recon4d.models.point_tracks import query_grid, value_at
from recon4d.records import FeatureTracks

MOST_SOURCES = 12
"""Frames whose cells are followed; of longer clips, evenly spaced ones."""
FRAME_CHUNK = 4
"""Frames whose features are made at once."""
LEAST_MASS = 0.5
"""Probability that a match must have, both ways, or that a point is followed right and seen."""
RETURN_RADIUS = 1.0
"""Cells: a match that is followed back must end so near to where it began."""


def match_feature_tracks(model: Model, outputs: Outputs) -> FeatureTracks:
    """Tracks of points of up to `MOST_SOURCES` frames, seen wherever the model is sure of them.

    `outputs` are those of one batch of `model`; pixels are those of its maps. Points on what moves (by the outputs'
    moving map, where there is one) are seen nowhere. Raises ``ValueError`` where the model neither matches nor
    follows points.
    """
    time = outputs.scene.num_frames
    sources = evenly_spaced(time, MOST_SOURCES)
    if model.matching is not None:
        pixels, seen = _matched(model.matching, outputs, sources, model.patch_size)
    elif model.track_head is not None:
        pixels, seen = _followed(model, model.track_head, outputs, sources)
    else:
        raise ValueError(f"{model.name} neither matches nor follows points: its cameras cannot be refined")

    queries = pixels[torch.arange(len(pixels))[:, None], torch.arange(len(sources)), sources]
    moving = _at_pixels(outputs.scene.dynamic[:, sources.to(pixels.device)], queries)
    # Where nothing says what moves, that is left to the geometry.
    seen = seen * ~(moving > 0.5)[:, :, None]
    return FeatureTracks(pixels.transpose(1, 2).flatten(2, 3), seen.transpose(1, 2).flatten(2, 3))


def _matched(
    matching: Matching, outputs: Outputs, sources: Int[Tensor, "source"], patch_size: int
) -> tuple[Float[Tensor, "batch source time cells 2"], Float[Tensor, "batch source time cells"]]:
    """One track for each cell, seen wherever its match is certain and comes back."""
    assert outputs.cell_features is not None
    batch, time = outputs.cell_features.shape[:2]
    height, width = outputs.scene.size
    grid = (height // patch_size, width // patch_size)
    device = outputs.cell_features.device
    source, target = torch.cartesian_prod(sources, torch.arange(time)).T.to(device)
    there_and_back = [
        matching.match(
            outputs.cell_features,
            first.expand(batch, -1),
            second.expand(batch, -1),
            torch.ones(batch, len(first), dtype=torch.bool, device=device),
            grid,
        )
        for first, second in ((source, target), (target, source))
    ]
    there, back = there_and_back
    centers = cell_centers(grid, matching.cell_size, there.positions)
    landed = _cell_at(there.positions, matching.cell_size, height, width)
    returned = back.positions.gather(2, landed[..., None].expand(-1, -1, -1, 2))
    is_back = (returned - centers).norm(dim=-1) <= RETURN_RADIUS * matching.cell_size
    certain = torch.minimum(there.mass, back.mass.gather(2, landed))
    seen = torch.where(is_back & (certain >= LEAST_MASS), certain, 0.0)
    is_source = (source == target)[None, :, None]
    pixels = torch.where(is_source[..., None], centers, there.positions)
    seen = torch.where(is_source, torch.ones_like(seen), seen)

    over_sources = (len(sources), time)
    return pixels.unflatten(1, over_sources), seen.unflatten(1, over_sources)


def _followed(
    model: Model, head: TrackHead, outputs: Outputs, sources: Int[Tensor, "source"]
) -> tuple[Float[Tensor, "batch source time query 2"], Float[Tensor, "batch source time query"]]:
    """One track for each pixel of a grid, seen wherever the tracker sees it and is sure."""
    scene = outputs.scene
    features = model.track_features(outputs.features, scene.size, FRAME_CHUNK)
    queries = query_grid(*scene.size, head.query_stride, scene.depths).expand(len(features), -1, -1)
    followed = [head(features, queries, frame) for frame in sources.tolist()]
    pixels = torch.stack([one.pixels for one in followed], dim=1)
    certain = torch.stack([torch.minimum(one.visibility, one.confidence) for one in followed], dim=1)
    # At its own frame a point is where it was asked for.
    is_source = (sources[:, None] == torch.arange(scene.num_frames)).to(certain.device)[..., None]
    return pixels, torch.where(is_source, 1.0, torch.where(certain >= LEAST_MASS, certain, 0.0))


def _cell_at(
    pixels: Float[Tensor, "batch pair cells 2"], cell_size: float, height: int, width: int
) -> Int[Tensor, "batch pair cells"]:
    """The number of the cell that holds each pixel, row by row."""
    columns, rows = round(width / cell_size), round(height / cell_size)
    column = (pixels[..., 0] / cell_size).long().clamp(0, columns - 1)
    row = (pixels[..., 1] / cell_size).long().clamp(0, rows - 1)
    return row * columns + column


def _at_pixels(
    maps: Float[Tensor, "batch source height width"], pixels: Float[Tensor, "batch source query 2"]
) -> Float[Tensor, "batch source query"]:
    return value_at(maps[..., None], pixels)[..., 0]
