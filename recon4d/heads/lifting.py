"""Lifted matches: the displacement of every pixel of an anchor frame by the difference of two point maps.

Errors of cameras displace all matched points of a pair of frames together. A robust fit of the rigid motion that most
of them share removes such errors, so that points which stand still in the world have no displacement.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_rigid, transform_points

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
    fit = torch.eye(4, dtype=anchor.dtype, device=anchor.device).expand(len(anchor), 4, 4)
    for _ in range(ITERATIONS):
        errors = (transform_points(fit, source) - goal).norm(dim=-1) / depths
        robust = mass / (1 + (errors / SPREAD).square())
        fit = fit_rigid(source, goal, robust / depths.square())
    return fit.to(pairs.anchor)


@torch.no_grad()
def lifted_displacement(
    own: Float[Tensor, "pair 3 height width"],
    target: Float[Tensor, "pair 3 height width"],
    flow: Float[Tensor, "pair 2 rows columns"],
    anchor_from_target: Float[Tensor, "pair 4 4"],
    limit: float,
) -> Float[Tensor, "pair 3 height width"]:
    """Displace every pixel by its flow and subtract its own point from the point found there.

    Args:
        own: World points of the anchor frame.
        target: World points of the target frame.
        flow: Displacement (x, y) of each matching cell, in pixels.
        anchor_from_target: Transforms of `static_alignment`.
        limit: Largest magnitude of a coordinate of the result, in units of the scene.

    Returns:
        Displacements in the world.
    """
    height, width = own.shape[-2:]
    dense_flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    ys, xs = (torch.arange(n, device=own.device, dtype=own.dtype) + 0.5 for n in (height, width))
    x = (xs[None, None] + dense_flow[:, 0]) * (2 / width) - 1
    y = (ys[None, :, None] + dense_flow[:, 1]) * (2 / height) - 1
    with torch.autocast(own.device.type, enabled=False):
        found = F.grid_sample(target, torch.stack([x, y], dim=-1), align_corners=False, padding_mode="border")
        aligned = transform_points(anchor_from_target, found.movedim(1, -1)).movedim(-1, 1)
    return (aligned - own).clamp(-limit, limit)
