"""Lifted matches: the displacement of every pixel of an anchor frame by the difference of two point maps.

Errors of cameras displace all matched points of a pair of frames together. A robust fit of the rigid motion that most
of them share removes such errors, so that points which stand still in the world have no displacement.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_rigid, invert, transform_points

ITERATIONS = 8
"""Number of reweighted least-squares fits. Hand-tuned."""
SPREAD = 0.02
"""Scale of the robust weights, relative to depth: about the error of the points of static cells. Hand-tuned on
synthetic clips with true depth and true, disturbed or missing cameras: 0.05 follows large moving objects more often."""
PRIOR_WEIGHT = 0.0001
"""Weight of the prior that nothing moved, for every cell; a right match weighs 1. Hand-tuned."""
MIN_DEPTH = 1e-3
"""Smallest depth that divides errors, in units of the scene."""


@dataclass(frozen=True)
class CellPairs:
    """Matched cells of pairs of an anchor and a target frame."""

    anchor: Float[Tensor, "pair cells 3"]
    """World points of the cells of the anchor."""
    target: Float[Tensor, "pair cells 3"]
    """World points at the matched positions in the target."""
    depths: Float[Tensor, "pair cells"]
    """Depth of the cells of the anchor in its camera; errors are relative to it."""
    weights: Float[Tensor, "pair cells"]
    """Probability that a match is right and that its cell is static."""


@dataclass(frozen=True)
class LiftedPairs:
    """Maps of pairs of an anchor and a target frame."""

    own: Float[Tensor, "pair 3 height width"]
    """World points of the anchor frame."""
    target: Float[Tensor, "pair 3 height width"]
    """World points of the target frame."""
    target_depths: Float[Tensor, "pair height width"]
    """Depth of the target frame."""
    world_from_cam: Float[Tensor, "pair 4 4"]
    """Camera of the target frame."""
    flow: Float[Tensor, "pair 2 rows columns"]
    """Displacement (x, y) of each matching cell of the anchor, in pixels."""


@torch.no_grad()
def static_alignment(pairs: CellPairs) -> Float[Tensor, "pair 4 4"]:
    """Fit the rigid motion from the target points to the anchor points of static cells.

    Iteratively reweighted least squares with Cauchy weights, from the identity: the cameras are about right. A weak
    prior of points that stay where they are defines the fit of pairs without matches.

    Args:
        pairs: Matched cells.

    Returns:
        Transforms from the world points of the target to those of the anchor.
    """
    anchor, target = pairs.anchor.double(), pairs.target.double()
    goal = torch.cat([anchor, anchor], dim=1)
    source = torch.cat([target, anchor], dim=1)
    mass = torch.cat([pairs.weights.double(), torch.full_like(pairs.depths, PRIOR_WEIGHT, dtype=anchor.dtype)], dim=1)
    depths = pairs.depths.double().clamp(min=MIN_DEPTH).repeat(1, 2)
    fit = torch.eye(4, dtype=anchor.dtype, device=anchor.device).expand(anchor.shape[0], 4, 4)
    for _ in range(ITERATIONS):
        errors = (transform_points(fit, source) - goal).norm(dim=-1) / depths
        robust = mass / (1 + (errors / SPREAD).square())
        fit = fit_rigid(source, goal, robust / depths.square())
    return fit.to(pairs.anchor)


@torch.no_grad()
def lifted_displacements(
    pairs: LiftedPairs, anchor_from_target: Float[Tensor, "pair 4 4"], limit: float
) -> tuple[Float[Tensor, "pair 3 height width"], Float[Tensor, "pair 3 height width"]]:
    """Move every pixel by its flow and subtract its own point from the point found there.

    The point found there has the depth of the target frame, or the depth that the own point would have if it stood
    still. The second displacement has no component along the ray, and does not depend on the depth of the target.

    Args:
        pairs: Point maps and flow.
        anchor_from_target: Transforms of `static_alignment`.
        limit: Largest magnitude of a coordinate of the results, in units of the scene.

    Returns:
        Displacements in the world: with the depth of the target, and with the own depth.
    """
    own, found = pairs.own.movedim(1, -1), _at_matches(pairs.target, pairs.flow).movedim(1, -1)
    found_depths = _at_matches(pairs.target_depths[:, None], pairs.flow)[:, 0].clamp(min=MIN_DEPTH)
    with torch.autocast(own.device.type, enabled=False):
        world_from_cam = anchor_from_target @ pairs.world_from_cam
        found = transform_points(anchor_from_target, found)
        own_depths = transform_points(invert(world_from_cam), own)[..., 2].clamp(min=MIN_DEPTH)
        center = world_from_cam[:, None, None, :3, 3]
        sideways = center + (found - center) * (own_depths / found_depths)[..., None]
    return tuple((points - own).movedim(-1, 1).clamp(-limit, limit) for points in (found, sideways))  # pyright: ignore[reportReturnType]


def _at_matches(
    maps: Float[Tensor, "pair channels height width"], flow: Float[Tensor, "pair 2 rows columns"]
) -> Float[Tensor, "pair channels height width"]:
    """Sample maps of the target where the flow moves every pixel of the anchor."""
    height, width = maps.shape[-2:]
    dense_flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    ys, xs = (torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5 for n in (height, width))
    x = (xs[None, None] + dense_flow[:, 0]) * (2 / width) - 1
    y = (ys[None, :, None] + dense_flow[:, 1]) * (2 / height) - 1
    with torch.autocast(maps.device.type, enabled=False):
        return F.grid_sample(maps, torch.stack([x, y], dim=-1), align_corners=False, padding_mode="border")
