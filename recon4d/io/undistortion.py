"""Removal of lens distortion from a clip and from the priors at its pixels, with kornia."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import pixel_grid
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Priors

ITERATIONS = 50
"""Fixed-point iterations that undistort a point; each gains about one decimal digit. Hand-tuned."""
MAX_INVERSION_ERROR = 0.1
"""Largest error in pixels of an undistorted point after distorting it again. Hand-tuned."""


def undistort(clip: Clip, distortion: Float[Tensor, "time 5"]) -> Clip:
    """Remove lens distortion, so that a pinhole camera with the same intrinsics would have recorded the clip.

    Images keep their size and are interpolated bilinearly; masks and depth move by whole pixels. Pixels that the
    original does not show become black and are ignored. The distortion model is that of Brown, "Decentering Distortion
    of Lenses" (1966), in OpenCV's order and sign.

    Args:
        clip: The clip. Its priors must hold the intrinsics of all frames.
        distortion: Coefficients k1, k2, p1, p2, k3 of each frame, of shape (time, 5).

    Returns:
        The undistorted clip with undistorted priors.

    Raises:
        UserError: If the intrinsics are not known for every frame.
    """
    priors = _check_intrinsics(clip.priors)
    masks = [None] * clip.num_frames if priors.ignore is None else priors.ignore
    images = [
        undistort_image(image, intrinsics, lens)
        for image, intrinsics, lens in zip(clip.images, priors.intrinsics, distortion, strict=True)
    ]
    ignore = [
        undistort_mask(mask, clip.size, intrinsics, lens)
        for mask, intrinsics, lens in zip(masks, priors.intrinsics, distortion, strict=True)
    ]
    priors = replace(priors, ignore=torch.stack(ignore), depths=_undistorted_depths(priors, distortion))
    return replace(clip, images=torch.stack(images), priors=priors)


def undistort_image(
    image: UInt8[Tensor, "3 height width"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> UInt8[Tensor, "3 height width"]:
    """Remove lens distortion from one image.

    Args:
        image: RGB image of shape (3, height, width).
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: Coefficients k1, k2, p1, p2, k3.

    Returns:
        The image of a pinhole camera, of the same shape; black where the original shows nothing.
    """
    height, width = image.shape[-2:]
    sampled = _sample(image.float(), _source_pixels((height, width), intrinsics, lens), "bilinear")
    return sampled.round().clamp(0, 255).to(torch.uint8)


def undistort_map(
    values: Float[Tensor, "channels height width"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> Float[Tensor, "channels height width"]:
    """Remove lens distortion from a map, whose values move by whole pixels.

    Args:
        values: Map with any number of channels.
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: Coefficients k1, k2, p1, p2, k3.

    Returns:
        The map of a pinhole camera; 0 where the original shows nothing.
    """
    return _sample(values, _source_pixels((values.shape[-2], values.shape[-1]), intrinsics, lens), "nearest")


def undistort_mask(
    mask: Bool[Tensor, "height width"] | None,
    size: tuple[int, int],
    intrinsics: Float[Tensor, "3 3"],
    lens: Float[Tensor, "5"],
) -> Bool[Tensor, "height width"]:
    """Compute the mask of the pixels to ignore in an undistorted image.

    Args:
        mask: Pixels to ignore in the original image, of shape (height, width). None ignores nothing.
        size: Height and width of the image.
        intrinsics: Intrinsics of shape (3, 3) in its pixels.
        lens: Coefficients k1, k2, p1, p2, k3.

    Returns:
        Mask of shape (height, width) of the pixels that `mask` marks or that the original does not show.
    """
    source_pixels = _source_pixels(size, intrinsics, lens)
    outside = ~_is_inside(source_pixels, size)
    return outside if mask is None else outside | (_sample(mask[None].float(), source_pixels, "nearest")[0] > 0.5)


def undistort_long_clip(clip: LongClip, distortion: Float[Tensor, "time 5"]) -> LongClip:
    """Remove lens distortion from a long clip as `undistort` does, from each image and mask when it is read.

    Args:
        clip: The long clip. Its priors must hold the intrinsics of all frames.
        distortion: Coefficients k1, k2, p1, p2, k3 of each frame, of shape (time, 5).

    Returns:
        The undistorted long clip.

    Raises:
        UserError: If the intrinsics are not known for every frame.
    """
    priors = _check_intrinsics(clip.priors)

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for position, image in zip(positions, clip.images(positions), strict=True):
            yield undistort_image(image, priors.intrinsics[position], distortion[position])

    def ignore(positions: Sequence[int]) -> Iterator[Tensor]:
        masks = (None for _ in positions) if clip.ignore is None else clip.ignore(positions)
        for position, mask in zip(positions, masks, strict=True):
            yield undistort_mask(mask, clip.size, priors.intrinsics[position], distortion[position])

    return replace(clip, images=images, ignore=ignore)


def _check_intrinsics(priors: Priors | None) -> Priors:
    if priors is None or not priors.intrinsics.isfinite().all():
        raise UserError("removing lens distortion needs known intrinsics, and they are not known for every frame")
    return priors


def _source_pixels(
    size: tuple[int, int], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> Float[Tensor, "height width 2"]:
    """The position in the original image of each pixel of the undistorted image."""
    return _distorted(pixel_grid(*size, dtype=torch.float64), intrinsics, lens)


def _distorted(
    pixels: Float[Tensor, "*shape 2"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> Float[Tensor, "*shape 2"]:
    """Distort pixels of a pinhole camera."""
    from kornia.geometry.calibration import distort_points

    # The result does not depend on kornia's convention for pixel centers, because both sides use the same one.
    points = distort_points(pixels.reshape(1, -1, 2), intrinsics[None].to(pixels), lens[None].to(pixels))
    return points.reshape(pixels.shape)


def _undistorted_depths(priors: Priors, distortion: Tensor) -> Float[Tensor, "time height width"] | None:
    """Move every known depth to the pixel of its undistorted point; the nearest one counts if several meet."""
    if priors.depths is None:
        return None
    from kornia.geometry.calibration import undistort_points

    height, width = priors.depths.shape[-2:]
    moved = torch.full_like(priors.depths, torch.inf)
    for depths, into, intrinsics, lens in zip(priors.depths, moved, priors.intrinsics, distortion, strict=True):
        is_known = depths.isfinite()
        pixels = pixel_grid(height, width, dtype=torch.float64)[is_known][None]
        parameters = intrinsics[None].to(pixels), lens[None].to(pixels)
        straight = undistort_points(pixels, *parameters, num_iters=ITERATIONS)[0]
        # The iteration may not converge in the corners of strong lenses: keep points that distort back to their pixel.
        is_found = (_distorted(straight, intrinsics, lens) - pixels[0]).norm(dim=-1) < MAX_INVERSION_ERROR
        kept = is_found & _is_inside(straight, (height, width))
        column, row = straight[kept].floor().long().unbind(-1)
        into.view(-1).scatter_reduce_(0, row * width + column, depths[is_known][kept], "amin")
    return torch.where(moved.isfinite(), moved, torch.nan)


def _is_inside(pixels: Float[Tensor, "*shape 2"], size: tuple[int, int]) -> Bool[Tensor, "*shape"]:
    return ((pixels >= 0) & (pixels < pixels.new_tensor([size[1], size[0]]))).all(dim=-1)


def _sample(
    maps: Float[Tensor, "channels height width"], pixels: Float[Tensor, "new_height new_width 2"], mode: str
) -> Float[Tensor, "channels new_height new_width"]:
    """Sample maps at `pixels`: 0 outside of the image, border values beyond the centers of the border pixels."""
    height, width = maps.shape[-2:]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    values = F.grid_sample(maps[None], grid[None].to(maps), mode, "border", align_corners=False)[0]
    return values * _is_inside(pixels, (height, width))
