"""How two windows that share frames are joined: the similarity between their worlds, from what stands still in both."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, similarity
from recon4d.inference.windows.robust_similarity import fit_similarity_robustly, robust_mean
from recon4d.records import Scene

MIN_POINTS = 16
"""Fewer shared static points than this join nothing."""


class NothingSharedError(ValueError):
    """Raised where two answers have too little in common to be joined; the message says how much."""


@dataclass(frozen=True)
class WindowAlignment:
    """The similarity (float64) from one window's world to its partner's, and the median error of shared points.

    The error is a share of the points' depth: 0.01 is one hundredth of the distance at which they were seen.
    `metres_per_unit` is what the window says of its own unit (NaN: nothing).
    """

    partner_from_world: Float[Tensor, "4 4"]
    error: float
    metres_per_unit: float


Pixels = Bool[Tensor, "time height width"]


@dataclass(frozen=True)
class AlignmentMethod:
    """How windows are joined: which pixels of the shared frames count, and the joint that these pixels make.

    Both take a scene and its partner's for the same frames. `choose` is also given from which probability on a pixel
    moves, and raises `NothingSharedError` for fewer than 16 pixels.
    """

    choose: Callable[[Scene, Scene, float], Pixels]
    fit: Callable[[Scene, Scene, Pixels], WindowAlignment]


def is_static(scene: Scene, static_below: float) -> Bool[Tensor, "time height width"]:
    """Where nothing says that the surface moves."""
    return ~(scene.dynamic >= static_below)  # NaN compares as false: where nothing is said, nothing moves.


def static_pixels(scene: Scene, partner: Scene, static_below: float) -> Pixels:
    """The more confident half of the pixels that both know and neither says move."""
    chosen = _confident(scene, partner, is_static(scene, static_below) & is_static(partner, static_below))
    if chosen.sum() < MIN_POINTS:
        raise NothingSharedError(f"{int(chosen.sum())} confident static points, wanted at least {MIN_POINTS}")
    return chosen


def all_pixels(scene: Scene, partner: Scene, static_below: float) -> Pixels:
    """The more confident half of the pixels that both know: at the same moment, what moves is where it is in both."""
    chosen = _confident(scene, partner, torch.ones_like(scene.depths, dtype=torch.bool))
    if chosen.sum() < MIN_POINTS:
        raise NothingSharedError(f"{int(chosen.sum())} confident pixels, wanted at least {MIN_POINTS}")
    return chosen


def fit_points(scene: Scene, partner: Scene, chosen: Pixels) -> WindowAlignment:
    """The joint by a robust similarity between points from depth and camera; those that disagree lose their weight."""
    fit = fit_similarity_robustly(
        scene.points_from_depth[chosen], partner.points_from_depth[chosen], partner.depths[chosen]
    )
    return WindowAlignment(fit.b_from_a, fit.error, float(scene.metres_per_unit))


def fit_scale(scene: Scene, partner: Scene, chosen: Pixels) -> WindowAlignment:
    """The joint that puts the first frame's camera exactly into the other's place; only the scale is found.

    It is the robust mean of the log ratio of depths.
    """
    ratios = (partner.depths[chosen].double() / scene.depths[chosen].double()).log()
    mean = torch.tensor(robust_mean(ratios), dtype=torch.double)
    scaled = similarity(mean.exp(), torch.eye(3, dtype=torch.double), torch.zeros(3, dtype=torch.double))
    partner_from_cam, world_from_cam = (s.cameras.world_from_cam[0].double() for s in (partner, scene))
    partner_from_world = partner_from_cam @ scaled @ invert(world_from_cam)
    return WindowAlignment(partner_from_world, float((ratios - mean).abs().median()), float(scene.metres_per_unit))


JOIN_BY_POINTS = AlignmentMethod(static_pixels, fit_points)
JOIN_BY_SCALE = AlignmentMethod(all_pixels, fit_scale)


def join_by_points(scene: Scene, partner: Scene, static_below: float) -> WindowAlignment:
    """The joint of two scenes of the same frames by their static points. Raises `NothingSharedError`."""
    return fit_points(scene, partner, static_pixels(scene, partner, static_below))


def _confident(scene: Scene, partner: Scene, among: Pixels) -> Pixels:
    """The more confident half, by the product of both confidences, of the pixels `among` these that both know."""
    confidence = scene.depth_confidence * partner.depth_confidence
    known = among & (confidence > 0)
    for depths in (scene.depths, partner.depths):
        known &= torch.isfinite(depths) & (depths > 0)
    return known & (confidence >= confidence[known].median()) if known.any() else known
