"""Selection of displayed pixels and tracks: away from depth edges, in bands of confidence, evenly subsampled."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import stratified_indices
from recon4d.io.flying_pixels import flying_pixels
from recon4d.records import Scene, Tracks

BANDS = ("low", "middle", "high")
"""Names of the confidence bands, least confident first."""

BAND_PERCENTILES = (20.0, 60.0)
"""Lower bounds of the middle and high band, as percentiles of the confidence of all displayable pixels. Hand-tuned."""


def displayable_pixels(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Select pixels with known depth and camera that are not flying (`flying_pixels`), as exports do.

    Args:
        scene: Any scene.

    Returns:
        Mask of the pixels.
    """
    is_known = known_depth(scene) & has_camera(scene)[:, None, None]
    return is_known & ~flying_pixels(scene.depths, is_known)


def has_camera(scene: Scene) -> Bool[Tensor, " time"]:
    """Find the frames whose camera is known.

    Args:
        scene: Any scene.

    Returns:
        Mask of the frames.
    """
    poses = torch.isfinite(scene.cameras.world_from_cam).all(-1).all(-1)
    return poses & torch.isfinite(scene.cameras.intrinsics).all(-1).all(-1)


def known_depth(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Find the pixels whose depth is known, finite and positive.

    Args:
        scene: Any scene.

    Returns:
        Mask of the pixels.
    """
    return (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)


def band_map(
    confidence: Float[Tensor, "time height width"], shown: Bool[Tensor, "time height width"]
) -> Int[Tensor, "time height width"]:
    """Assign each pixel to a confidence band.

    The thresholds are percentiles over the whole clip. Pixels at a threshold belong to the upper band, so that constant
    confidence, as in ground truth, falls into the high band.

    Args:
        confidence: Confidence of each pixel.
        shown: Pixels to assign.

    Returns:
        Index into `BANDS` for each pixel; -1 for pixels that are not shown.
    """
    bands = torch.full(confidence.shape, -1, dtype=torch.int64, device=confidence.device)
    if not shown.any():
        return bands
    # torch.quantile accepts at most 16 million values, numpy any number.
    values = confidence[shown].detach().cpu().numpy()
    # "higher" returns a value that occurs; interpolation could round to just above a constant.
    thresholds = np.percentile(values, BAND_PERCENTILES, method="higher").tolist()
    bands[shown] = 0
    for threshold in thresholds:
        bands += (shown & (confidence >= threshold)).long()
    return bands


def select_queries(scene: Scene, tracks: Tracks, anchor: int, limit: int, movers_only: bool) -> Int[Tensor, " n"]:
    """Select the displayed tracks of an anchor.

    Unless only movers are wanted, up to half of them start on dynamic pixels, which are few and most interesting, and
    the others are distributed evenly.

    Args:
        scene: The scene of the tracks.
        tracks: All tracks.
        anchor: Index of the anchor.
        limit: Largest number of tracks.
        movers_only: Whether only tracks that start on dynamic pixels are selected.

    Returns:
        Ascending indices of queries whose position is known at some time.
    """
    known = is_track_known(tracks)[anchor].any(dim=0)
    starts_dynamic = known & _starts_on_dynamic_pixel(scene, tracks, anchor)
    dynamic, static = starts_dynamic.nonzero()[:, 0], (known & ~starts_dynamic).nonzero()[:, 0]
    if movers_only:
        return dynamic[stratified_indices(len(dynamic), limit)]
    dynamic = dynamic[stratified_indices(len(dynamic), max(limit - len(static), (limit + 1) // 2))]
    static = static[stratified_indices(len(static), limit - len(dynamic))]
    return torch.cat([dynamic, static]).sort().values


def is_track_known(tracks: Tracks) -> Bool[Tensor, "anchor time query"]:
    """Find the track entries whose position is known and finite.

    Args:
        tracks: Any tracks.

    Returns:
        Mask of the entries.
    """
    return (tracks.confidence > 0) & torch.isfinite(tracks.points).all(dim=-1)


def _starts_on_dynamic_pixel(scene: Scene, tracks: Tracks, anchor: int) -> Bool[Tensor, " query"]:
    """Whether each query starts on a dynamic pixel; False if the anchor frame is not part of the scene."""
    frame = int(tracks.anchors[anchor])
    if frame < 0:
        return torch.zeros(tracks.pixels.shape[1], dtype=torch.bool, device=tracks.pixels.device)
    height, width = scene.size
    column, row = tracks.pixels[anchor].floor().long().unbind(dim=-1)
    return scene.is_dynamic[frame][row.clamp(0, height - 1), column.clamp(0, width - 1)]
