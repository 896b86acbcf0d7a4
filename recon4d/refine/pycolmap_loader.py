"""Access to pycolmap: its import, its log level and its random seed, and conversion of its cameras and poses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import rigid

FIRST_ID = 1
"""First index of COLMAP's cameras, images, frames and points."""


class NoPycolmapError(UserError):
    """pycolmap cannot be imported: the installation is incomplete."""


def load_pycolmap() -> Any:
    """Import pycolmap.

    Returns:
        The module `pycolmap`.

    Raises:
        NoPycolmapError: If pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise NoPycolmapError(f"pycolmap cannot be imported ({error}); reinstall recon4d or pycolmap") from error
    return pycolmap


@contextmanager
def pycolmap_session(seed: int | None = None) -> Iterator[Any]:
    """Use pycolmap with only fatal messages logged; the previous log level is restored afterwards.

    COLMAP's random generator is one per thread and has no getter, so that its previous state cannot be restored: after
    a session with a seed, the generator of the calling thread is where the session left it. Sessions can be nested.

    Args:
        seed: Seed of COLMAP's random generator. None leaves the generator as it is.

    Yields:
        The module `pycolmap`.

    Raises:
        NoPycolmapError: If pycolmap is not installed.
    """
    pycolmap = load_pycolmap()
    previous_level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    try:
        if seed is not None:
            pycolmap.set_random_seed(seed)
        yield pycolmap
    finally:
        pycolmap.logging.minloglevel = previous_level


def pinhole_camera(pycolmap: Any, intrinsics: Float[Tensor, "3 3"], size: tuple[int, int]) -> Any:
    """Create a pycolmap `Camera` with known intrinsics.

    Args:
        pycolmap: The module.
        intrinsics: Intrinsics in pixels; a skew is ignored.
        size: Height and width of the pictures.

    Returns:
        The camera.
    """
    params = [float(intrinsics[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))]
    camera = pycolmap.Camera(model="PINHOLE", width=size[1], height=size[0], params=params)
    camera.has_prior_focal_length = True
    return camera


def add_points(
    pycolmap: Any, model: Any, points: Float[np.ndarray, "track 3"], is_observed: Bool[np.ndarray, "time track"]
) -> None:
    """Add points to a pycolmap `Reconstruction`; point i becomes point i + 1.

    Args:
        pycolmap: The module.
        model: The reconstruction, whose image t + 1 has one keypoint for each track observed in frame t, in order.
        points: Points in world coordinates.
        is_observed: Frames in which each point is observed.
    """
    keypoints = np.cumsum(is_observed, axis=1) - 1
    for track, point in enumerate(points):
        frames = np.flatnonzero(is_observed[:, track])
        elements = [pycolmap.TrackElement(int(frame) + FIRST_ID, int(keypoints[frame, track])) for frame in frames]
        model.add_point3D(point, pycolmap.Track(elements))


def matrix_of(transform: Any) -> Float[Tensor, "4 4"]:
    """Convert a pycolmap `Rigid3d` to a matrix.

    Args:
        transform: The transform.

    Returns:
        The rigid transform in float64.
    """
    matrix = torch.from_numpy(np.array(transform.matrix()))
    return rigid(matrix[:, :3], matrix[:, 3])
