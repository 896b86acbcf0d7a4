"""How two windows that share frames are joined: the similarity between their worlds, from what stands still in both."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, similarity
from recon4d.records import Scene
from recon4d.windows.robust_fit import fit_similarity_robustly, robust_mean

MIN_POINTS = 16
"""Fewer shared static points than this join nothing."""


class NothingSharedError(ValueError):
    """Raised where two answers have too little in common to be joined; the message says how much."""


@dataclass(frozen=True)
class Joint:
    """The similarity (float64) from one window's world to its partner's, and the median error of shared points.

    The error is a share of the points' depth: 0.01 is one hundredth of the distance at which they were seen.
    `metres_per_unit` is what the window says of its own unit (NaN: nothing).
    """

    partner_from_world: Float[Tensor, "4 4"]
    error: float
    metres_per_unit: float


Join = Callable[[Scene, Scene, float], Joint]
"""Finds the joint of a scene and its partner's for the same frames, from pixels that move less than the number."""


def is_static(scene: Scene, static_below: float) -> Bool[Tensor, "time height width"]:
    """Where nothing says that the surface moves."""
    return ~(scene.moving >= static_below)  # NaN compares as false: where nothing is said, nothing moves.


def join_by_points(scene: Scene, partner: Scene, static_below: float) -> Joint:
    """The joint of two scenes of the same frames, by a robust similarity between their points from depth and camera.

    Only static pixels count, and of them the more confident half; points that disagree all the same lose their
    weight in the fit. Raises `NothingSharedError` for fewer than 16 points.
    """
    chosen = _confident(scene, partner, is_static(scene, static_below) & is_static(partner, static_below))
    if chosen.sum() < MIN_POINTS:
        raise NothingSharedError(f"{int(chosen.sum())} confident static points, wanted at least {MIN_POINTS}")
    fit = fit_similarity_robustly(
        scene.points_from_depth[chosen], partner.points_from_depth[chosen], partner.depths[chosen]
    )
    return Joint(fit.b_from_a, fit.error, float(scene.metres_per_unit))


def join_by_anchor(scene: Scene, partner: Scene, static_below: float) -> Joint:
    """The joint of two scenes of one frame that puts its camera exactly into the other's place; only scale is found.

    The scale is the robust mean of the log ratio of depths over the more confident half. It is one picture of one
    moment, so that what moves counts as well and `static_below` has no part. Raises `NothingSharedError` for fewer
    than 16 pixels.
    """
    assert scene.num_frames == partner.num_frames == 1
    chosen = _confident(scene, partner, torch.ones_like(scene.depths, dtype=torch.bool))
    if chosen.sum() < MIN_POINTS:
        raise NothingSharedError(f"{int(chosen.sum())} confident pixels, wanted at least {MIN_POINTS}")
    ratios = (partner.depths[chosen].double() / scene.depths[chosen].double()).log()
    mean = torch.tensor(robust_mean(ratios), dtype=torch.double)
    scaled = similarity(mean.exp(), torch.eye(3, dtype=torch.double), torch.zeros(3, dtype=torch.double))
    partner_from_cam, world_from_cam = (s.cameras.world_from_cam[0].double() for s in (partner, scene))
    partner_from_world = partner_from_cam @ scaled @ invert(world_from_cam)
    return Joint(partner_from_world, float((ratios - mean).abs().median()), float(scene.metres_per_unit))


def _confident(
    scene: Scene, partner: Scene, among: Bool[Tensor, "time height width"]
) -> Bool[Tensor, "time height width"]:
    """The more confident half, by the product of both confidences, of the pixels `among` these that both know."""
    confidence = scene.depth_confidence * partner.depth_confidence
    known = among & (confidence > 0)
    for depths in (scene.depths, partner.depths):
        known &= torch.isfinite(depths) & (depths > 0)
    return known & (confidence >= confidence[known].median()) if known.any() else known
