"""2D feature tracks from a model's own correspondences, the input of classical refinement."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices
from recon4d.heads import TrackHead
from recon4d.layers import Matching, cell_centers
from recon4d.models.network import Model
from recon4d.models.outputs import Outputs
from recon4d.models.point_tracks import query_grid, sample_nearest
from recon4d.records import DYNAMIC_THRESHOLD, FeatureTracks

MAX_SOURCE_FRAMES = 12
"""Largest number of frames that tracks start from; longer clips are subsampled evenly. Hand-tuned."""
FRAME_CHUNK = 4
"""Number of frames whose track features are computed at once."""
MIN_PROBABILITY = 0.5
"""Smallest probability of a reliable correspondence. Hand-tuned.

For matching, the probability mass in both directions; for the track head, visibility and confidence.
"""
MAX_CYCLE_ERROR = 1.0
"""Largest forward-backward error of a reliable match, in cells. Hand-tuned."""


def match_feature_tracks(model: Model, outputs: Outputs) -> FeatureTracks:
    """Track points of up to `MAX_SOURCE_FRAMES` source frames through all frames.

    Args:
        model: A model with a matching layer or a track head.
        outputs: Outputs of `model` for a batch of clips.

    Returns:
        Feature tracks in pixels of the predicted maps. Visibility is 0 where a correspondence is unreliable, and
        everywhere for points whose dynamic probability exceeds 0.5.

    Raises:
        UserError: If the model has neither a matching layer nor a track head.
    """
    time = outputs.scene.num_frames
    sources = evenly_spaced_indices(time, MAX_SOURCE_FRAMES)
    if model.matching is not None:
        pixels, visibility = _tracks_by_matching(model.matching, outputs, sources, model.patch_size)
    elif model.track_head is not None:
        pixels, visibility = _tracks_by_track_head(model, model.track_head, outputs, sources)
    else:
        raise UserError(
            f"model {model.name} has neither matching nor a track head, so its cameras cannot be refined; "
            "use another model"
        )

    queries = pixels[torch.arange(len(pixels))[:, None], torch.arange(len(sources)), sources]
    dynamic = _sample_scalar_maps(outputs.scene.dynamic[:, sources.to(pixels.device)], queries)
    # An unknown dynamic probability (NaN) keeps the point: geometric verification decides.
    visibility = visibility * ~(dynamic > DYNAMIC_THRESHOLD)[:, :, None]
    return FeatureTracks(pixels.transpose(1, 2).flatten(2, 3), visibility.transpose(1, 2).flatten(2, 3))


def _tracks_by_matching(
    matching: Matching, outputs: Outputs, sources: Int[Tensor, "source"], patch_size: int
) -> tuple[Float[Tensor, "batch source time cells 2"], Float[Tensor, "batch source time cells"]]:
    """Track the cell centers of the source frames; a track is visible if its match passes a forward-backward check."""
    assert outputs.cell_features is not None
    batch, time = outputs.cell_features.shape[:2]
    height, width = outputs.scene.size
    grid = (height // patch_size, width // patch_size)
    device = outputs.cell_features.device
    source, target = torch.cartesian_prod(sources, torch.arange(time)).T.to(device)
    forward, backward = (
        matching.match(
            outputs.cell_features,
            first.expand(batch, -1),
            second.expand(batch, -1),
            torch.ones(batch, len(first), dtype=torch.bool, device=device),
            grid,
            outputs.two_view,
        )
        for first, second in ((source, target), (target, source))
    )
    centers = cell_centers(grid, matching.cell_size, forward.positions)
    matched_cells = _cell_indices(forward.positions, matching.cell_size, height, width)
    returned = backward.positions.gather(2, matched_cells[..., None].expand(-1, -1, -1, 2))
    is_consistent = (returned - centers).norm(dim=-1) <= MAX_CYCLE_ERROR * matching.cell_size
    certainty = torch.minimum(forward.mass, backward.mass.gather(2, matched_cells))
    visibility = torch.where(is_consistent & (certainty >= MIN_PROBABILITY), certainty, 0.0)
    is_source = (source == target)[None, :, None]
    pixels = torch.where(is_source[..., None], centers, forward.positions)
    visibility = torch.where(is_source, torch.ones_like(visibility), visibility)

    over_sources = (len(sources), time)
    return pixels.unflatten(1, over_sources), visibility.unflatten(1, over_sources)


def _tracks_by_track_head(
    model: Model, head: TrackHead, outputs: Outputs, sources: Int[Tensor, "source"]
) -> tuple[Float[Tensor, "batch source time query 2"], Float[Tensor, "batch source time query"]]:
    """Track a grid of pixels of the source frames; a track is visible where the track head is confident of it."""
    scene = outputs.scene
    features = model.track_features(outputs.features, scene.size, FRAME_CHUNK)
    queries = query_grid(*scene.size, head.query_stride, scene.depths).expand(len(features), -1, -1)
    tracked = [head(features, queries, frame) for frame in sources.tolist()]
    pixels = torch.stack([track.pixels for track in tracked], dim=1)
    certainty = torch.stack([torch.minimum(track.visibility, track.confidence) for track in tracked], dim=1)
    # In its source frame a query is visible by definition.
    is_source = (sources[:, None] == torch.arange(scene.num_frames)).to(certainty.device)[..., None]
    return pixels, torch.where(is_source, 1.0, torch.where(certainty >= MIN_PROBABILITY, certainty, 0.0))


def _cell_indices(
    pixels: Float[Tensor, "batch pair cells 2"], cell_size: float, height: int, width: int
) -> Int[Tensor, "batch pair cells"]:
    """Return the row-major index of the cell that contains each pixel."""
    columns, rows = round(width / cell_size), round(height / cell_size)
    column = (pixels[..., 0] / cell_size).long().clamp(0, columns - 1)
    row = (pixels[..., 1] / cell_size).long().clamp(0, rows - 1)
    return row * columns + column


def _sample_scalar_maps(
    maps: Float[Tensor, "batch source height width"], pixels: Float[Tensor, "batch source query 2"]
) -> Float[Tensor, "batch source query"]:
    return sample_nearest(maps[..., None], pixels)[..., 0]
