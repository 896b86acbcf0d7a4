"""Semantic consistency: a patch means the same where it is seen in another frame, whatever the light does.

||f(I_t(p)) - f(I_t'(w(p)))|| with f the features of a frozen network such as DINO, once for every patch. Only the
warp learns: features carry no gradient, so they cannot be made equal. Raw features match coarsely, and are good for a
weight of 0.1 or less beside other losses.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term
from recon4d.losses.warping import Warp, sample

MAX_SELF_SIMILARITY = 0.95
"""Mean cosine to the patches beside it from which a patch says nothing about where it is (sky, bare walls)."""


def semantic_term(
    source_features: Float[Tensor, "*batch channels rows columns"],
    target_features: Float[Tensor, "*batch channels rows columns"],
    warp: Warp,
    seen: Bool[Tensor, "*batch height width"],
    max_self_similarity: float = MAX_SELF_SIMILARITY,
) -> Term:
    """1 - cos between features of the source's patches and of where `warp` finds them in the target.

    Features cover the whole picture, `height` x `width` pixels. For each patch one pixel speaks, the one at (or just
    below and right of) its center; it counts where it is `seen` and its patch is not like the patches beside it.
    """
    rows, columns = source_features.shape[-2:]
    size = (seen.shape[-2], seen.shape[-1])
    at_y, at_x = (_centers(patches, side, seen.device) for patches, side in zip((rows, columns), size, strict=True))

    def chosen(maps: Tensor, row_axis: int) -> Tensor:
        return maps.index_select(row_axis, at_y).index_select(row_axis + 1, at_x)

    y, x = torch.meshgrid(at_y + 0.5, at_x + 0.5, indexing="ij")
    counts = chosen(seen, -2) & has_texture(source_features, max_self_similarity)
    here = torch.stack([x, y], dim=-1).to(warp.pixels.dtype).expand(*seen.shape[:-2], rows, columns, 2)
    # Where the warp means nothing the source's own place stands in, so that nothing is sampled with NaN.
    there = torch.where(counts[..., None], chosen(warp.pixels, -3), here)
    source = sample(_frozen(source_features, here), here, size)
    target = sample(_frozen(target_features, there), there, size)
    distance = 1 - (_unit(source) * _unit(target)).sum(dim=-3)
    return masked_term(distance, counts)


def has_texture(
    features: Float[Tensor, "*batch channels rows columns"], max_self_similarity: float = MAX_SELF_SIMILARITY
) -> Bool[Tensor, "*batch rows columns"]:
    """Patches whose mean cosine to the patches above, below, left and right (as many as there are) is not above."""
    unit = _unit(features.detach())
    down = (unit[..., 1:, :] * unit[..., :-1, :]).sum(dim=-3)
    right = (unit[..., :, 1:] * unit[..., :, :-1]).sum(dim=-3)
    similarity = _both_sides(down, (0, 0, 1, 1)) + _both_sides(right, (1, 1, 0, 0))
    neighbors = _both_sides(torch.ones_like(down), (0, 0, 1, 1)) + _both_sides(torch.ones_like(right), (1, 1, 0, 0))
    return similarity <= max_self_similarity * neighbors


def _both_sides(between: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """For each patch the sum of what stands between it and the patches on both sides of it."""
    padded = F.pad(between, padding)
    left, right, top, bottom = padding
    rows, columns = padded.shape[-2:]
    first = padded[..., : rows - top, : columns - left]
    return first + padded[..., bottom:, right:]


def _centers(patches: int, side: int, device: torch.device) -> Tensor:
    """The position of the pixel at the center of each of `patches` patches along `side` pixels."""
    return ((2 * torch.arange(patches, device=device) + 1) * side) // (2 * patches)


def _frozen(features: Tensor, like: Tensor) -> Tensor:
    """Unit features without a gradient, in the precision of the geometry (a network may answer in a half type)."""
    return _unit(features.detach().to(like.dtype))


def _unit(features: Tensor) -> Tensor:
    """Features of length 1 along channels; zero ones stay zero, and without a gradient that is not finite."""
    return F.normalize(features, dim=-3, eps=1e-6)
