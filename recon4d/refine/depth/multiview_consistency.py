"""Dense depth from stereo where several images verify it, with the predicted depth aligned to it elsewhere."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_indices, stratified_indices
from recon4d.losses.errors import MAX_CONFIDENCE
from recon4d.records import Clip, Scene, Tracks
from recon4d.refine.depth.alignment import PointDepths, fit_depth_alignment, scale_depth
from recon4d.refine.depth.plane_sweep import StereoConfig, stereo_depths
from recon4d.refine.grayscale import grayscale_images, working_size

POINTS_PER_FRAME = 1500
"""Largest number of verified pixels of a frame that the other pixels are aligned to. Hand-tuned."""
VERIFIED_CONFIDENCE = 10 * MAX_CONFIDENCE
"""Confidence of verified depth, points and tracks: above all confidences that a network predicts."""


@dataclass(frozen=True)
class VerifiedDepth:
    """A scene whose depth is verified at some pixels."""

    scene: Scene
    verified: Bool[Tensor, "time height width"]
    """Whether the depth of a pixel comes from stereo and is verified in several images."""


def plane_sweep_depth(clip: Clip, scene: Scene, config: StereoConfig | None = None) -> VerifiedDepth:
    """Replace the depth of a scene by stereo where several images verify it, and align the rest.

    Verified pixels are static: `dynamic` is 0 there, and their depth, points and tracks have `VERIFIED_CONFIDENCE`.
    Points and tracks follow depth as in `scale_depth`. Stereo runs at the size of the maps or smaller
    (`StereoConfig.side`); larger maps keep their detail.

    Args:
        clip: A single clip. Pixels in the mask `ignore` of its priors are not verified.
        scene: Its scene, with exact cameras.
        config: Settings of stereo; None for the defaults.

    Returns:
        The scene with new depth, and where it is verified.
    """
    config = config or StereoConfig()
    size = working_size(scene.size, config.side)
    factors, verified = _depth_factors(clip, scene.resized(*size), config)
    if size != scene.size:
        factors = F.interpolate(factors[:, None].log(), scene.size, mode="bilinear", align_corners=False)[:, 0].exp()
        verified = F.interpolate(verified[:, None].float(), scene.size, mode="nearest-exact")[:, 0] > 0.5
    marked = replace(
        scene,
        dynamic=torch.where(verified, 0.0, scene.dynamic),
        depth_confidence=torch.where(verified, VERIFIED_CONFIDENCE, scene.depth_confidence),
        point_confidence=torch.where(verified, VERIFIED_CONFIDENCE, scene.point_confidence),
        tracks=None if scene.tracks is None else _mark_verified_tracks(scene.tracks, verified),
    )
    return VerifiedDepth(scale_depth(marked, factors), verified)


def _mark_verified_tracks(tracks: Tracks, verified: Bool[Tensor, "time height width"]) -> Tracks:
    """Give tracks of verified query pixels the verified confidence at all times."""
    row, column = pixel_indices(tracks.pixels, (verified.shape[1], verified.shape[2]))
    is_verified = verified[tracks.anchors[:, None], row, column][:, None]
    return replace(tracks, confidence=torch.where(is_verified, VERIFIED_CONFIDENCE, tracks.confidence))


def _depth_factors(
    clip: Clip, scene: Scene, config: StereoConfig
) -> tuple[Float[Tensor, "time height width"], Bool[Tensor, "time height width"]]:
    """Compute the factor for each pixel's depth, and where the result is verified."""
    is_known = scene.depths > 0
    expected = torch.where(is_known, scene.depths, scene.depths[is_known].median())
    stereo = stereo_depths(grayscale_images(clip, scene.size), scene.cameras, expected, config)
    verified = stereo.verified
    if clip.priors is not None and clip.priors.ignore is not None:
        ignored = F.interpolate(clip.priors.ignore[:, None].float(), scene.size, mode="nearest-exact")[:, 0] > 0.5
        verified = verified & ~ignored
    aligned = fit_depth_alignment(scene.depths, _sample_verified(stereo.depths, verified))
    return torch.where(verified & is_known, stereo.depths / expected, aligned), verified & is_known


def _sample_verified(
    depths: Float[Tensor, "time height width"], verified: Bool[Tensor, "time height width"]
) -> PointDepths:
    """Take evenly distributed verified pixels of each frame."""
    time, _, width = depths.shape
    pixels, values = torch.zeros(time, POINTS_PER_FRAME, 2), torch.ones(time, POINTS_PER_FRAME)
    is_valid = torch.zeros(time, POINTS_PER_FRAME, dtype=torch.bool)
    for frame in range(time):
        places = verified[frame].flatten().nonzero()[:, 0]
        sampled = places[stratified_indices(len(places), POINTS_PER_FRAME, places.device)]
        pixels[frame, : len(sampled)] = torch.stack([sampled % width, sampled // width], dim=-1) + 0.5
        values[frame, : len(sampled)] = depths[frame].flatten()[sampled]
        is_valid[frame, : len(sampled)] = True
    return PointDepths(pixels, values, is_valid)
