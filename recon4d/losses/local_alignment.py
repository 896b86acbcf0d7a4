"""Point maps compared up to scale and shift, of the whole picture and of local patches (MoGe, Wang et al. 2024).

An affine-invariant loss forgives what one view cannot tell, the scale and the distance of things, and asks for shape.
Whole pictures are aligned by scale and shift along z; patches about random pixels, each a ball in space, by a scale
and shift of their own, so that the shape of a small and distant thing counts like that of the room.

The alignment is robust: it minimizes sum_i sum_axes min(w_i |s x_i + t - y_i|, 1), first among candidates that put
one point exactly and take the weighted median of scale from it, then by reweighted least squares. It is a constant of
the loss: no gradient flows through it.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term, replaced_where_unknown

PATCH_LEVELS = (4, 16, 64)
"""The radius of a patch is half the picture's diagonal over this."""

PATCHES_PER_LEVEL = 16
MIN_POINTS = 32
"""A patch or picture of fewer points has as good as no shape, and is left out."""

MAX_GRID_SIDE = 32
"""A whole picture is aligned on at most this many rows and columns of its points."""

MAX_PATCH_SIDE = 16
"""A patch is looked at in at most this many rows and columns of points."""

MAX_CANDIDATES = 16
"""More find little; each is a sort of the points."""

REFINEMENTS = 10
MAX_WEIGHT = 10.0
"""No point weighs more than this many times the median: points at the lens must not be all that counts."""

MIN_SPREAD = 1e-4
"""Points closer together than this share of their distance from the origin have no shape that could be scaled."""

ALONG_Z = (0.0, 0.0, 1.0)
ALONG_ALL = (1.0, 1.0, 1.0)


