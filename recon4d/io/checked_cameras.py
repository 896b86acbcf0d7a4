"""The check that every camera passes on its way in: camera files, data sets and stored scenes."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import nearest_rotation, rigid

ROTATION_TOLERANCE = 1e-2
"""Largest deviation of an entry of a rotation from the nearest rotation matrix. Hand-tuned: bfloat16 stays below."""
MAX_COORDINATE = 1e10
"""Largest coordinate of a camera center in any unit: more than the radius of the Earth in millimeters."""
FOCAL_LENGTHS = (1e-2, 1e8)
"""Range of focal lengths in pixels. Intrinsics in units of the image width (0.5 to 2) belong to an image of one pixel
and are allowed; a field of view of a ten-thousandth of a degree is not."""
MAX_CENTER = 1e8
"""Largest coordinate of a principal point in pixels."""


def camera_problem(
    world_from_cam: Float[Tensor, "camera 4 4"],
    intrinsics: Float[Tensor, "camera 3 3"] | None = None,
    allow_unknown: bool = False,
) -> str | None:
    """Find a camera that no pinhole camera in a world can be.

    Args:
        world_from_cam: Poses, of shape (camera, 4, 4).
        intrinsics: Intrinsics in pixels, of shape (camera, 3, 3). None checks the poses alone.
        allow_unknown: Whether NaN in the upper three rows of a pose or all over the intrinsics marks unknown values.

    Returns:
        What is wrong with the first such camera, with its values, as the rest of a sentence that begins with the file:
        "holds a camera whose ...". None if all cameras are valid.
    """
    poses = world_from_cam.detach().double()
    is_checked = ~poses[:, :3].isnan().all(dim=(1, 2)) if allow_unknown else torch.ones(len(poses), dtype=torch.bool)
    poses = poses[is_checked]
    if not poses.isfinite().all():
        return "holds a camera whose pose is not finite"
    if (poses[:, :3, 3].abs() > MAX_COORDINATE).any():
        farthest = float(poses[:, :3, 3].abs().max())
        return f"holds a camera whose position is {farthest:.3g} units from the origin; at most {MAX_COORDINATE:g}"
    rotations, last_row = poses[:, :3, :3], poses.new_tensor([0.0, 0.0, 0.0, 1.0])
    errors = (nearest_rotation(rotations.clamp(-10, 10)) - rotations).abs().amax(dim=(1, 2))
    errors = torch.maximum(errors, (poses[:, 3] - last_row).abs().amax(dim=1))
    if (errors > ROTATION_TOLERANCE).any():
        return "holds a camera whose matrix is not a rotation and a translation"
    return None if intrinsics is None else _intrinsics_problem(intrinsics.detach().double(), allow_unknown)


def checked_cameras(
    place: str,
    world_from_cam: Float[Tensor, "camera 4 4"],
    intrinsics: Float[Tensor, "camera 3 3"] | None = None,
    allow_unknown: bool = False,
) -> Float[Tensor, "camera 4 4"]:
    """Check cameras and make their rotations exact.

    Args:
        place: The file, at the beginning of the message.
        world_from_cam: Poses, of shape (camera, 4, 4).
        intrinsics: Intrinsics in pixels, of shape (camera, 3, 3). None checks the poses alone.
        allow_unknown: As for `camera_problem`.

    Returns:
        The poses in float64, whose rotations are the nearest exact ones.

    Raises:
        UserError: If a camera is invalid (`camera_problem`).
    """
    problem = camera_problem(world_from_cam, intrinsics, allow_unknown)
    if problem is not None:
        raise UserError(f"{place}: {problem}")
    poses = world_from_cam.double()
    is_known = poses.isfinite().all(dim=(1, 2))
    exact = rigid(nearest_rotation(torch.where(is_known[:, None, None], poses, 0.0)[:, :3, :3]), poses[:, :3, 3])
    return torch.where(is_known[:, None, None], exact, torch.nan)


def principal_point_outside(
    intrinsics: Float[Tensor, "camera 3 3"], size: tuple[int, int]
) -> tuple[float, float] | None:
    """Find a principal point outside of the picture: a sign of intrinsics that belong to pictures of another size.

    Args:
        intrinsics: Intrinsics in pixels, of shape (camera, 3, 3); NaN if unknown.
        size: Height and width of the pictures in pixels.

    Returns:
        The first such principal point (x, y) in pixels, or None if there is none.
    """
    centers = intrinsics[:, :2, 2].detach().double()
    outside = (centers < 0) | (centers > centers.new_tensor([size[1], size[0]]))
    found = outside.any(dim=1).nonzero()[:, 0]
    if not len(found):
        return None
    x, y = centers[found[0]].tolist()
    return x, y


def _intrinsics_problem(intrinsics: Float[Tensor, "camera 3 3"], allow_unknown: bool) -> str | None:
    if allow_unknown:
        intrinsics = intrinsics[~intrinsics.isnan().all(dim=(1, 2))]
    if not intrinsics.isfinite().all():
        return "holds a camera whose intrinsics are not finite"
    wrong_rows = (intrinsics[:, 2] != intrinsics.new_tensor([0.0, 0.0, 1.0])).any(dim=1) | (intrinsics[:, 1, 0] != 0)
    smallest, largest = FOCAL_LENGTHS
    focal_lengths = intrinsics[:, [0, 1], [0, 1]]
    wrong_focal_lengths = ((focal_lengths < smallest) | (focal_lengths > largest)).any(dim=1)
    far_center = (intrinsics[:, [0, 0, 1], [1, 2, 2]].abs() > MAX_CENTER).any(dim=1)
    wrong = (wrong_rows | wrong_focal_lengths | far_center).nonzero()[:, 0]
    if not len(wrong):
        return None
    matrix = intrinsics[wrong[0]]
    if not wrong_focal_lengths[wrong[0]]:
        return f"holds a camera whose intrinsics are not those of a pinhole camera: {matrix.tolist()}"
    x, y = matrix.diagonal()[:2].tolist()
    return (
        "holds a camera whose intrinsics are not those of a pinhole camera: the focal lengths are "
        f"{x:g} and {y:g} pixels"
    )
