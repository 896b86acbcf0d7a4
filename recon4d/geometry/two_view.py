"""Geometry of two views: fundamental matrices of calibrated cameras."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry.transforms import invert


def fundamental_matrices(
    world_from_cam: Float[Tensor, "*batch time 4 4"], intrinsics: Float[Tensor, "*batch time 3 3"]
) -> Float[Tensor, "*batch time time 3 3"]:
    """Compute the fundamental matrices of all pairs of frames.

    A fundamental matrix F maps a pixel (x, y) of one frame to its epipolar line ``F @ (x, y, 1)`` in another. The
    baseline is scaled to unit length, so the result does not depend on the unit of the scene.

    Args:
        world_from_cam: Rigid camera poses; NaN if unknown.
        intrinsics: Intrinsics in pixels; NaN if unknown.

    Returns:
        Fundamental matrices from the frame of the first time axis to that of the second. They are zero for cameras at
        the same position, which have no epipolar lines, and NaN if either camera is unknown.
    """
    centers = world_from_cam[..., :3, 3]
    baseline = centers[..., :, None, :] - centers[..., None, :, :]
    baseline = baseline / baseline.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(baseline.dtype).tiny)
    to_b = invert(world_from_cam)[..., None, :, :3, :3]
    rotation = to_b @ world_from_cam[..., :, None, :3, :3]
    direction = to_b @ baseline[..., None]
    # [t]_x R: the cross product of the translation with each column of the rotation.
    essential = torch.linalg.cross(direction.expand_as(rotation), rotation, dim=-2)
    pixels_to_rays = _inverse_intrinsics(intrinsics)
    return pixels_to_rays[..., None, :, :, :].transpose(-1, -2) @ essential @ pixels_to_rays[..., :, None, :, :]


def _inverse_intrinsics(intrinsics: Tensor) -> Tensor:
    """Invert upper triangular matrices [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]."""
    identity = torch.eye(3, dtype=intrinsics.dtype, device=intrinsics.device).expand_as(intrinsics)
    return torch.linalg.solve_triangular(intrinsics, identity, upper=True)
