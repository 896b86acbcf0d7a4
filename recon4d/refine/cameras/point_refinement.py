"""Points that minimize the robust reprojection error of their tracks, with all cameras fixed.

Every point is a small problem of its own, so that all are solved at once by Levenberg-Marquardt. A point has three
parameters: its position (x, y) at depth 1 and its inverse depth in the first frame that observes it. Points far away
then converge as fast as near ones (Civera et al. 2008, "Inverse Depth Parametrization for Monocular SLAM").
"""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, transform_points
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.radial_distortion import NO_DISTORTION, RadialDistortion

NUM_STEPS = 15
"""Number of steps; most points converge within five. Hand-tuned."""
INITIAL_DAMPING = 1e-3
"""Initial damping relative to the diagonal of the Hessian. Hand-tuned."""
MIN_DEPTH = 1e-3
"""Smallest depth of a point relative to its depth in the reference frame; smaller ones are projected at this depth, so
that errors stay finite. Hand-tuned."""
MIN_INVERSE_DEPTH = 1e-9
"""Smallest inverse depth relative to the initial one: points at infinity are far away instead. Hand-tuned."""


def refine_points(
    cameras: Cameras,
    tracks: FeatureTracks,
    points: Float[Tensor, "track 3"],
    loss_scale: float = 1.0,
    distortion: RadialDistortion = NO_DISTORTION,
) -> Float[Tensor, "track 3"]:
    """Triangulate points by minimizing their robust reprojection error.

    Args:
        cameras: Cameras of all frames.
        tracks: Observations, in pixels; each track is observed in at least one frame.
        points: Initial points in world coordinates.
        loss_scale: Scale of the Cauchy loss in pixels.
        distortion: Distortion of the lens.

    Returns:
        The points in world coordinates, in float64.
    """
    world_from_cam, intrinsics = cameras.world_from_cam.double(), cameras.intrinsics.double()
    is_observed, pixels = tracks.visibility > 0, tracks.pixels.double()
    reference = is_observed.int().argmax(dim=0)
    # Transforms from the reference frame of each track to every frame.
    to_frame = (invert(world_from_cam)[:, None] @ world_from_cam)[:, reference]
    in_reference = transform_points(invert(world_from_cam)[reference], points.double()[:, None])[:, 0]
    depth = in_reference[:, 2].abs().clamp(min=1e-12)
    # The inverse depth is relative to the initial one, so that all three parameters have similar sizes.
    state = torch.cat([in_reference[:, :2] / depth[:, None], torch.ones_like(depth)[:, None]], dim=-1)
    rotations, translations = to_frame[..., :3, :3], to_frame[..., :3, 3] / depth[:, None]

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the errors, and their derivatives by the state."""
        homogeneous = torch.cat([state[:, :2], torch.ones_like(state[:, :1])], dim=-1)
        in_camera = torch.einsum("tkij,kj->tki", rotations, homogeneous) + state[:, 2:] * translations
        by_state = torch.cat([rotations[..., :2], translations[..., None]], dim=-1)
        depths = in_camera[..., 2:].clamp(min=MIN_DEPTH)
        normalized = in_camera[..., :2] / depths
        by_state = (by_state[..., :2, :] - normalized[..., None] * by_state[..., 2:, :]) / depths[..., None]
        factors, slopes = distortion.factors(normalized), distortion.slopes(normalized)
        inner = (normalized[..., None] * by_state).sum(dim=-2, keepdim=True)
        by_state = factors[..., None] * by_state + 2 * (slopes * normalized)[..., None] * inner
        scales = intrinsics[:, None, :2, :2]
        projected = (scales @ (factors * normalized)[..., None])[..., 0] + intrinsics[:, None, :2, 2]
        return projected - pixels, scales @ by_state

    def costs(errors: Tensor) -> Tensor:
        """Compute the Cauchy loss of each track."""
        losses = (errors.square().sum(dim=-1) / loss_scale**2).log1p()
        return torch.where(is_observed, losses, 0.0).sum(dim=0)

    errors, jacobian = evaluate(state)
    cost, damping = costs(errors), torch.full_like(depth, INITIAL_DAMPING)
    for _ in range(NUM_STEPS):
        weights = is_observed / (1 + errors.square().sum(dim=-1) / loss_scale**2)
        weighted = jacobian * weights[..., None, None]
        hessian = torch.einsum("tkxi,tkxj->kij", weighted, jacobian)
        gradient = torch.einsum("tkxi,tkx->ki", weighted, errors)
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        added = damping[:, None] * diagonal + 1e-12 * (1 + diagonal.sum(dim=-1, keepdim=True))
        step = torch.linalg.solve(hessian + torch.diag_embed(added), gradient)
        new_state = state - step
        new_state = torch.cat([new_state[:, :2], new_state[:, 2:].clamp(min=MIN_INVERSE_DEPTH)], dim=-1)
        new_errors, new_jacobian = evaluate(new_state)
        new_cost = costs(new_errors)
        is_better = new_cost < cost
        state = torch.where(is_better[:, None], new_state, state)
        errors = torch.where(is_better[None, :, None], new_errors, errors)
        jacobian = torch.where(is_better[None, :, None, None], new_jacobian, jacobian)
        cost = torch.where(is_better, new_cost, cost)
        damping = torch.where(is_better, damping / 5, damping * 5).clamp(min=1e-9, max=1e9)
    refined = torch.cat([state[:, :2], torch.ones_like(state[:, :1])], dim=-1) * (depth / state[:, 2])[:, None]
    return transform_points(world_from_cam[reference], refined[:, None])[:, 0]
