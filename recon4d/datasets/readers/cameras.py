"""Cameras from stored matrices."""

from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.geometry import invert, nearest_rotation, rigid
from recon4d.io.checked_cameras import camera_problem
from recon4d.records import Cameras

MAX_ROTATION_ERROR = 0.01
"""Largest entry of R R^T - I of a stored rotation. Rotations rounded to float16 stay below 1e-3."""


def cameras_from_first(
    sequence: str, file: str, world_from_cam: Float64[Tensor, "time 4 4"], intrinsics: Float64[Tensor, "time 3 3"]
) -> tuple[Cameras, Float64[Tensor, "4 4"]]:
    """Express cameras in the coordinates of the first one.

    The computation is in float64, because some data sets lie kilometers from their origin.

    Args:
        sequence: Name of the sequence, for error messages.
        file: File that holds the intrinsics, for error messages.
        world_from_cam: Poses in OpenCV axes, as rigid transforms.
        intrinsics: Camera matrices in pixels; the center of the first pixel is (0.5, 0.5).

    Returns:
        float32 cameras of shape (time), and ``first_from_world`` (4, 4), which transforms world points likewise.

    Raises:
        DataError: If the cameras are invalid (`camera_problem`).
    """
    _check(sequence, file, world_from_cam, intrinsics)
    first_from_world = invert(world_from_cam[0])
    return Cameras((first_from_world @ world_from_cam).float(), intrinsics.float()), first_from_world


def cameras_from_rounded(
    sequence: str,
    file: Path,
    cam_from_world: Float[Tensor, "time 4 4"],
    intrinsics: Float[Tensor, "time 3 3"],
) -> Cameras:
    """Create cameras from matrices whose rotations are not orthonormal because of rounding.

    The orientation is the nearest rotation. The center is the point that the stored matrix maps to 0, -R^-1 t. The
    formula -R^T t would move it by the rounding error times its distance from the origin.

    Args:
        sequence: Name of the sequence, for error messages.
        file: File that holds the matrices, for error messages.
        cam_from_world: Stored matrices in OpenCV axes.
        intrinsics: Camera matrices in pixels; the center of the first pixel is (0.5, 0.5).

    Returns:
        Cameras in the stored world coordinates, with the dtype of the matrices.

    Raises:
        DataError: If matrices are not finite, not close to rotations, or intrinsics are not those of a pinhole camera.
    """
    rotation, translation = cam_from_world[..., :3, :3], cam_from_world[..., :3, 3]
    if not (cam_from_world.isfinite().all() and intrinsics.isfinite().all()):
        raise DataError(sequence, file, "holds cameras that are not finite")
    error = rotation @ rotation.transpose(-1, -2) - torch.eye(3, dtype=rotation.dtype)
    if error.abs().max() > MAX_ROTATION_ERROR or (torch.linalg.det(rotation) < 0).any():
        raise DataError(sequence, file, "holds camera rotations that are not rotation matrices")
    centers = -torch.linalg.solve(rotation, translation)
    cameras = Cameras(rigid(nearest_rotation(rotation).transpose(-1, -2), centers), intrinsics)
    _check(sequence, file, cameras.world_from_cam, intrinsics)
    return cameras


def _check(
    sequence: str,
    file: str | Path,
    world_from_cam: Float[Tensor, "time 4 4"],
    intrinsics: Float[Tensor, "time 3 3"],
) -> None:
    problem = camera_problem(world_from_cam, intrinsics)
    if problem is not None:
        raise DataError(sequence, file, problem)
