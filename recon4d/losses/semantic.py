"""Semantic consistency: the features of a surface stay the same in other frames, even if the light changes.

The error compares f(I_t(p)) with f(I_t'(w(p))) once per patch token, where f are the features of a frozen network such
as DINO. Features carry no gradient, so only the warp is trained. These features localize coarsely: use a weight of 0.1
or less beside other losses.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term
from recon4d.losses.warping import Warp, sample_bilinear

MAX_SELF_SIMILARITY = 0.95
"""Patches with a mean cosine to their neighbors above this, such as sky, do not determine a position. Hand-tuned."""


def semantic_term(
    source_features: Float[Tensor, "*batch channels rows columns"],
    target_features: Float[Tensor, "*batch channels rows columns"],
    warp: Warp,
    valid: Bool[Tensor, "*batch height width"],
    max_self_similarity: float = MAX_SELF_SIMILARITY,
) -> Term:
    """Compute 1 - cos between source features and target features sampled where the warp maps the source patches.

    Each patch is represented by the pixel at, or just below and right of, its center. Patches without texture
    (`has_texture`) are left out.

    Args:
        source_features: Features of the source image, one per patch.
        target_features: Features of the target image.
        warp: Position of every source pixel in the target frame.
        valid: Mask of the source pixels that are visible in the target frame. Features cover the whole image of this
            size.
        max_self_similarity: Largest mean cosine between a patch and its neighbors; 1 keeps all patches.

    Returns:
        The term over the patches whose central pixel is valid.
    """
    rows, columns = source_features.shape[-2:]
    size = (valid.shape[-2], valid.shape[-1])
    center_y, center_x = (
        _center_pixels(count, length, valid.device) for count, length in zip((rows, columns), size, strict=True)
    )

    def select(maps: Tensor, row_axis: int) -> Tensor:
        return maps.index_select(row_axis, center_y).index_select(row_axis + 1, center_x)

    y, x = torch.meshgrid(center_y + 0.5, center_x + 0.5, indexing="ij")
    is_used = select(valid, -2) & has_texture(source_features, max_self_similarity)
    source_pixels = torch.stack([x, y], dim=-1).to(warp.pixels.dtype).expand(*valid.shape[:-2], rows, columns, 2)
    # Patches that are left out sample the source's own pixels, which are always finite.
    target_pixels = torch.where(is_used[..., None], select(warp.pixels, -3), source_pixels)
    source = sample_bilinear(_frozen(source_features, source_pixels), source_pixels, size)
    target = sample_bilinear(_frozen(target_features, target_pixels), target_pixels, size)
    distance = 1 - (_unit(source) * _unit(target)).sum(dim=-3)
    return masked_term(distance, is_used)


def has_texture(
    features: Float[Tensor, "*batch channels rows columns"], max_self_similarity: float = MAX_SELF_SIMILARITY
) -> Bool[Tensor, "*batch rows columns"]:
    """Find patches that differ from their neighbors.

    Args:
        features: Features, one per patch.
        max_self_similarity: Largest mean cosine to the neighbors above, below, left and right (fewer at the border).

    Returns:
        Mask of the patches whose mean cosine does not exceed the maximum.
    """
    unit = _unit(features.detach())
    down = (unit[..., 1:, :] * unit[..., :-1, :]).sum(dim=-3)
    right = (unit[..., :, 1:] * unit[..., :, :-1]).sum(dim=-3)
    similarity = _both_sides(down, (0, 0, 1, 1)) + _both_sides(right, (1, 1, 0, 0))
    neighbors = _both_sides(torch.ones_like(down), (0, 0, 1, 1)) + _both_sides(torch.ones_like(right), (1, 1, 0, 0))
    return similarity <= max_self_similarity * neighbors


def _both_sides(between: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """For each patch, sum values that belong to the edges to its two neighbors along an axis."""
    padded = F.pad(between, padding)
    left, right, top, bottom = padding
    rows, columns = padded.shape[-2:]
    first = padded[..., : rows - top, : columns - left]
    return first + padded[..., bottom:, right:]


def _center_pixels(count: int, length: int, device: torch.device) -> Tensor:
    """Return the index of the pixel at the center of each of `count` equal intervals of `length` pixels."""
    return ((2 * torch.arange(count, device=device) + 1) * length) // (2 * count)


def _frozen(features: Tensor, like: Tensor) -> Tensor:
    """Return unit features without gradient, in the data type of the geometry."""
    return _unit(features.detach().to(like.dtype))


def _unit(features: Tensor) -> Tensor:
    """Normalize features along channels; zero features stay 0 and have a finite gradient."""
    return F.normalize(features, dim=-3, eps=1e-6)
