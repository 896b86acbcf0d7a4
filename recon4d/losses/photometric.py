"""Photometric consistency: a pixel looks the same where it is seen in another frame.

||I_t(p) - I_t'(w(p))||, mixed from colors (Charbonnier) and structure (SSIM), over pixels that are seen in both. It
needs no truth, so it serves unlabeled clips and the adaptation to one clip.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term
from recon4d.losses.warping import Warp, sample

STRUCTURE_SHARE = 0.85
"""Weight of the SSIM part, the rest is color (Godard et al. 2017, eq. 2)."""

CHARBONNIER_WIDTH = 1e-3
"""Differences of color (0 to 1) below this count quadratically; a quarter of one step of eight bits."""

SSIM_WINDOW = 3
LUMINANCE_FLOOR = 0.01**2
CONTRAST_FLOOR = 0.03**2
"""C1 and C2 for colors from 0 to 1 (Wang et al. 2004)."""


def photometric_term(
    source_image: Float[Tensor, "*batch channels height width"],
    target_image: Float[Tensor, "*batch channels height width"],
    warp: Warp,
    seen: Bool[Tensor, "*batch height width"],
) -> Term:
    """How different the pixels of the source look where `warp` finds them in the target, over those that are `seen`.

    Images are RGB from 0 to 1, of the size of the scene's maps. 0 for equal pictures and a warp that stays
    where it is.
    """
    errors = warped_photometric_errors(source_image, target_image, warp, seen)
    return masked_term(errors, seen)


def best_neighbor_photometric_term(
    source_image: Float[Tensor, "*batch channels height width"],
    target_images: tuple[Float[Tensor, "*batch channels height width"], ...],
    warps: tuple[Warp, ...],
    seen: tuple[Bool[Tensor, "*batch height width"], ...],
) -> Term:
    """For each pixel the smallest error among the targets in which it is seen (Godard et al. 2019, eq. 4).

    Forgives what the occlusion test missed in one target if another shows the pixel. Pixels seen nowhere are out.
    """
    per_target = [
        warped_photometric_errors(source_image, *target) for target in zip(target_images, warps, seen, strict=True)
    ]
    errors, shown = torch.stack(per_target), torch.stack(seen)
    # No error exceeds 2, so what is not seen is never the smallest.
    best = torch.where(shown, errors, torch.full_like(errors, 2.0)).amin(dim=0)
    return masked_term(best, shown.any(dim=0))


def warped_photometric_errors(
    source_image: Float[Tensor, "*batch channels height width"],
    target_image: Float[Tensor, "*batch channels height width"],
    warp: Warp,
    seen: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """`photometric_errors` between the source and the target as `warp` samples it."""
    size = (target_image.shape[-2], target_image.shape[-1])
    return photometric_errors(source_image, sample(target_image, warp.pixels, size), seen)


def photometric_errors(
    image: Float[Tensor, "*batch channels height width"],
    other: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """0.85 (1 - SSIM) / 2 + 0.15 sqrt(d^2 + e^2) - e, each the mean over channels; 0 where invalid.

    SSIM compares windows of 3x3 pixels, of which only the valid ones count.
    """
    inside = valid[..., None, :, :]
    image, other = (torch.where(inside, picture, torch.zeros_like(picture)) for picture in (image, other))
    structure = (1 - structural_similarity(image, other, valid)) / 2
    width = CHARBONNIER_WIDTH
    color = ((image - other).square() + width**2).sqrt() - width
    mixed = (STRUCTURE_SHARE * structure + (1 - STRUCTURE_SHARE) * color).mean(dim=-3)
    return torch.where(valid, mixed, torch.zeros_like(mixed))


def structural_similarity(
    image: Float[Tensor, "*batch channels height width"],
    other: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch channels height width"]:
    """SSIM of the windows about each pixel (Wang et al. 2004, eq. 13), from means over their valid pixels.

    Both pictures are finite everywhere. A window without valid pixels answers 1.
    """
    mask = valid[..., None, :, :].to(image.dtype)
    share = _window_mean(mask).clamp(min=0.5 / SSIM_WINDOW**2)

    def mean(values: Tensor) -> Tensor:
        return _window_mean(mask * values) / share

    mean_a, mean_b = mean(image), mean(other)
    variance_a, variance_b = mean(image.square()) - mean_a.square(), mean(other.square()) - mean_b.square()
    covariance = mean(image * other) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE_FLOOR) / (mean_a.square() + mean_b.square() + LUMINANCE_FLOOR)
    contrast = (2 * covariance + CONTRAST_FLOOR) / (variance_a + variance_b + CONTRAST_FLOOR)
    return luminance * contrast


def _window_mean(maps: Tensor) -> Tensor:
    """Mean over the window about each pixel, zeros beyond the border included."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.avg_pool2d(flat, SSIM_WINDOW, stride=1, padding=SSIM_WINDOW // 2).reshape(maps.shape)
