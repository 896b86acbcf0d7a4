"""Conversions between rotation matrices, quaternions, axis-angle vectors and the continuous 6D representation.

A rotation matrix ``b_from_a`` acts on column vectors: x_b = R @ x_a. Angles are in radians.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rotation_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Convert quaternions to rotation matrices.

    Args:
        quaternion: Quaternions (w, x, y, z) of any nonzero length; q and -q give the same matrix.

    Returns:
        Rotation matrices.
    """
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Convert rotation matrices to unit quaternions.

    The entries of the matrix give the symmetric 4x4 matrix 4 q q^T. Its row with the largest diagonal entry,
    normalized, is q up to sign. This is stable for every rotation: no square root of a vanishing number is taken
    (Shepperd 1978).

    Args:
        rotation: Rotation matrices.

    Returns:
        Unit quaternions (w, x, y, z) with w >= 0.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    rows = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, 1 - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
    )
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    quaternion = torch.take_along_dim(outer, best[..., None, None], dim=-2).squeeze(-2)
    quaternion = F.normalize(quaternion, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_to_6d(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """Convert rotation matrices to the continuous 6D representation (Zhou et al. 2019, eq. 14).

    Args:
        rotation: Rotation matrices.

    Returns:
        The first two columns of each matrix, one after the other.
    """
    return torch.cat([rotation[..., 0], rotation[..., 1]], dim=-1)


def rotation_from_axis_angle(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Convert axis-angle vectors to rotation matrices: the exponential of the cross-product matrix.

    Args:
        axis_angle: Rotation axes whose lengths are the angles in radians.

    Returns:
        Rotation matrices.
    """
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross_product = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross_product)


def rotation_angle(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Compute the angle of rotations.

    The angle is the atan2 of its sine and cosine: the arccosine of the trace loses half the digits near 0 and pi.

    Args:
        rotation: Rotation matrices.

    Returns:
        Angles in radians, in [0, pi].
    """
    skew = rotation - rotation.transpose(-1, -2)
    twice_sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1)
    twice_cosine = rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1
    return torch.atan2(twice_sine, twice_cosine)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Project matrices to the nearest rotation in the Frobenius norm, by singular value decomposition.

    Args:
        matrix: Matrices close to a rotation.

    Returns:
        Rotation matrices, never reflections.
    """
    left, _, right = torch.linalg.svd(matrix)
    signs = torch.ones_like(matrix[..., 0])
    signs[..., 2] = torch.det(left @ right).sign()
    return left @ (signs[..., None] * right)
