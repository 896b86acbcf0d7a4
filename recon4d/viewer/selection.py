"""Which pixels and tracks of a scene are shown: away from depth edges, in bands of confidence, thinned evenly."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import is_depth_edge, stratified_indices
from recon4d.records import Scene, Tracks

BANDS = ("low", "middle", "high")
"""Names of the bands of confidence, least confident first."""

BAND_PERCENTILES = (20.0, 60.0)
"""Where the middle and the high band begin: percentiles of the confidence of all pixels that can be shown."""

MOVING_PROBABILITY = 0.5
"""From this probability on a pixel counts as moving; where nothing says so it counts as still."""


def showable(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Pixels of known, positive depth and known camera that lie on no depth edge."""
    is_known = known_depth(scene) & has_camera(scene)[:, None, None]
    return is_known & ~is_depth_edge(scene.depths, is_known)


def has_camera(scene: Scene) -> Bool[Tensor, " time"]:
    """Frames whose camera is known."""
    poses = torch.isfinite(scene.cameras.world_from_cam).all(-1).all(-1)
    return poses & torch.isfinite(scene.cameras.intrinsics).all(-1).all(-1)


def known_depth(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Pixels whose depth is known, finite and positive."""
    return (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)


def is_dynamic(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Pixels that probably move in the world; NaN says nothing and is false."""
    return scene.dynamic >= MOVING_PROBABILITY


def band_map(
    confidence: Float[Tensor, "time height width"], shown: Bool[Tensor, "time height width"]
) -> Int[Tensor, "time height width"]:
    """The band of every pixel as an index of `BANDS`, -1 where it is not `shown`.

    One pair of thresholds holds for the whole clip. Pixels at a threshold belong above it, so that where confidence
    is constant, as for truth, all are in the high band.
    """
    bands = torch.full(confidence.shape, -1, dtype=torch.int64, device=confidence.device)
    if not shown.any():
        return bands
    # numpy: torch.quantile refuses more than 16 million values.
    values = confidence[shown].detach().cpu().numpy()
    # "higher" answers a value that occurs: interpolation could round to just above a constant.
    thresholds = np.percentile(values, BAND_PERCENTILES, method="higher").tolist()
    bands[shown] = 0
    for threshold in thresholds:
        bands += (shown & (confidence >= threshold)).long()
    return bands


def chosen_queries(scene: Scene, tracks: Tracks, anchor: int, limit: int) -> Int[Tensor, " n"]:
    """At most `limit` queries of the `anchor`-th anchor, ascending, that are known at some time.

    Up to half of the places go to queries on pixels that move, which are few and what one wants to see; the others
    are spread evenly.
    """
    known = is_track_known(tracks)[anchor].any(dim=0)
    moves = known & _starts_on_moving(scene, tracks, anchor)
    moving, still = moves.nonzero()[:, 0], (known & ~moves).nonzero()[:, 0]
    places_for_moving = max(limit - len(still), (limit + 1) // 2)
    moving = moving[stratified_indices(len(moving), places_for_moving)]
    still = still[stratified_indices(len(still), limit - len(moving))]
    return torch.cat([moving, still]).sort().values


def is_track_known(tracks: Tracks) -> Bool[Tensor, "anchor time query"]:
    """Where the position of a tracked point is known and finite."""
    return (tracks.confidence > 0) & torch.isfinite(tracks.points).all(dim=-1)


def _starts_on_moving(scene: Scene, tracks: Tracks, anchor: int) -> Bool[Tensor, " query"]:
    """Whether the pixel of each query moves in its anchor's frame; false where that frame was sliced away."""
    frame = int(tracks.anchors[anchor])
    if frame < 0:
        return torch.zeros(tracks.pixels.shape[1], dtype=torch.bool, device=tracks.pixels.device)
    height, width = scene.size
    column, row = tracks.pixels[anchor].floor().long().unbind(dim=-1)
    return is_dynamic(scene)[frame][row.clamp(0, height - 1), column.clamp(0, width - 1)]
