"""Intrinsics of a picture as a file states them: by focal lengths or by angles, with or without the picture's size."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.cameras.lenses import LENS_MODELS, MAX_COEFFICIENT, Lens
from recon4d.io.checked_values import pinhole_matrix

PANORAMAS = frozenset({"EQUIRECTANGULAR", "LATLONG", "SPHERICAL", "OMNIDIRECTIONAL", "CUBEMAP"})
"""Names of cameras that see all around."""


@dataclass(frozen=True)
class StoredIntrinsics:
    """Focal length, principal point and lens of one camera.

    Either focal lengths or angles are given. Missing values are those of square pixels and of the image center.
    """

    lens: Lens
    """The lens."""
    focal_x: float | None = None
    """Focal length along x in pixels of a picture of `width`."""
    focal_y: float | None = None
    """Focal length along y in pixels."""
    angle_x: float | None = None
    """Horizontal field of view in radians."""
    angle_y: float | None = None
    """Vertical field of view in radians."""
    center_x: float | None = None
    """x of the principal point in pixels; the center of the first pixel is at 0.5."""
    center_y: float | None = None
    """y of the principal point in pixels."""
    width: int | None = None
    """Width in pixels of the picture that all values refer to. None is the size of the picture itself."""
    height: int | None = None
    """Height in pixels."""

    def picture_size(self, own: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the pictures that the values refer to.

        Args:
            own: Height and width of the picture of a frame in pixels.

        Returns:
            Height and width. A side that is not given follows from the aspect ratio of the picture.
        """
        if self.width is None and self.height is None:
            return own
        width = self.width or max(1, round((self.height or 0) * own[1] / own[0]))
        return self.height or max(1, round(width * own[0] / own[1])), width

    def matrix(self, own: tuple[int, int]) -> Float64[Tensor, "3 3"]:
        """Compute the intrinsics in pixels of a picture of `picture_size`.

        Args:
            own: Height and width of the picture of a frame in pixels.

        Returns:
            Intrinsics of shape (3, 3).
        """
        height, width = self.picture_size(own)
        by_angle = [
            None if angle is None else side / 2 / math.tan(angle / 2)
            for side, angle in ((width, self.angle_x), (height, self.angle_y))
        ]
        given = [self.focal_x, self.focal_y]
        given = [angle if focal is None else focal for focal, angle in zip(given, by_angle, strict=True)]
        focal_x, focal_y = (own_axis if own_axis is not None else other for own_axis, other in (given, given[::-1]))
        assert focal_x is not None
        assert focal_y is not None
        center_x = width / 2 if self.center_x is None else self.center_x
        center_y = height / 2 if self.center_y is None else self.center_y
        return pinhole_matrix(focal_x, focal_y, center_x, center_y)


def named_lens(place: str, model: str, coefficients: tuple[float, ...]) -> Lens:
    """Create a lens of a model that a file names.

    Args:
        place: The file, at the beginning of messages.
        model: COLMAP's name of the model.
        coefficients: Its distortion coefficients.

    Returns:
        The lens.

    Raises:
        UserError: If the model is a panorama or unknown, or if its coefficients are not finite, too large or of
            another number.
    """
    if any(name in model.upper() for name in PANORAMAS):
        raise UserError(
            f"{place}: its pictures are 360 degree panoramas ({model}), which no pinhole camera shows; split them into "
            "perspective views (split_panoramas)"
        )
    if model not in LENS_MODELS:
        known = ", ".join(name for name in LENS_MODELS if " " not in name)
        raise UserError(f"{place}: a camera of the unsupported model {model}; wanted {known}")
    if len(coefficients) != len(LENS_MODELS[model][1]):
        wanted = ", ".join(LENS_MODELS[model][1]) or "none"
        raise UserError(f"{place}: a {model} camera has {len(coefficients)} distortion coefficients; wanted {wanted}")
    if not all(math.isfinite(value) and abs(value) <= MAX_COEFFICIENT for value in coefficients):
        raise UserError(f"{place}: a {model} camera has the distortion coefficients {list(coefficients)}")
    return Lens(model, coefficients)


def intrinsics_from_colmap(
    place: str, model: str, width: int, height: int, parameters: tuple[float, ...]
) -> StoredIntrinsics:
    """Convert a camera of COLMAP.

    Args:
        place: The file, at the beginning of messages.
        model: COLMAP's name of the model.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        parameters: Focal lengths, principal point and coefficients in COLMAP's order.

    Returns:
        The intrinsics.

    Raises:
        UserError: If the model is not supported (`named_lens`) or the size is 0.
    """
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise UserError(f"{place}: a camera has pictures of {width} x {height} pixels")
    num_focal_lengths = LENS_MODELS.get(model, (1, ()))[0]
    lens = named_lens(place, model, parameters[num_focal_lengths + 2 :])
    center_x, center_y = parameters[num_focal_lengths : num_focal_lengths + 2]
    focal_x, focal_y = parameters[0], parameters[num_focal_lengths - 1]
    return StoredIntrinsics(lens, focal_x, focal_y, center_x=center_x, center_y=center_y, width=width, height=height)


UNKNOWN_INTRINSICS = torch.full((3, 3), torch.nan, dtype=torch.float64)
"""Intrinsics of a frame without any."""
