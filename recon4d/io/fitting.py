"""Bringing pictures of different sizes, such as portrait beside landscape, to a common frame, and back.

All pictures are scaled to the same longer side, which is that of the frame, and lie in its middle. The place of a
picture therefore follows from its size and that of the frame (`Placement`).
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.io.photos import read_photo
from recon4d.records import Clip, Priors


@dataclass(frozen=True)
class Placement:
    """The place of a picture in a common frame."""

    own: tuple[int, int]
    """Height and width of the picture itself."""
    frame: tuple[int, int]
    """Height and width of the common frame."""

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the picture in the frame."""
        return _scaled(self.own, max(self.frame))

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the frame at which the picture begins."""
        (height, width), (own_height, own_width) = self.frame, self.scaled
        return max(0, (height - own_height) // 2), max(0, (width - own_width) // 2)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that the picture covers."""
        (top, left), (height, width) = self.corner, self.scaled
        return slice(top, top + height), slice(left, left + width)

    def to_frame(self, intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
        """Convert intrinsics in pixels of the picture to pixels of the frame.

        Args:
            intrinsics: Intrinsics of shape (3, 3).

        Returns:
            Intrinsics of the same shape.
        """
        return self._frame_from_own().to(intrinsics) @ intrinsics

    def to_own(self, intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
        """Convert intrinsics in pixels of the frame to pixels of the picture.

        Args:
            intrinsics: Intrinsics of shape (3, 3).

        Returns:
            Intrinsics of the same shape.
        """
        return torch.linalg.inv(self._frame_from_own()).to(intrinsics) @ intrinsics

    def cut_out(self, image: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 own_height own_width"]:
        """Cut the picture out of its frame, at its own size.

        Args:
            image: The frame, of shape (3, height, width).

        Returns:
            The picture; the frame itself if they have the same size.
        """
        if self.own == self.frame:
            return image
        rows, columns = self.slices
        return Clip(image[None, :, rows, columns], torch.zeros(1)).resized(*self.own).images[0]

    def place(self, image: UInt8[Tensor, "3 own_height own_width"]) -> UInt8[Tensor, "3 height width"]:
        """Scale the picture and put it into its frame.

        Args:
            image: The picture.

        Returns:
            The frame, with black padding.
        """
        if self.own == self.frame:
            return image
        placed = torch.zeros(3, *self.frame, dtype=torch.uint8)
        rows, columns = self.slices
        placed[:, rows, columns] = Clip(image[None], torch.zeros(1)).resized(*self.scaled).images[0]
        return placed

    def padding(self) -> Bool[Tensor, "height width"]:
        """Compute the mask of the frame's padding.

        Returns:
            True for pixels that the picture does not cover.
        """
        padding = torch.ones(self.frame, dtype=torch.bool)
        padding[self.slices] = False
        return padding

    def _frame_from_own(self) -> Float[Tensor, "3 3"]:
        (top, left), (height, width) = self.corner, self.scaled
        horizontal, vertical = width / self.own[1], height / self.own[0]
        return torch.tensor([[horizontal, 0, left], [0, vertical, top], [0, 0, 1]], dtype=torch.float64)


@dataclass(frozen=True)
class GatheredPhotos:
    """Pictures of one size or in a common frame."""

    images: UInt8[Tensor, "time 3 height width"]
    """The pictures."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of each picture, if they differ; else empty."""
    priors: Priors | None = None
    """The mask of the padding; None without padding."""


def gather_photos(name: str, photos: Sequence[Path]) -> GatheredPhotos:
    """Read pictures. If their sizes differ, bring them to a common frame, with a warning.

    Args:
        name: Folder of the pictures, for the warning.
        photos: The files, at least one.

    Returns:
        The pictures.

    Raises:
        UserError: If a picture is missing or damaged.
    """
    first = read_photo(photos[0])
    gathered = first.new_empty((len(photos), *first.shape))
    gathered[0] = first
    for position, photo in enumerate(photos[1:], start=1):
        image = read_photo(photo)
        if image.shape != first.shape:
            return _fit(name, [*gathered[:position], image, *map(read_photo, photos[position + 1 :])])
        gathered[position] = image
    return GatheredPhotos(gathered)


def _fit(name: str, images: Sequence[Tensor]) -> GatheredPhotos:
    fitted = fit_images(images)
    own = tuple((image.shape[1], image.shape[2]) for image in images)
    different = sorted({(width, height) for height, width in own}, reverse=True)
    shown = ", ".join(f"{width}x{height}" for width, height in different[:3]) + (", ..." if len(different) > 3 else "")
    height, width = fitted.images.shape[-2:]
    warnings.warn(
        f"{name} holds pictures of {len(different)} sizes ({shown}): they are scaled and padded to {width}x{height}, "
        "and the padding is ignored",
        stacklevel=6,
    )
    return GatheredPhotos(fitted.images, own, replace(Priors.unknown(len(images)), ignore=fitted.padding))


@dataclass(frozen=True)
class FittedImages:
    """Images of a common size."""

    images: UInt8[Tensor, "time 3 height width"]
    """Each picture, scaled and in the middle of its frame, with black padding."""
    padding: Bool[Tensor, "time height width"]
    """Pixels that no picture covers."""


def fit_images(images: Sequence[UInt8[Tensor, "3 _height _width"]]) -> FittedImages:
    """Scale pictures to the same longer side, and pad them to the smallest frame that holds all of them.

    A camera that is turned to portrait keeps its focal length in pixels, since its longer side is the same. The longer
    side is the most frequent one, of equally frequent ones the largest.

    Args:
        images: RGB pictures of shape (3, height, width) of any sizes.

    Returns:
        The pictures in a common frame. The principal point of each stays in the middle of the frame.
    """
    placements = place_pictures([(image.shape[1], image.shape[2]) for image in images])
    placed = [placement.place(image) for placement, image in zip(placements, images, strict=True)]
    return FittedImages(torch.stack(placed), torch.stack([placement.padding() for placement in placements]))


def place_pictures(sizes: Sequence[tuple[int, int]]) -> list[Placement]:
    """Choose the common frame of pictures.

    Args:
        sizes: Height and width of each picture.

    Returns:
        The place of each picture in the smallest frame that holds all of them, scaled to the same longer side.
    """
    counts = Counter(map(max, sizes))
    longer = max(counts, key=lambda side: (counts[side], side))
    scaled = [_scaled(size, longer) for size in sizes]
    frame = max(height for height, _ in scaled), max(width for _, width in scaled)
    return [Placement(size, frame) for size in sizes]


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Height and width of a picture scaled to a longer side."""
    scale = longer / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))
