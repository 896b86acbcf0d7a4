"""Alignment of two windows that share frames: the similarity between their worlds, estimated from static pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, similarity
from recon4d.inference.windows.robust_similarity import fit_similarity_robustly, robust_mean
from recon4d.records import Scene

MIN_PIXELS = 16
"""Smallest number of shared pixels that determines an alignment. Hand-tuned."""


class TooFewPixelsError(Exception):
    """Two reconstructions share too few pixels to be aligned; the message gives their number.

    Callers inside this subpackage handle it.
    """


@dataclass(frozen=True)
class WindowAlignment:
    """Alignment of a window with its partner."""

    partner_from_world: Float[Tensor, "4 4"]
    """Similarity transform (4, 4) in float64 from the window's world to the partner's world."""
    error: float
    """Median distance of shared points after alignment, as a fraction of their depth."""
    metres_per_unit: float
    """The window's own estimate of the length of its unit, in meters; NaN if it has none."""


Pixels = Bool[Tensor, "time height width"]


@dataclass(frozen=True)
class AlignmentMethod:
    """How two windows are aligned. Both functions take a scene and the partner's scene of the same frames."""

    select: Callable[[Scene, Scene, float], Pixels]
    """Selects the pixels to use. The third argument is the dynamic probability from which pixels are excluded. Raises
    `TooFewPixelsError` for fewer than `MIN_PIXELS`."""
    fit: Callable[[Scene, Scene, Pixels], WindowAlignment]
    """Estimates the alignment from the selected pixels."""


def is_static(scene: Scene, static_below: float) -> Bool[Tensor, "time height width"]:
    """Select pixels that are not predicted to be dynamic.

    Args:
        scene: Any scene.
        static_below: Pixels with a dynamic probability of this or more are excluded.

    Returns:
        A mask (time, height, width). Pixels without a prediction (NaN) count as static.
    """
    return ~(scene.dynamic >= static_below)  # NaN compares as false


def static_pixels(scene: Scene, partner: Scene, static_below: float) -> Pixels:
    """Select the more confident half of the pixels that are valid and static in both scenes.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        static_below: Pixels with a dynamic probability of this or more in either scene are excluded.

    Returns:
        A mask (time, height, width).

    Raises:
        TooFewPixelsError: If fewer than `MIN_PIXELS` pixels remain.
    """
    selected = confident_half(scene, partner, is_static(scene, static_below) & is_static(partner, static_below))
    if selected.sum() < MIN_PIXELS:
        raise TooFewPixelsError(f"{int(selected.sum())} confident static points, at least {MIN_PIXELS} are needed")
    return selected


def all_pixels(scene: Scene, partner: Scene, static_below: float) -> Pixels:
    """Select the more confident half of the pixels that are valid in both scenes, dynamic ones included.

    Both scenes show the same moments, so dynamic points are at the same place in both.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        static_below: Not used.

    Returns:
        A mask (time, height, width).

    Raises:
        TooFewPixelsError: If fewer than `MIN_PIXELS` pixels remain.
    """
    selected = confident_half(scene, partner, torch.ones_like(scene.depths, dtype=torch.bool))
    if selected.sum() < MIN_PIXELS:
        raise TooFewPixelsError(f"{int(selected.sum())} confident pixels, at least {MIN_PIXELS} are needed")
    return selected


def fit_points(scene: Scene, partner: Scene, selected: Pixels) -> WindowAlignment:
    """Fit a robust similarity between the points that depth and cameras give; outliers lose their weight.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        selected: Mask (time, height, width) of the pixels to use.

    Returns:
        The alignment.
    """
    fit = fit_similarity_robustly(
        scene.points_from_depth[selected], partner.points_from_depth[selected], partner.depths[selected]
    )
    return WindowAlignment(fit.b_from_a, fit.error, float(scene.metres_per_unit))


def fit_scale(scene: Scene, partner: Scene, selected: Pixels) -> WindowAlignment:
    """Identify the first cameras of both scenes and fit only the scale, as the robust mean of log depth ratios.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        selected: Mask (time, height, width) of the pixels to use.

    Returns:
        The alignment, which maps the first camera exactly to the partner's.
    """
    ratios = (partner.depths[selected].double() / scene.depths[selected].double()).log()
    mean = torch.tensor(robust_mean(ratios), dtype=torch.double)
    scaled = similarity(mean.exp(), torch.eye(3, dtype=torch.double), torch.zeros(3, dtype=torch.double))
    partner_from_cam, world_from_cam = (s.cameras.world_from_cam[0].double() for s in (partner, scene))
    partner_from_world = partner_from_cam @ scaled @ invert(world_from_cam)
    return WindowAlignment(partner_from_world, float((ratios - mean).abs().median()), float(scene.metres_per_unit))


ALIGN_BY_POINTS = AlignmentMethod(static_pixels, fit_points)
"""Similarity from static points: for windows whose cameras are not given."""
ALIGN_BY_SCALE = AlignmentMethod(all_pixels, fit_scale)
"""Scale only: for windows whose relative poses are determined by an anchor frame or by given cameras."""


def confident_half(scene: Scene, partner: Scene, mask: Pixels) -> Pixels:
    """Select the more confident half, by the product of both confidences, of the valid pixels in a mask.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        mask: Mask (time, height, width) of the pixels to choose from.

    Returns:
        A mask (time, height, width); empty if no pixel of `mask` has depth in both scenes.
    """
    confidence = scene.depth_confidence * partner.depth_confidence
    valid = mask & (confidence > 0)
    for depths in (scene.depths, partner.depths):
        valid &= torch.isfinite(depths) & (depths > 0)
    return valid & (confidence >= confidence[valid].median()) if valid.any() else valid
