"""Removal of lens distortion from a clip and from the priors at its pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import is_in_image, pixel_grid
from recon4d.io.cameras.lenses import Lens, brown_lens
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Priors

ITERATIONS = 50
"""Fixed-point iterations that undistort a point; each gains about one decimal digit. Hand-tuned."""
MAX_INVERSION_ERROR = 0.1
"""Largest error in pixels of an undistorted point after distorting it again. Hand-tuned."""

SourcePixels = Float[Tensor, "height width 2"]
"""Position in the original image of each pixel of an undistorted image; NaN where the lens shows nothing."""


def undistort(clip: Clip, lenses: Sequence[Lens]) -> Clip:
    """Remove lens distortion, so that a pinhole camera with the same intrinsics would have recorded the clip.

    Images keep their size and are interpolated bilinearly; masks and depth move by whole pixels. Pixels that the
    original does not show become black and are ignored.

    Args:
        clip: The clip. Its priors must hold the intrinsics of all frames.
        lenses: Lens of each frame.

    Returns:
        The undistorted clip with undistorted priors.

    Raises:
        UserError: If the intrinsics are not known for every frame.
    """
    priors = _check_intrinsics(clip.priors)
    masks = [None] * clip.num_frames if priors.ignore is None else priors.ignore
    maps = _SourceMaps(clip.size, priors.intrinsics, lenses)
    images, ignore = [], []
    for number, (image, mask) in enumerate(zip(clip.images, masks, strict=True)):
        source_pixels = maps.of(number)
        images.append(_sample_image(image, source_pixels))
        ignore.append(_sample_mask(mask, clip.size, source_pixels))
    priors = replace(priors, ignore=torch.stack(ignore), depths=_undistorted_depths(priors, lenses))
    return replace(clip, images=torch.stack(images), priors=priors)


def undistort_image(
    image: UInt8[Tensor, "3 height width"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"] | Lens
) -> UInt8[Tensor, "3 height width"]:
    """Remove lens distortion from one image.

    Args:
        image: RGB image of shape (3, height, width).
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: The lens, or OpenCV's coefficients k1, k2, p1, p2, k3.

    Returns:
        The image of a pinhole camera, of the same shape; black where the original shows nothing.
    """
    height, width = image.shape[-2:]
    return _sample_image(image, _source_pixels((height, width), intrinsics, lens))


def undistort_map(
    values: Float[Tensor, "channels height width"],
    intrinsics: Float[Tensor, "3 3"],
    lens: Float[Tensor, "5"] | Lens,
) -> Float[Tensor, "channels height width"]:
    """Remove lens distortion from a map, whose values move by whole pixels.

    Args:
        values: Map with any number of channels.
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: The lens, or OpenCV's coefficients k1, k2, p1, p2, k3.

    Returns:
        The map of a pinhole camera; 0 where the original shows nothing.
    """
    return _sample(values, _source_pixels((values.shape[-2], values.shape[-1]), intrinsics, lens), "nearest")


def undistort_mask(
    mask: Bool[Tensor, "height width"] | None,
    size: tuple[int, int],
    intrinsics: Float[Tensor, "3 3"],
    lens: Float[Tensor, "5"] | Lens,
) -> Bool[Tensor, "height width"]:
    """Compute the mask of the pixels to ignore in an undistorted image.

    Args:
        mask: Pixels to ignore in the original image, of shape (height, width). None ignores nothing.
        size: Height and width of the image.
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: The lens, or OpenCV's coefficients k1, k2, p1, p2, k3.

    Returns:
        Mask of shape (height, width) of the pixels that `mask` marks or that the original does not show.
    """
    return _sample_mask(mask, size, _source_pixels(size, intrinsics, lens))


def undistort_pixels(
    pixels: Float[Tensor, "n 2"], intrinsics: Float[Tensor, "3 3"], lens: Lens
) -> Float[Tensor, "n 2"]:
    """Compute where a pinhole camera with the same intrinsics would have recorded pixels.

    Args:
        pixels: Pixels (x, y) of the distorted image.
        intrinsics: Intrinsics in pixels of the image.
        lens: The lens.

    Returns:
        Pixels of the undistorted image in float64; NaN if the inversion fails.
    """
    recorded, matrix = pixels.double(), intrinsics.double()
    straight = _to_pixels(lens.undistort(_to_points(recorded, matrix)), matrix)
    # The inversion may fail in the corners of strong lenses: keep points that distort back to their pixel.
    error = (_to_pixels(lens.distort(_to_points(straight, matrix)), matrix) - recorded).norm(dim=-1)
    return torch.where((error < MAX_INVERSION_ERROR)[:, None], straight, torch.nan)


def undistort_long_clip(clip: LongClip, lenses: Sequence[Lens]) -> LongClip:
    """Remove lens distortion from a long clip as `undistort` does, from each image and mask when it is read.

    Args:
        clip: The long clip. Its priors must hold the intrinsics of all frames.
        lenses: Lens of each frame.

    Returns:
        The undistorted long clip.

    Raises:
        UserError: If the intrinsics are not known for every frame.
    """
    maps = _SourceMaps(clip.size, _check_intrinsics(clip.priors).intrinsics, lenses)

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for position, image in zip(positions, clip.images(positions), strict=True):
            yield _sample_image(image, maps.of(position))

    def ignore(positions: Sequence[int]) -> Iterator[Tensor]:
        masks = (None for _ in positions) if clip.ignore is None else clip.ignore(positions)
        for position, mask in zip(positions, masks, strict=True):
            yield _sample_mask(mask, clip.size, maps.of(position))

    def depths(positions: Sequence[int]) -> Iterator[Tensor]:
        assert clip.depths is not None
        for position, depth in zip(positions, clip.depths(positions), strict=True):
            own = replace(_check_intrinsics(clip.priors).frames([position]), depths=depth[None])
            moved = _undistorted_depths(own, [lenses[position]])
            assert moved is not None
            yield moved[0]

    return replace(clip, images=images, ignore=ignore, depths=None if clip.depths is None else depths)


class _SourceMaps:
    """Source pixels of each frame; those of the last frame are kept, because most clips have one lens."""

    def __init__(self, size: tuple[int, int], intrinsics: Float[Tensor, "time 3 3"], lenses: Sequence[Lens]) -> None:
        self.size, self.intrinsics, self.lenses = size, intrinsics, lenses
        self._last: tuple[int, Tensor] | None = None

    def of(self, number: int) -> SourcePixels:
        """Return the source pixels of a frame."""
        if self._last is None or not self._is_same(self._last[0], number):
            self._last = number, _source_pixels(self.size, self.intrinsics[number], self.lenses[number])
        return self._last[1]

    def _is_same(self, one: int, other: int) -> bool:
        is_same_lens = self.lenses[one] == self.lenses[other]
        return is_same_lens and torch.equal(self.intrinsics[one], self.intrinsics[other])


def _check_intrinsics(priors: Priors | None) -> Priors:
    if priors is None or not priors.intrinsics.isfinite().all():
        raise UserError("removing lens distortion needs known intrinsics, and they are not known for every frame")
    return priors


def _source_pixels(
    size: tuple[int, int], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"] | Lens
) -> SourcePixels:
    model = lens if isinstance(lens, Lens) else brown_lens(lens.double())
    grid, matrix = pixel_grid(*size, dtype=torch.float64), intrinsics.double()
    if model.is_pinhole:
        return grid
    return _to_pixels(model.distort(_to_points(grid.reshape(-1, 2), matrix)), matrix).reshape(grid.shape)


def _to_points(pixels: Float[Tensor, "n 2"], intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "n 2"]:
    """Points at depth 1 that a pinhole camera sees at pixels."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    return torch.linalg.solve(intrinsics, homogeneous.T).T[:, :2]


