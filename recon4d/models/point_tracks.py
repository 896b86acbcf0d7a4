"""Tracks of a grid of pixels: followed through the pictures by the tracker, lifted to the world by the point maps."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry import rows_and_columns
from recon4d.heads import TrackHead
from recon4d.records import Tracks


def point_tracks(
    head: TrackHead,
    features: Float[Tensor, "batch time channels feature_height feature_width"],
    points: Float[Tensor, "batch time height width 3"],
    point_confidence: Float[Tensor, "batch time height width"],
    anchors: Int[Tensor, "batch anchor"],
) -> Tracks:
    """Tracks of a grid of pixels of each anchor, one in the middle of every `head.query_stride` pixels.

    Where a point is in the world is what the point map says at the pixel it was followed to. A point that is hidden
    or lost lies on whatever is seen there instead, and `visible` says so. Confidence is the point map's where the
    tracker is certain, and falls to 1 with the tracker's own.
    """
    batch, _, height, width, _ = points.shape
    queries = query_grid(height, width, head.query_stride, points)
    followed = [head(features, queries.expand(batch, -1, -1), column) for column in anchors.unbind(dim=1)]
    pixels = torch.stack([one.pixels for one in followed], dim=1)
    maps = torch.cat([points, point_confidence[..., None]], dim=-1)
    lifted = value_at(maps[:, None].expand(-1, anchors.shape[1], -1, -1, -1, -1), pixels)
    certain = torch.stack([one.confidence for one in followed], dim=1)
    return Tracks(
        points=lifted[..., :3],
        visibility=torch.stack([one.visibility for one in followed], dim=1),
        confidence=1 + certain * (lifted[..., 3] - 1),
        anchors=anchors,
        pixels=queries.expand(batch, anchors.shape[1], -1, -1),
    )


def query_grid(height: int, width: int, stride: int, like: Tensor) -> Float[Tensor, "query 2"]:
    """Pixels (x, y) in the middle of every `stride` x `stride` pixels, row by row; the first pixel's center is .5."""
    rows, columns = (
        torch.arange(stride / 2, max(side, stride / 2 + 1), stride, device=like.device, dtype=like.dtype)
        for side in (height, width)
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)


def value_at(
    maps: Float[Tensor, "*frames height width channels"], pixels: Float[Tensor, "*frames query 2"]
) -> Float[Tensor, "*frames query channels"]:
    """Each map at its own pixels (x, y), of the nearest pixel: a mean over an edge would lie on neither side."""
    height, width, channels = maps.shape[-3:]
    row, column = rows_and_columns(pixels, (height, width))
    place = (row * width + column)[..., None].expand(*pixels.shape[:-1], channels)
    return maps.flatten(-3, -2).gather(-2, place)
