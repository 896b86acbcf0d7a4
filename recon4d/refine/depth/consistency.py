"""A scene whose depth is what pictures prove, and everywhere else bent through what they prove nearby."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import rows_and_columns, stratified_indices
from recon4d.losses.errors import MAX_CONFIDENCE
from recon4d.records import Clip, Scene, Tracks
from recon4d.refine.depth.alignment import PointDepths, fit_depth_alignment, scale_depth
from recon4d.refine.depth.plane_sweep import StereoConfig, stereo_depths
from recon4d.refine.grayscale import gray_pictures, searched_size

POINTS_A_FRAME = 1500
"""Of the proven pixels, that the others are bent by."""
VERIFIED_CONFIDENCE = 10 * MAX_CONFIDENCE
"""Of proven depth, points and tracks: beyond all that a network says of its own."""


@dataclass(frozen=True)
class VerifiedDepth:
    """A scene, and where its depth is proven."""

    scene: Scene
    verified: Bool[Tensor, "time height width"]


def with_verified_depth(clip: Clip, scene: Scene, config: StereoConfig | None = None) -> VerifiedDepth:
    """The scene with its depth from several pictures where they prove it, by its own cameras, which should be exact.

    What is proven stands still, and `scene.moving` says so afterwards; its depth, its point, and its track at all times
    have `PROVEN_CONFIDENCE`. Points and tracks follow as with `bent`. Pictures are compared at the size of the maps, or
    smaller (`StereoConfig.side`); maps then keep their own detail.
    """
    config = config or StereoConfig()
    size = searched_size(scene.size, config.side)
    factors, proven = _at_searched_size(clip, scene.resized(*size), config)
    if size != scene.size:
        factors = F.interpolate(factors[:, None].log(), scene.size, mode="bilinear", align_corners=False)[:, 0].exp()
        proven = F.interpolate(proven[:, None].float(), scene.size, mode="nearest-exact")[:, 0] > 0.5
    sure = replace(
        scene,
        dynamic=torch.where(proven, 0.0, scene.dynamic),
        depth_confidence=torch.where(proven, VERIFIED_CONFIDENCE, scene.depth_confidence),
        point_confidence=torch.where(proven, VERIFIED_CONFIDENCE, scene.point_confidence),
        tracks=None if scene.tracks is None else _with_sure_tracks(scene.tracks, proven),
    )
    return VerifiedDepth(scale_depth(sure, factors), proven)


def _with_sure_tracks(tracks: Tracks, proven: Bool[Tensor, "time height width"]) -> Tracks:
    """Tracks of proven pixels are where those are, always."""
    row, column = rows_and_columns(tracks.pixels, (proven.shape[1], proven.shape[2]))
    begins = proven[tracks.anchors[:, None], row, column][:, None]
    return replace(tracks, confidence=torch.where(begins, VERIFIED_CONFIDENCE, tracks.confidence))


def _at_searched_size(
    clip: Clip, scene: Scene, config: StereoConfig
) -> tuple[Float[Tensor, "time height width"], Bool[Tensor, "time height width"]]:
    """What to multiply each pixel's depth by, and where that is proven."""
    known = scene.depths > 0
    expected = torch.where(known, scene.depths, scene.depths[known].median())
    found = stereo_depths(gray_pictures(clip, scene.size), scene.cameras, expected, config)
    proven = found.verified
    if clip.priors is not None and clip.priors.ignore is not None:
        ignored = F.interpolate(clip.priors.ignore[:, None].float(), scene.size, mode="nearest-exact")[:, 0] > 0.5
        proven = proven & ~ignored
    around = fit_depth_alignment(scene.depths, _some_points(found.depths, proven))
    return torch.where(proven & known, found.depths / expected, around), proven & known


def _some_points(depths: Float[Tensor, "time height width"], proven: Bool[Tensor, "time height width"]) -> PointDepths:
    """Evenly taken proven pixels of each frame."""
    time, _, width = depths.shape
    pixels, values = torch.zeros(time, POINTS_A_FRAME, 2), torch.ones(time, POINTS_A_FRAME)
    known = torch.zeros(time, POINTS_A_FRAME, dtype=torch.bool)
    for frame in range(time):
        places = proven[frame].flatten().nonzero()[:, 0]
        some = places[stratified_indices(len(places), POINTS_A_FRAME, places.device)]
        pixels[frame, : len(some)] = torch.stack([some % width, some // width], dim=-1) + 0.5
        values[frame, : len(some)] = depths[frame].flatten()[some]
        known[frame, : len(some)] = True
    return PointDepths(pixels, values, known)