def _to_pixels(points: Float[Tensor, "n 2"], intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "n 2"]:
    return points @ intrinsics[:2, :2].T + intrinsics[:2, 2]


def _undistorted_depths(priors: Priors, lenses: Sequence[Lens]) -> Float[Tensor, "time height width"] | None:
    """Move every known depth to the pixel of its undistorted point; the nearest one counts if several meet."""
    if priors.depths is None:
        return None
    height, width = priors.depths.shape[-2:]
    moved = torch.full_like(priors.depths, torch.inf)
    for depths, into, intrinsics, lens in zip(priors.depths, moved, priors.intrinsics, lenses, strict=True):
        is_known = depths.isfinite()
        straight = undistort_pixels(pixel_grid(height, width, dtype=torch.float64)[is_known], intrinsics, lens)
        kept = is_in_image(straight, (height, width))
        column, row = straight[kept].floor().long().unbind(-1)
        into.view(-1).scatter_reduce_(0, row * width + column, depths[is_known][kept], "amin")
    return torch.where(moved.isfinite(), moved, torch.nan)


def _sample_image(image: UInt8[Tensor, "3 height width"], source_pixels: Tensor) -> UInt8[Tensor, "3 height width"]:
    return _sample(image.float(), source_pixels, "bilinear").round().clamp(0, 255).to(torch.uint8)


def _sample_mask(
    mask: Bool[Tensor, "height width"] | None, size: tuple[int, int], source_pixels: Tensor
) -> Bool[Tensor, "height width"]:
    outside = ~is_in_image(source_pixels, size)
    return outside if mask is None else outside | (_sample(mask[None].float(), source_pixels, "nearest")[0] > 0.5)


def _sample(
    maps: Float[Tensor, "channels height width"], pixels: Float[Tensor, "new_height new_width 2"], mode: str
) -> Float[Tensor, "channels new_height new_width"]:
    """Sample maps at `pixels`: 0 outside of the image, border values beyond the centers of the border pixels."""
    height, width = maps.shape[-2:]
    grid = (2 * pixels / pixels.new_tensor([width, height]) - 1).nan_to_num(nan=-2.0)
    values = F.grid_sample(maps[None], grid[None].to(maps), mode, "border", align_corners=False)[0]
    return values * is_in_image(pixels, (height, width))
