"""Lens distortion taken out of a clip, and out of what is known at its pixels; a door to kornia."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.geometry import pixel_grid
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Priors

ITERATIONS = 50
"""Of the fixed point that undistorts single pixels; each gains a digit or so."""


def undistorted(clip: Clip, distortion: Float[Tensor, "time 5"]) -> Clip:
    """The clip as a pinhole with the same known intrinsics would have recorded it.

    `distortion` is k1, k2, p1, p2, k3 (Brown 1966; OpenCV's order and sign) of each frame; `clip.known` must hold all
    intrinsics. Pictures keep their size and are interpolated; masks and depth follow by whole pixels. What no pixel of
    the original was seen at is black and to be ignored. Raises ``ValueError`` without intrinsics.
    """
    known = clip.priors
    if known is None or not known.intrinsics.isfinite().all():
        raise ValueError("lens distortion is about known intrinsics, and they are not known for every frame")
    masks = [None] * clip.num_frames if known.ignore is None else known.ignore
    images = [
        undistorted_image(image, intrinsics, lens)
        for image, intrinsics, lens in zip(clip.images, known.intrinsics, distortion, strict=True)
    ]
    ignore = [
        undistorted_mask(mask, clip.size, intrinsics, lens)
        for mask, intrinsics, lens in zip(masks, known.intrinsics, distortion, strict=True)
    ]
    known = replace(known, ignore=torch.stack(ignore), depths=_undistorted_depths(known, distortion))
    return replace(clip, images=torch.stack(images), priors=known)


def undistorted_image(
    image: UInt8[Tensor, "3 height width"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> UInt8[Tensor, "3 height width"]:
    """One frame as a pinhole would have recorded it, by its lens k1, k2, p1, p2, k3; black where nothing was seen."""
    height, width = image.shape[-2:]
    looked_up = _read(image.float(), _seen_at((height, width), intrinsics, lens), "bilinear")
    return looked_up.round().clamp(0, 255).to(torch.uint8)


def undistorted_mask(
    mask: Bool[Tensor, "height width"] | None,
    size: tuple[int, int],
    intrinsics: Float[Tensor, "3 3"],
    lens: Float[Tensor, "5"],
) -> Bool[Tensor, "height width"]:
    """What is to be ignored of an undistorted frame of `size`: what `mask` says, and what the lens did not see."""
    seen_at = _seen_at(size, intrinsics, lens)
    outside = ~_inside(seen_at, size)
    return outside if mask is None else outside | (_read(mask[None].float(), seen_at, "nearest")[0] > 0.5)


def undistorted_long(clip: LongClip, distortion: Float[Tensor, "time 5"]) -> LongClip:
    """The same for a long clip whose intrinsics are known: each frame and mask as it is read (see `undistorted`)."""
    known = clip.priors
    if known is None or not known.intrinsics.isfinite().all():
        raise ValueError("lens distortion is about known intrinsics, and they are not known for every frame")

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for position, image in zip(positions, clip.images(positions), strict=True):
            yield undistorted_image(image, known.intrinsics[position], distortion[position])

    def ignore(positions: Sequence[int]) -> Iterator[Tensor]:
        masks = (None for _ in positions) if clip.ignore is None else clip.ignore(positions)
        for position, mask in zip(positions, masks, strict=True):
            yield undistorted_mask(mask, clip.size, known.intrinsics[position], distortion[position])

    return replace(clip, images=images, ignore=ignore)


def _seen_at(
    size: tuple[int, int], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> Float[Tensor, "height width 2"]:
    """For each pixel of the undistorted frame where in the original it was seen."""
    return _distorted(pixel_grid(*size, dtype=torch.float64), intrinsics, lens)


def _distorted(
    pixels: Float[Tensor, "*shape 2"], intrinsics: Float[Tensor, "3 3"], lens: Float[Tensor, "5"]
) -> Float[Tensor, "*shape 2"]:
    """Where the lens puts what a pinhole sees at `pixels`."""
    from kornia.geometry.calibration import distort_points

    # With the first pixel's center at .5 on both sides, kornia's convention of it does not matter.
    points = distort_points(pixels.reshape(1, -1, 2), intrinsics[None].to(pixels), lens[None].to(pixels))
    return points.reshape(pixels.shape)


def _undistorted_depths(known: Priors, distortion: Tensor) -> Float[Tensor, "time height width"] | None:
    """Every known depth at the pixel where the pinhole sees its point; the nearest where several meet."""
    if known.depths is None:
        return None
    from kornia.geometry.calibration import undistort_points

    height, width = known.depths.shape[-2:]
    moved = torch.full_like(known.depths, torch.inf)
    for depths, into, intrinsics, lens in zip(known.depths, moved, known.intrinsics, distortion, strict=True):
        is_known = depths.isfinite()
        pixels = pixel_grid(height, width, dtype=torch.float64)[is_known][None]
        parameters = intrinsics[None].to(pixels), lens[None].to(pixels)
        straight = undistort_points(pixels, *parameters, num_iters=ITERATIONS)[0]
        # The fixed point does not converge in the corners of strong lenses: only what is distorted back counts.
        is_found = (_distorted(straight, intrinsics, lens) - pixels[0]).norm(dim=-1) < 0.1
        kept = is_found & _inside(straight, (height, width))
        column, row = straight[kept].floor().long().unbind(-1)
        into.view(-1).scatter_reduce_(0, row * width + column, depths[is_known][kept], "amin")
    return torch.where(moved.isfinite(), moved, torch.nan)


def _inside(pixels: Float[Tensor, "*shape 2"], size: tuple[int, int]) -> Bool[Tensor, "*shape"]:
    return ((pixels >= 0) & (pixels < pixels.new_tensor([size[1], size[0]]))).all(dim=-1)


def _read(
    maps: Float[Tensor, "channels height width"], pixels: Float[Tensor, "new_height new_width 2"], mode: str
) -> Float[Tensor, "channels new_height new_width"]:
    """Values at `pixels`, 0 outside; between the border's pixel centers and its edge those of the border."""
    height, width = maps.shape[-2:]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    values = F.grid_sample(maps[None], grid[None].to(maps), mode, "border", align_corners=False)[0]
    return values * _inside(pixels, (height, width))
