"""Gaussians to begin splatting from, one at each static point, in the PLY of Kerbl et al. 2023 (degree 0).

Their initialization (section 5.1): isotropic, as large as the three nearest points are far (their root mean square
distance), nearly transparent, the color a constant spherical harmonic.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.point_selection import PointSelection, static_pixels
from recon4d.io.point_cloud import NoConfidentPointsError, unproject_pixels
from recon4d.io.saved_results import SavedResults

CONSTANT_HARMONIC = 0.5 / math.sqrt(math.pi)
"""The spherical harmonic of degree 0: a color is 0.5 + this times its coefficient."""
OPACITY = 0.1
NEIGHBORS = 3
PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def write_gaussian_splats(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``splats.ply``: a Gaussian for each static point, in the world's own axes and unit.

    Stored are what trainers store: the logit of opacity, the logarithm of each scale (a standard deviation), the
    quaternion with w first, and normals of zero.
    """
    static = subsample_mask(static_pixels(results.scene, choice), choice.max_points)
    points, colors = unproject_pixels(results.scene, results.images_at_map_size(), static)
    _write_ply(folder / "splats.ply", gaussians(points, colors))
    return f"{len(points)} Gaussians"


def gaussians(points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]) -> Float[np.ndarray, "n 17"]:
    """The stored numbers of a Gaussian at each point, in the order of `PROPERTIES`.

    Raises `NoConfidentPointsError` where there are too few points at different places to say how large one is.
    """
    stored = torch.zeros(len(points), len(PROPERTIES), dtype=torch.float64)
    stored[:, 0:3] = points.double()
    stored[:, 6:9] = (colors.double() / 255 - 0.5) / CONSTANT_HARMONIC
    stored[:, 9] = math.log(OPACITY / (1 - OPACITY))
    stored[:, 10:13] = _spacing(points.double()).log()[:, None]
    stored[:, 13] = 1
    return stored.float().numpy()


def _spacing(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """The root mean square distance of each point to its three nearest; the smallest there is where that is zero."""
    from scipy.spatial import KDTree

    if len(points) <= NEIGHBORS:
        raise NoConfidentPointsError(f"Gaussians need more than {NEIGHBORS} static points, there are {len(points)}")
    distances, _ = KDTree(points.numpy()).query(points.numpy(), k=NEIGHBORS + 1)
    spacing = torch.from_numpy(np.asarray(distances)[:, 1:]).square().mean(dim=1).sqrt()
    if not (spacing > 0).any():
        raise NoConfidentPointsError("all static points are at one place: Gaussians have no size")
    return spacing.clamp(min=float(spacing[spacing > 0].min()))


def _write_ply(path: Path, stored: Float[np.ndarray, "n properties"]) -> None:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(stored)}"]
    lines += [f"property float {name}" for name in PROPERTIES]
    header = "\n".join([*lines, "end_header"]) + "\n"
    path.write_bytes(header.encode("ascii") + stored.astype("<f4").tobytes())
