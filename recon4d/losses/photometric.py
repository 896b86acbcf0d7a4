"""Photometric consistency: a pixel looks the same in every frame in which it is in view.

The error ||I_t(p) - I_t'(w(p))|| combines colors (Charbonnier) and structure (SSIM) over the pixels that are visible
in both frames. It needs no ground truth, so it serves unlabeled clips and test-time adaptation.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term
from recon4d.losses.warping import Warp, sample_bilinear

SSIM_WEIGHT = 0.85
"""Weight of SSIM; colors weigh the rest (Godard et al. 2017, eq. 2)."""

CHARBONNIER_EPSILON = 1e-3
"""Color differences (0 to 1) below this are penalized quadratically; a quarter of one 8-bit step. Hand-tuned."""

SSIM_WINDOW = 3
"""Side of the SSIM window in pixels (Godard et al. 2017)."""
SSIM_C1 = 0.01**2
"""C1 of SSIM for colors from 0 to 1 (Wang et al. 2004)."""
SSIM_C2 = 0.03**2
"""C2 of SSIM for colors from 0 to 1 (Wang et al. 2004)."""


def photometric_term(
    source_image: Float[Tensor, "*batch channels height width"],
    target_image: Float[Tensor, "*batch channels height width"],
    warp: Warp,
    valid: Bool[Tensor, "*batch height width"],
) -> Term:
    """Compare the source image with the target image warped into it.

    Args:
        source_image: Image with values from 0 to 1, of the size of the scene's maps.
        target_image: Target image of the same size.
        warp: Position of every source pixel in the target frame.
        valid: Mask of the source pixels that are visible in the target frame.

    Returns:
        The term over the valid pixels; 0 for identical images and an identity warp.
    """
    errors = warped_photometric_errors(source_image, target_image, warp, valid)
    return masked_term(errors, valid)


def best_neighbor_photometric_term(
    source_image: Float[Tensor, "*batch channels height width"],
    target_images: tuple[Float[Tensor, "*batch channels height width"], ...],
    warps: tuple[Warp, ...],
    valid: tuple[Bool[Tensor, "*batch height width"], ...],
) -> Term:
    """Compute the smallest photometric error of each pixel over several targets (Godard et al. 2019, eq. 4).

    The minimum tolerates pixels that are occluded in one target but pass its occlusion test.

    Args:
        source_image: Image with values from 0 to 1, of the size of the scene's maps.
        target_images: One or more target images of the same size.
        warps: Position of every source pixel in each target frame.
        valid: Masks of the source pixels that are visible in each target frame.

    Returns:
        The term over the pixels that are valid in at least one target.
    """
    per_target = [
        warped_photometric_errors(source_image, *target) for target in zip(target_images, warps, valid, strict=True)
    ]
    errors, masks = torch.stack(per_target), torch.stack(valid)
    # Errors never exceed 2, so invalid targets are never the minimum.
    best = torch.where(masks, errors, torch.full_like(errors, 2.0)).amin(dim=0)
    return masked_term(best, masks.any(dim=0))


def warped_photometric_errors(
    source_image: Float[Tensor, "*batch channels height width"],
    target_image: Float[Tensor, "*batch channels height width"],
    warp: Warp,
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """Compute `photometric_errors` between the source image and the warped target image.

    Args:
        source_image: Image with values from 0 to 1.
        target_image: Target image of the same size.
        warp: Position of every source pixel in the target frame.
        valid: Mask of the source pixels to compare.

    Returns:
        Errors, 0 at invalid pixels.
    """
    size = (target_image.shape[-2], target_image.shape[-1])
    return photometric_errors(source_image, sample_bilinear(target_image, warp.pixels, size), valid)


def photometric_errors(
    image: Float[Tensor, "*batch channels height width"],
    other: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """Compute 0.85 (1 - SSIM) / 2 + 0.15 (sqrt(d^2 + e^2) - e), averaged over channels.

    Args:
        image: Image with values from 0 to 1.
        other: Image of the same size.
        valid: Mask of the pixels to compare; only valid pixels of a window contribute to its SSIM.

    Returns:
        Errors, at most 2; 0 at invalid pixels.
    """
    inside = valid[..., None, :, :]
    image, other = (torch.where(inside, values, torch.zeros_like(values)) for values in (image, other))
    structure = (1 - structural_similarity(image, other, valid)) / 2
    width = CHARBONNIER_EPSILON
    color = ((image - other).square() + width**2).sqrt() - width
    mixed = (SSIM_WEIGHT * structure + (1 - SSIM_WEIGHT) * color).mean(dim=-3)
    return torch.where(valid, mixed, torch.zeros_like(mixed))


def structural_similarity(
    image: Float[Tensor, "*batch channels height width"],
    other: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch channels height width"]:
    """Compute SSIM of the 3x3 window around each pixel from its valid pixels (Wang et al. 2004, eq. 13).

    Args:
        image: Image with finite values from 0 to 1.
        other: Image of the same size, with finite values.
        valid: Mask of the pixels that contribute.

    Returns:
        SSIM of each pixel and channel; 1 for windows without valid pixels.
    """
    mask = valid[..., None, :, :].to(image.dtype)
    share = _window_mean(mask).clamp(min=0.5 / SSIM_WINDOW**2)

    def mean(values: Tensor) -> Tensor:
        return _window_mean(mask * values) / share

    mean_a, mean_b = mean(image), mean(other)
    variance_a, variance_b = mean(image.square()) - mean_a.square(), mean(other.square()) - mean_b.square()
    covariance = mean(image * other) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    contrast = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return luminance * contrast


def _window_mean(maps: Tensor) -> Tensor:
    """Average the window around each pixel; pixels outside of the image count as 0."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.avg_pool2d(flat, SSIM_WINDOW, stride=1, padding=SSIM_WINDOW // 2).reshape(maps.shape)
