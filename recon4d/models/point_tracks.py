"""Sparse 3D tracks of a pixel grid: 2D tracks of the track head, lifted to the world by the point maps."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry import pixel_indices
from recon4d.heads import TrackHead
from recon4d.records import Tracks


def point_tracks(
    head: TrackHead,
    features: Float[Tensor, "batch time channels feature_height feature_width"],
    points: Float[Tensor, "batch time height width 3"],
    point_confidence: Float[Tensor, "batch time height width"],
    anchors: Int[Tensor, "batch anchor"],
) -> Tracks:
    """Track a grid of pixels of each anchor frame, one query per `head.query_stride` pixels in both directions.

    The world position is the value of the point map at the tracked pixel. The position of an occluded or lost point
    therefore lies on the surface in front of it, with a low visibility. The confidence interpolates between 1 and that
    of the point map by the confidence of the track head.

    Args:
        head: The track head.
        features: Feature maps of all frames (`Model.track_features`).
        points: Point maps in world coordinates.
        point_confidence: Confidence of the point maps.
        anchors: Indices of the anchor frames.

    Returns:
        Tracks of the grid.
    """
    batch, _, height, width, _ = points.shape
    queries = query_grid(height, width, head.query_stride, points)
    tracked = [head(features, queries.expand(batch, -1, -1), anchor) for anchor in anchors.unbind(dim=1)]
    pixels = torch.stack([track.pixels for track in tracked], dim=1)
    maps = torch.cat([points, point_confidence[..., None]], dim=-1)
    lifted = sample_nearest(maps[:, None].expand(-1, anchors.shape[1], -1, -1, -1, -1), pixels)
    certainty = torch.stack([track.confidence for track in tracked], dim=1)
    return Tracks(
        points=lifted[..., :3],
        visibility=torch.stack([track.visibility for track in tracked], dim=1),
        confidence=1 + certainty * (lifted[..., 3] - 1),
        anchors=anchors,
        pixels=queries.expand(batch, anchors.shape[1], -1, -1),
    )


def query_grid(height: int, width: int, stride: int, like: Tensor) -> Float[Tensor, "query 2"]:
    """Create a grid of query pixels, one at the center of every `stride` x `stride` pixels.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        stride: Distance between queries in pixels.
        like: Tensor of any shape that gives device and dtype.

    Returns:
        Pixel coordinates (x, y) in row-major order; the center of the first pixel is (0.5, 0.5).
    """
    rows, columns = (
        torch.arange(stride / 2, max(side, stride / 2 + 1), stride, device=like.device, dtype=like.dtype)
        for side in (height, width)
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)


def sample_nearest(
    maps: Float[Tensor, "*frames height width channels"], pixels: Float[Tensor, "*frames query 2"]
) -> Float[Tensor, "*frames query channels"]:
    """Sample maps at pixel coordinates by nearest neighbor: interpolation across an edge would lie on neither side.

    Args:
        maps: Maps of each frame.
        pixels: Pixel coordinates (x, y) in each frame, clamped to the image.

    Returns:
        Values at the pixels.
    """
    height, width, channels = maps.shape[-3:]
    row, column = pixel_indices(pixels, (height, width))
    index = (row * width + column)[..., None].expand(*pixels.shape[:-1], channels)
    return maps.flatten(-3, -2).gather(-2, index)
