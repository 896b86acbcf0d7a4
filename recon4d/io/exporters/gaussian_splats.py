"""Initial Gaussians for splatting, one for each static point, in the PLY format of Kerbl et al. 2023.

They follow the paper's initialization (section 5.1): isotropic, sized by the root mean square distance to the three
nearest points, nearly transparent, and with a constant color. The harmonics of degrees 1 to 3 are stored as zeros,
because several viewers and trainers read no files without them.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.gaussian_files import CONSTANT_HARMONIC
from recon4d.io.point_cloud import NoConfidentPointsError

MAX_GAUSSIANS = 100_000
"""Largest number of Gaussians; `PointSelection.max_points` may lower it. One takes 248 bytes, and trainers begin with
about as many points (those of a COLMAP model) and add more where the pictures need them. Hand-tuned."""
OPACITY = 0.1
"""Opacity of every Gaussian, as in the code of Kerbl et al. 2023."""
NEIGHBORS = 3
"""Number of nearest points whose distances give the size, as in Kerbl et al. 2023."""
NUM_FURTHER_HARMONICS = 45
"""Number of coefficients of degrees 1 to 3 for three colors."""
PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{number}" for number in range(NUM_FURTHER_HARMONICS)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
"""Names of the stored numbers of a Gaussian, in the order of the file."""


def write_gaussian_splats(folder: Path, frames: SelectedFrames) -> str:
    """Write ``splats.ply`` with a Gaussian for each static point, in the axes and unit of the world.

    As trainers expect, the file contains logits of opacities, logarithms of scales (standard deviations), quaternions
    with w first, and normals of zero.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If there are too few static points, or a picture is missing or damaged.
    """
    static = frames.static_points(min(frames.selection.max_points, MAX_GAUSSIANS))
    _write_ply(folder / "splats.ply", gaussians(static.points, static.colors))
    return f"{len(static.points)} Gaussians"


def gaussians(points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]) -> Float[np.ndarray, "n 62"]:
    """Compute the stored numbers of a Gaussian at each point.

    Args:
        points: Points of shape (n, 3).
        colors: RGB colors of shape (n, 3).

    Returns:
        float32 array of shape (n, 62), with columns in the order of `PROPERTIES`.

    Raises:
        NoConfidentPointsError: If there are too few distinct points to determine the size of a Gaussian.
    """
    stored = torch.zeros(len(points), len(PROPERTIES), dtype=torch.float64)
    stored[:, 0:3] = points.double()
    stored[:, 6:9] = (colors.double() / 255 - 0.5) / CONSTANT_HARMONIC
    first = PROPERTIES.index("opacity")
    stored[:, first] = math.log(OPACITY / (1 - OPACITY))
    stored[:, first + 1 : first + 4] = _spacing(points.double()).log()[:, None]
    stored[:, first + 4] = 1
    return stored.float().numpy()


def _spacing(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Root mean square distance of each point to its three nearest points; zeros become the smallest other value."""
    from scipy.spatial import KDTree

    if len(points) <= NEIGHBORS:
        raise NoConfidentPointsError(f"Gaussians need more than {NEIGHBORS} static points, there are {len(points)}")
    distances, _ = KDTree(points.numpy()).query(points.numpy(), k=NEIGHBORS + 1)
    spacing = torch.from_numpy(np.asarray(distances)[:, 1:]).square().mean(dim=1).sqrt()
    if not (spacing > 0).any():
        raise NoConfidentPointsError("all static points coincide: Gaussians have no size")
    return spacing.clamp(min=float(spacing[spacing > 0].min()))


def _write_ply(path: Path, stored: Float[np.ndarray, "n properties"]) -> None:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(stored)}"]
    lines += [f"property float {name}" for name in PROPERTIES]
    header = "\n".join([*lines, "end_header"]) + "\n"
    path.write_bytes(header.encode("ascii") + stored.astype("<f4").tobytes())
