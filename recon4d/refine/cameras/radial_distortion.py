"""Radial lens distortion with one or two coefficients, as in COLMAP's camera models SIMPLE_RADIAL and RADIAL."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.io.undistortion import ITERATIONS

NUM_DISTANCES = 1000
"""Number of distances at which a lens is checked to be invertible."""


@dataclass(frozen=True)
class RadialDistortion:
    """Distortion by the factor 1 + k1 r^2 + k2 r^4, where r is the distance from the axis at depth 1."""

    k1: float = 0.0
    """First coefficient; negative for barrel distortion, as of wide-angle lenses."""
    k2: float = 0.0
    """Second coefficient."""

    @property
    def is_none(self) -> bool:
        """Whether there is no distortion."""
        return self.k1 == 0 and self.k2 == 0

    def factors(self, normalized: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 1"]:
        """Compute the factors by which points are distorted.

        Args:
            normalized: Points (x, y) at depth 1, without distortion.

        Returns:
            Factors of their distances from the axis.
        """
        squared = normalized.square().sum(dim=-1, keepdim=True)
        return 1 + self.k1 * squared + self.k2 * squared.square()

    def slopes(self, normalized: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 1"]:
        """Compute the derivatives of the factors by the squared distance from the axis.

        Args:
            normalized: Points (x, y) at depth 1, without distortion.

        Returns:
            Derivatives of `factors`.
        """
        return self.k1 + 2 * self.k2 * normalized.square().sum(dim=-1, keepdim=True)

    def is_invertible(self, size: tuple[int, int], intrinsics: Float[Tensor, "3 3"]) -> bool:
        """Check whether no two pixels of an undistorted image have the same pixel in the distorted one.

        Args:
            size: Height and width of the image in pixels.
            intrinsics: Intrinsics in its pixels.

        Returns:
            Whether the distorted distance from the axis grows with the undistorted one up to the corners.
        """
        height, width = size
        corners = torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]], dtype=torch.float64)
        focal_lengths, center = intrinsics.diagonal()[:2].double(), intrinsics[:2, 2].double()
        farthest = ((corners - center) / focal_lengths).norm(dim=-1).max()
        distances = torch.linspace(0, 1, NUM_DISTANCES, dtype=torch.float64) * farthest
        distorted = distances * (1 + self.k1 * distances**2 + self.k2 * distances**4)
        return bool((distorted.diff() > 0).all())

    def coefficients(self) -> Float[Tensor, "5"]:
        """Return the coefficients k1, k2, p1, p2, k3 of Brown's model, in OpenCV's order."""
        return torch.tensor([self.k1, self.k2, 0.0, 0.0, 0.0], dtype=torch.float64)

    def undistort(
        self, pixels: Float[Tensor, "*shape 2"], intrinsics: Float[Tensor, "3 3"]
    ) -> Float[Tensor, "*shape 2"]:
        """Compute where a pinhole camera with the same intrinsics would have recorded pixels.

        Args:
            pixels: Pixel coordinates (x, y) in the distorted image.
            intrinsics: Intrinsics in pixels of the image.

        Returns:
            Pixel coordinates in the undistorted image, in float64.
        """
        from kornia.geometry.calibration import undistort_points

        flat, matrix = pixels.double().reshape(1, -1, 2), intrinsics.double()[None]
        straight = undistort_points(flat, matrix, self.coefficients()[None].to(flat), num_iters=ITERATIONS)
        return straight.reshape(pixels.shape)


NO_DISTORTION = RadialDistortion()
"""The distortion of a pinhole camera."""
