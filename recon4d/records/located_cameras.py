"""Cameras of pictures that were located in a scene, and how far to trust each of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records.cameras import Cameras


@dataclass(frozen=True)
class LocationTrust:
    """How well matches determine the camera of a picture."""

    num_inliers: int
    """Number of different places in the picture whose matches agree with the camera."""
    inlier_fraction: float
    """Fraction of the places with a match that agree with the camera."""
    coverage: float
    """Fraction of the cells of a 6 x 6 grid over the picture that contain inliers."""
    rotation_error: float
    """Expected error of the rotation in degrees (one standard deviation)."""
    position_error: float
    """Expected error of the position in units of the scene (one standard deviation)."""
    relative_position_error: float
    """Expected error of the position as a fraction of the median depth of the inliers."""
    intrinsics_source: str
    """Where the intrinsics come from."""

    def __str__(self) -> str:
        return (
            f"{self.num_inliers} places agree ({self.inlier_fraction:.0%}) in {self.coverage:.0%} of the picture, "
            f"expected errors {self.rotation_error:.2f} degrees and {100 * self.relative_position_error:.2f} % of the "
            f"depth; intrinsics: {self.intrinsics_source}"
        )


@dataclass(frozen=True)
class LocatedCameras:
    """Cameras of pictures in the world of a scene."""

    names: tuple[str, ...]
    """Name of each picture."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each picture in pixels."""
    cameras: Cameras
    """Camera of each picture, in float64, with intrinsics in pixels of the picture; NaN for pictures that could not be
    located."""
    distortion: Float[Tensor, "picture 5"]
    """Lens distortion k1, k2, p1, p2, k3 (OpenCV) of each picture, from the scene or as given; 0 for none, NaN for
    given lenses of other models."""
    trust: tuple[LocationTrust | None, ...]
    """How far to trust each camera; None for pictures that could not be located."""
    reasons: tuple[str, ...]
    """Why each picture could not be located; empty if it was."""

    @property
    def is_located(self) -> Bool[Tensor, " picture"]:
        """Whether the camera of each picture is known."""
        return torch.tensor([trust is not None for trust in self.trust], dtype=torch.bool)

    @property
    def world_from_camera(self) -> Float[Tensor, "picture 4 4"]:
        """Poses; NaN for pictures that could not be located."""
        return self.cameras.world_from_cam
