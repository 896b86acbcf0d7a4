"""Camera poses between the frames: smooth rotations and paths through the known ones."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry.transforms import rigid


def interpolate_poses(
    poses: Float[Tensor, "time 4 4"], times: Float[Tensor, " time"], wanted: Float[Tensor, " moment"]
) -> Float[Tensor, "moment 4 4"]:
    """Interpolate rigid transforms over time.

    Rotations follow a cubic spline of rotation vectors (`scipy.spatial.transform.RotationSpline`), translations a cubic
    spline; with two known poses, the shortest rotation and a straight line.

    Args:
        poses: Rigid transforms; NaN where unknown. At least one is known.
        times: Their times in seconds, increasing.
        wanted: Times in seconds; before the first and after the last known pose it stays as it is.

    Returns:
        The transforms at these times, in the dtype of `poses`.

    Raises:
        ValueError: If no pose is known.
    """
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, RotationSpline

    is_known = torch.isfinite(poses).flatten(1).all(dim=1)
    if not is_known.any():
        raise ValueError("no pose is known; wanted at least one")
    known, at = poses[is_known].double().cpu().numpy(), times[is_known].double().cpu().numpy()
    moments = np.clip(wanted.double().cpu().numpy(), at[0], at[-1])
    if len(at) == 1:
        return poses[is_known].expand(len(moments), 4, 4)
    rotations = RotationSpline(at, Rotation.from_matrix(known[:, :3, :3]))(moments).as_matrix()
    spline = CubicSpline(at, known[:, :3, 3], bc_type="not-a-knot" if len(at) > 3 else "natural")
    found = rigid(torch.from_numpy(np.ascontiguousarray(rotations)), torch.from_numpy(spline(moments)))
    return found.to(poses)