def affine_invariant_point_term(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> Term:
    """||s x + t - x*||_1 / z* with one scale and one shift along z for each picture.

    Points are in their own camera's frame, and count where valid and true z is above 0; the prediction may be in any
    unit. The weights 1 / z* are held to 10 times their median over the picture. The alignment looks at a grid of at
    most 32x32 points; pictures with fewer than 32 valid ones among them are left out.
    """
    answer, truth, seen = _flattened(predicted, true, valid)
    weights = _inverse_depths(truth, seen)
    few = _grid(valid.shape[-2], valid.shape[-1], valid.device)
    scale, shift = align_scale_and_shift(answer[:, few], truth[:, few], weights[:, few], ALONG_Z)
    aligned = scale[:, None, None] * answer + shift[:, None]
    counts = seen & (seen[:, few].sum(dim=-1, keepdim=True) >= MIN_POINTS)
    return masked_term(weights * (aligned - truth).abs().sum(dim=-1), counts)


def local_point_terms(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
    focal: Float[Tensor, "*batch"],
    generator: torch.Generator,
) -> tuple[Term, ...]:
    """||s x + t - x*||_1 / z* with a scale and a shift for each of 16 patches about random pixels, at 3 levels.

    A patch of level l holds valid points within d / (2 l) rows and columns of its anchor in the picture, d being the
    diagonal, and within z* d / (2 l focal) of it in space; `focal` is in pixels. Frames, units and weights are those
    of `affine_invariant_point_term`. A level whose patches cannot hold 32 pixels answers a term of nothing: small
    pictures have no fine level.
    """
    height, width = valid.shape[-2:]
    answer, truth, seen = _flattened(predicted, true, valid)
    weights = _inverse_depths(truth, seen)
    terms = []
    for level in PATCH_LEVELS:
        radius = 0.5 * math.hypot(height, width) / level
        anchors, exists = random_anchors(seen, generator)
        pixels, inside = patch_pixels(anchors, (height, width), radius)
        x, y, w, ok = (_gather(maps, pixels) for maps in (answer, truth, weights, seen))
        center = _gather(truth, anchors[..., None])
        reach = center[..., 2] * (radius / focal.reshape(-1, 1, 1))
        members = inside & ok & exists[..., None] & ((y - center).square().sum(dim=-1) <= reach.square())
        members = members & (members.sum(dim=-1, keepdim=True) >= MIN_POINTS)
        # Residuals count in radii: a point that is off by more than its patch is an outlier.
        per_radius = members / torch.where(reach > 0, reach, torch.ones_like(reach))
        patches = (x.flatten(0, 1), y.flatten(0, 1), per_radius.to(y.dtype).flatten(0, 1))
        scale, shift = (fit.unflatten(0, anchors.shape) for fit in align_scale_and_shift(*patches, ALONG_ALL))
        aligned = scale[..., None, None] * x + shift[..., None, :]
        terms.append(masked_term(w * (aligned - y).abs().sum(dim=-1), members))
    return tuple(terms)


@torch.no_grad()
def align_scale_and_shift(
    points: Float[Tensor, "batch n 3"],
    true: Float[Tensor, "batch n 3"],
    weights: Float[Tensor, "batch n"],
    axes: tuple[float, float, float],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch 3"]]:
    """The scale s > 0 and the shift t, along `axes` (1: free, 0: none), of the least truncated weighted L1 distance.

    No gradient. Where all points are at one place, as before training, or none has weight, s is 1 and t joins the
    weighted means.
    """
    # Not new_tensor(axes): that copy is waited for.
    free = torch.stack([points.new_full((), axis) for axis in axes])
    joined, has_shape = _joined_means(points, true, weights, free)
    pivots = _from_pivots(points, true, weights, free)
    scale, shift = (torch.cat([first[:, None], rest], dim=1) for first, rest in zip(joined, pivots, strict=True))
    cost = _cost(points[:, None], true[:, None], weights[:, None], scale, shift)
    best = cost.argmin(dim=-1, keepdim=True)
    scale, cost = scale.gather(1, best)[:, 0], cost.gather(1, best)[:, 0]
    shift = torch.take_along_dim(shift, best[..., None], dim=1)[:, 0]
    for _ in range(REFINEMENTS):
        new_scale, new_shift = _reweighted(points, true, weights, free, (scale, shift))
        new_cost = _cost(points, true, weights, new_scale, new_shift)
        better = new_cost < cost
        scale, cost = torch.where(better, new_scale, scale), torch.where(better, new_cost, cost)
        shift = torch.where(better[:, None], new_shift, shift)
    return torch.where(has_shape, scale, joined[0]), torch.where(has_shape[:, None], shift, joined[1])


def random_anchors(
    seen: Bool[Tensor, "batch pixel"], generator: torch.Generator
) -> tuple[Tensor, Bool[Tensor, "batch anchor"]]:
    """Positions (batch, anchor) of 16 different pixels drawn among the seen ones, and whether there was one."""
    keys = torch.rand(seen.shape, generator=generator, device=generator.device).to(seen.device)
    keys, anchors = torch.where(seen, keys, -1.0).topk(min(PATCHES_PER_LEVEL, seen.shape[-1]), dim=-1)
    return anchors, keys >= 0


def patch_pixels(anchors: Tensor, size: tuple[int, int], radius: float) -> tuple[Tensor, Tensor]:
    """Positions (batch, anchor, n) of the pixels of a square grid about each anchor, and which are in the picture.

    Every pixel within `radius` rows and columns where these are at most 16, else 16 spread evenly.
    """
    whole = int(radius)
    side = min(2 * whole + 1, MAX_PATCH_SIDE)
    offset = torch.linspace(-whole, whole, side, device=anchors.device).round().long()
    down, right = torch.cartesian_prod(offset, offset).unbind(-1)
    rows, columns = anchors[..., None] // size[1] + down, anchors[..., None] % size[1] + right
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return rows.clamp(0, size[0] - 1) * size[1] + columns.clamp(0, size[1] - 1), inside


def _joined_means(points: Tensor, true: Tensor, weights: Tensor, free: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The scale of equal spread and the shift that joins the means, and which points have a shape to be scaled.

    No robust answer, but always there and never mirrored.
    """
    share = (weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30))[..., None]
    mean_x, mean_y = ((share * values).sum(dim=1) for values in (points, true))
    spread_x = (share * (points - free * mean_x[:, None]).abs()).sum(dim=(1, 2))
    spread_y = (share * (true - free * mean_y[:, None]).abs()).sum(dim=(1, 2))
    has_shape = (spread_x > MIN_SPREAD * mean_x.abs().sum(dim=-1)) & (spread_y > 0)
    scale = torch.where(has_shape, spread_y, 1.0) / torch.where(has_shape, spread_x, 1.0)
    return (scale, free * (mean_y - scale[:, None] * mean_x)), has_shape


def _from_pivots(points: Tensor, true: Tensor, weights: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """A scale (batch, pivot) and a shift (batch, pivot, 3) from each of some points.

    A pivot is put exactly where it belongs along the free axes; given that, the weighted median of the ratios of what
    is left is the scale of least L1 distance.
    """
    pivots = _pivots(weights)[..., None]
    pivot_x, pivot_y = torch.take_along_dim(points, pivots, dim=1), torch.take_along_dim(true, pivots, dim=1)
    left_x, left_y = points[:, None] - free * pivot_x[:, :, None], true[:, None] - free * pivot_y[:, :, None]
    per_axis = weights.repeat_interleave(3, dim=-1)[:, None]
    scale = _median_ratio(left_y.flatten(2), left_x.flatten(2), per_axis)
    return scale, free * (pivot_y - scale[..., None] * pivot_x)


def _pivots(weights: Tensor) -> Tensor:
    """Positions (batch, candidate) of points evenly spread over the total weight, so that none has weight 0."""
    total = weights.cumsum(dim=-1)
    count = min(MAX_CANDIDATES, weights.shape[-1])
    at = (torch.arange(count, device=weights.device, dtype=weights.dtype) + 0.5) / count
    return torch.searchsorted(total, at * total[:, -1:]).clamp(max=weights.shape[-1] - 1)


def _median_ratio(y: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """The s of least sum_i w_i |s x_i - y_i|: the median of y / x, weighted by w |x|; 0 where no x differs from 0."""
    mass = weights * x.abs()
    ratio = torch.where(mass > 0, y / torch.where(mass > 0, x, torch.ones_like(x)), torch.zeros_like(y))
    ordered, order = ratio.sort(dim=-1)
    total = mass.gather(-1, order).cumsum(dim=-1)
    middle = (total < 0.5 * total[..., -1:]).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, middle.clamp(max=ratio.shape[-1] - 1))[..., 0]


def _reweighted(
    points: Tensor, true: Tensor, weights: Tensor, free: Tensor, fit: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """One step of reweighted least squares: each coordinate by w / |r|, those beyond the truncation not at all."""
    residual = weights[..., None] * (fit[0][:, None, None] * points + fit[1][:, None] - true).abs()
    pull = torch.where(residual < 1, weights[..., None].square() / residual.clamp(min=1e-6), torch.zeros_like(residual))
    total = pull.sum(dim=1)
    share = pull / torch.where(total > 0, total, torch.ones_like(total))[:, None]
    mean_x, mean_y = free * (share * points).sum(dim=1), free * (share * true).sum(dim=1)
    x, y = points - mean_x[:, None], true - mean_y[:, None]
    square = (pull * x.square()).sum(dim=(1, 2))
    scale = (pull * x * y).sum(dim=(1, 2)) / torch.where(square > 0, square, torch.ones_like(square))
    return scale, free * (mean_y - scale[:, None] * mean_x)


def _cost(points: Tensor, true: Tensor, weights: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The truncated weighted L1 distance; infinite for a scale that is not above 0, which would mirror the scene."""
    residual = (scale[..., None, None] * points + shift[..., None, :] - true).abs()
    cost = (weights[..., None] * residual).clamp(max=1).sum(dim=(-1, -2))
    return torch.where(scale > 0, cost, torch.full_like(cost, torch.inf))


def _flattened(predicted: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both point maps (picture, pixel, 3), 0 where they do not count, and where they do (picture, pixel)."""
    predicted, true, seen = predicted.flatten(-3, -2), true.flatten(-3, -2), valid.flatten(-2)
    seen = seen & (true[..., 2] > 0)
    answer, truth = (
        replaced_where_unknown(points, seen[..., None].expand_as(points), 0.0) for points in (predicted, true)
    )
    pixels = seen.shape[-1]
    return answer.reshape(-1, pixels, 3), truth.reshape(-1, pixels, 3), seen.reshape(-1, pixels)


def _inverse_depths(true: Tensor, seen: Tensor) -> Tensor:
    """1 / z*, at most 10 times its median over the seen pixels of the picture; 0 where not seen."""
    inverse = seen / torch.where(seen, true[..., 2], torch.ones_like(true[..., 2]))
    # In falling order, what is not seen comes last.
    middle = (seen.sum(dim=-1, keepdim=True) // 2).clamp(max=seen.shape[-1] - 1)
    median = inverse.sort(dim=-1, descending=True).values.gather(-1, middle)
    return torch.minimum(inverse, MAX_WEIGHT * median)


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Positions of at most 32 rows and columns of pixels, evenly spread."""
    rows, columns = (
        torch.linspace(0, side - 1, min(side, MAX_GRID_SIDE), device=device).round().long() for side in (height, width)
    )
    return (rows[:, None] * width + columns).flatten()


def _gather(maps: Tensor, pixels: Tensor) -> Tensor:
    """Values (picture, anchor, n) or (picture, anchor, n, 3) of maps (picture, pixel, ...) at positions."""
    pictures = torch.arange(maps.shape[0], device=maps.device)[:, None, None]
    return maps[pictures, pixels]
