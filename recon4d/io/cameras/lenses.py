"""Lens models: names, coefficients, and where a lens records what a pinhole camera would see.

The models are those of COLMAP (colmap.github.io/cameras.html) and are computed by pycolmap, at focal length 1 and
principal point 0. One model is added: nerfstudio's OPENCV with a fourth radial coefficient.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

if TYPE_CHECKING:
    import pycolmap

RADIAL_4 = "OPENCV with k4"
"""The factor 1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8 with tangential distortion: nerfstudio's OPENCV with k3 and k4."""
PERSPECTIVE_MODELS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": (1, ()),
    "PINHOLE": (2, ()),
    "SIMPLE_RADIAL": (1, ("k1",)),
    "RADIAL": (1, ("k1", "k2")),
    "OPENCV": (2, ("k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (2, ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    RADIAL_4: (2, ("k1", "k2", "p1", "p2", "k3", "k4")),
    "SIMPLE_DIVISION": (1, ("k",)),
    "DIVISION": (2, ("k",)),
}
"""Number of focal lengths and names of the coefficients of the lenses that are pinholes if all coefficients are 0."""
OTHER_MODELS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIMPLE_FISHEYE": (1, ()),
    "FISHEYE": (2, ()),
    "SIMPLE_RADIAL_FISHEYE": (1, ("k1",)),
    "RADIAL_FISHEYE": (1, ("k1", "k2")),
    "OPENCV_FISHEYE": (2, ("k1", "k2", "k3", "k4")),
    "THIN_PRISM_FISHEYE": (2, ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")),
    "RAD_TAN_THIN_PRISM_FISHEYE": (2, ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3")),
    "FOV": (2, ("omega",)),
    "EUCM": (2, ("alpha", "beta")),
}
"""The same for lenses that are never pinholes."""
LENS_MODELS = PERSPECTIVE_MODELS | OTHER_MODELS
"""All lenses that are read."""
MAX_COEFFICIENT = 1e6
"""Largest magnitude of a coefficient. Hand-tuned: real lenses stay below 1000."""
ITERATIONS = 50
"""Fixed-point iterations that undistort a point of `RADIAL_4`. Hand-tuned."""
NUM_DISTANCES = 2000
"""Number of distances at which a lens is checked to be invertible."""


@dataclass(frozen=True)
class Lens:
    """A lens without its focal length and principal point."""

    model: str
    """Name in `LENS_MODELS`."""
    coefficients: tuple[float, ...] = ()
    """Distortion coefficients in the order of the model."""
    upright_from_stored: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    """Quarter turn or reflection of the picture since it was recorded, as an orthogonal 2x2 matrix."""

    @property
    def is_pinhole(self) -> bool:
        """Whether there is nothing to remove."""
        return self.model in PERSPECTIVE_MODELS and not any(self.coefficients)

    def turned(self, upright_from_stored: Float64[Tensor, "2 2"]) -> "Lens":
        """Describe the lens in pictures that have been turned or mirrored.

        Args:
            upright_from_stored: Orthogonal matrix from directions in the old picture to directions in the new one.

        Returns:
            The lens of the new pictures.
        """
        (a, b), (c, d) = (upright_from_stored.double() @ self._turn()).tolist()
        return replace(self, upright_from_stored=((a, b), (c, d)))

    def distort(self, points: Float64[Tensor, "n 2"]) -> Float64[Tensor, "n 2"]:
        """Compute where the lens records the directions of a pinhole camera.

        Args:
            points: Points (x, y) at depth 1.

        Returns:
            The recorded points in units of the focal length, from the principal point. NaN beyond the angle up to which
            the lens is invertible: what it shows there has been shown nearer to the axis before.
        """
        turn = self._turn()
        stored = points.double() @ turn
        recorded = self._distort_stored(stored)
        farthest = self._invertible_distance(float(stored.norm(dim=-1).nan_to_num().max()) if len(stored) else 0.0)
        recorded = torch.where(stored.norm(dim=-1, keepdim=True) <= farthest, recorded, torch.nan)
        return recorded @ turn.T

    def undistort(self, points: Float64[Tensor, "n 2"]) -> Float64[Tensor, "n 2"]:
        """Compute the directions that the lens records at points: the inverse of `distort`.

        Args:
            points: Recorded points in units of the focal length, from the principal point.

        Returns:
            Points (x, y) at depth 1; NaN if there is none, for example for directions behind the camera.
        """
        turn = self._turn()
        stored = points.double() @ turn
        if self.model == RADIAL_4:
            straight = stored
            for _ in range(ITERATIONS):
                straight = straight + stored - self._distort_stored(straight)
            return straight @ turn.T
        rays = _camera(self).cam_from_img(np.ascontiguousarray(stored.numpy()))
        return torch.from_numpy(np.array(rays, dtype=np.float64).reshape(-1, 2)) @ turn.T

    def describe(self) -> str:
        """Name the model and the coefficients that are not 0.

        Returns:
            Such as "OPENCV with k1, k2" or "PINHOLE".
        """
        if self.is_pinhole:
            return "PINHOLE"
        names = LENS_MODELS[self.model][1]
        given = [name for name, value in zip(names, self.coefficients, strict=True) if value]
        return f"{self.model.split()[0]} with {', '.join(given)}" if given else self.model.split()[0]

    def _turn(self) -> Float64[Tensor, "2 2"]:
        return torch.tensor(self.upright_from_stored, dtype=torch.float64)

    def _distort_stored(self, points: Float64[Tensor, "n 2"]) -> Float64[Tensor, "n 2"]:
        """`distort` in the stored picture and without its limit."""
        if self.model == RADIAL_4:
            return _distort_radial_4(points, self.coefficients)
        rays = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
        recorded = _camera(self).img_from_cam(np.ascontiguousarray(rays.numpy()))
        return torch.from_numpy(np.array(recorded, dtype=np.float64).reshape(-1, 2))

    def _invertible_distance(self, farthest: float) -> float:
        """The distance from the axis at depth 1, up to `farthest`, up to which the recorded distance grows."""
        distances = torch.linspace(0, 1, NUM_DISTANCES, dtype=torch.float64) * farthest
        # Along two opposite axes, so that tangential distortion does not decide.
        ahead = torch.stack([distances, torch.zeros_like(distances)], dim=1)
        grows = [self._distort_stored(sign * ahead)[:, 0].mul(sign).diff() > 0 for sign in (1.0, -1.0)]
        stops = (~(grows[0] | grows[1])).nonzero()[:, 0]
        return float(distances[stops[0]]) if len(stops) and farthest > 0 else float("inf")


def _camera(lens: Lens) -> "pycolmap.Camera":
    import pycolmap

    parameters = [1.0] * LENS_MODELS[lens.model][0] + [0.0, 0.0, *lens.coefficients]
    return pycolmap.Camera(model=lens.model, width=1, height=1, params=parameters)


def _distort_radial_4(points: Float64[Tensor, "n 2"], coefficients: tuple[float, ...]) -> Float64[Tensor, "n 2"]:
    k1, k2, p1, p2, k3, k4 = coefficients
    squared, (x, y) = points.square().sum(dim=-1), points.unbind(-1)
    factor = 1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4)))
    recorded_x = x * factor + 2 * p1 * x * y + p2 * (squared + 2 * x * x)
    recorded_y = y * factor + p1 * (squared + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([recorded_x, recorded_y], dim=-1)


def brown_lens(coefficients: Float[Tensor, "5"]) -> Lens:
    """Create the lens of OpenCV's five coefficients.

    Args:
        coefficients: k1, k2, p1, p2, k3.

    Returns:
        The lens.
    """
    k1, k2, p1, p2, k3 = coefficients.double().tolist()
    return Lens("OPENCV", (k1, k2, p1, p2)) if k3 == 0 else Lens("FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
