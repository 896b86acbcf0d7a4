"""Which cells of some frames were matched in all others, as feature tracks: what classical geometry can refine."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.matching import cell_centres
from recon4d.model.network import Model
from recon4d.model.outputs import Outputs
from recon4d.records import FeatureTracks

MOST_SOURCES = 12
"""Frames whose cells are followed; of longer clips, evenly spaced ones."""
LEAST_MASS = 0.5
"""Probability that a match must have, both ways."""
RETURN_RADIUS = 1.0
"""Cells: a match that is followed back must end so near to where it began."""


def match_feature_tracks(model: Model, outputs: Outputs) -> FeatureTracks:
    """One track for each cell of up to `MOST_SOURCES` frames, seen wherever its match is certain and comes back.

    Cells on what moves (by the outputs' moving map) are seen nowhere. `outputs` are those of one batch of `model`;
    pixels are those of its maps.
    """
    batch, time = outputs.cell_features.shape[:2]
    height, width = outputs.scene.size
    grid = (height // model.patch_size, width // model.patch_size)
    device = outputs.cell_features.device
    sources = torch.from_numpy(np.unique(np.linspace(0, time - 1, min(time, MOST_SOURCES)).round().astype(int)))
    source, target = torch.cartesian_prod(sources, torch.arange(time)).T.to(device)
    there_and_back = [
        model.matching.match(
            outputs.cell_features,
            first.expand(batch, -1),
            second.expand(batch, -1),
            torch.ones(batch, len(first), dtype=torch.bool, device=device),
            grid,
        )
        for first, second in ((source, target), (target, source))
    ]
    there, back = there_and_back
    centres = cell_centres(grid, model.matching.cell_size, there.positions)
    landed = _cell_at(there.positions, model.matching.cell_size, height, width)
    returned = back.positions.gather(2, landed[..., None].expand(-1, -1, -1, 2))
    is_back = (returned - centres).norm(dim=-1) <= RETURN_RADIUS * model.matching.cell_size
    certain = torch.minimum(there.mass, back.mass.gather(2, landed))
    seen = torch.where(is_back & (certain >= LEAST_MASS), certain, 0.0)
    is_source = (source == target)[None, :, None]
    pixels = torch.where(is_source[..., None], centres, there.positions)
    seen = torch.where(is_source, torch.ones_like(seen), seen)

    moving = _at_cells(outputs.scene.moving[:, sources.to(device)], centres)
    over_sources = (len(sources), time)
    seen = seen.unflatten(1, over_sources) * (moving <= 0.5)[:, :, None]
    pixels = pixels.unflatten(1, over_sources)
    return FeatureTracks(pixels.transpose(1, 2).flatten(2, 3), seen.transpose(1, 2).flatten(2, 3))


def _cell_at(
    pixels: Float[Tensor, "batch pair cells 2"], cell_size: float, height: int, width: int
) -> Int[Tensor, "batch pair cells"]:
    """The number of the cell that holds each pixel, row by row."""
    columns, rows = round(width / cell_size), round(height / cell_size)
    column = (pixels[..., 0] / cell_size).long().clamp(0, columns - 1)
    row = (pixels[..., 1] / cell_size).long().clamp(0, rows - 1)
    return row * columns + column


def _at_cells(
    maps: Float[Tensor, "batch source height width"], centres: Float[Tensor, "cells 2"]
) -> Float[Tensor, "batch source cells"]:
    column, row = centres.long().unbind(-1)
    return maps[..., row, column]
