"""Affine-invariant losses of point maps, for whole images and for local patches (MoGe, Wang et al. 2024).

A single view does not determine scale and distance, so predicted points are aligned before they are compared. Whole
images are aligned by a scale and a shift along z. Patches, which are balls in space around random pixels, are aligned
by a scale and a 3D shift each, so that the shape of small and distant objects counts as much as that of large ones.

The alignment minimizes the truncated L1 distance sum_i sum_axes min(w_i |s x_i + t - y_i|, 1). The starting value is
the best of several hypotheses: each maps one pivot point exactly and takes the weighted median of the scale.
Iteratively reweighted least squares refines it. No gradient flows through the alignment.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, fill_unknown, masked_term

PATCH_LEVELS = (4, 16, 64)
"""The radius of a patch is half the image diagonal divided by this. From MoGe."""

PATCHES_PER_LEVEL = 16
"""Number of patches per image and level. Hand-tuned."""
MIN_POINTS = 32
"""Smallest number of points of a patch or image; those with fewer are left out. Hand-tuned."""

MAX_GRID_SIDE = 32
"""Largest number of rows and of columns of the points that align a whole image."""

MAX_PATCH_SIDE = 16
"""Largest number of rows and of columns of the points of a patch."""

MAX_PIVOTS = 16
"""Largest number of pivots; each costs a sort of all points, and more improve the alignment little. Hand-tuned."""

REFINEMENTS = 10
"""Number of steps of reweighted least squares. Hand-tuned."""
MAX_WEIGHT = 10.0
"""Upper bound of a point's weight 1 / z, relative to the median weight of the image. Hand-tuned."""

MIN_EXTENT = 1e-4
"""Points with an extent below this fraction of their distance to the origin have no scale. Hand-tuned."""

ALONG_Z = (0.0, 0.0, 1.0)
"""Free axes of a shift along z only."""
ALONG_ALL = (1.0, 1.0, 1.0)
"""Free axes of a shift in 3D."""


def affine_invariant_point_term(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> Term:
    """Compute ||s x + t - x*||_1 / z* with one scale s and one shift t along z per image.

    Weights 1 / z* are clamped to 10 times their median over the image. The alignment uses a grid of at most 32x32
    points.

    Args:
        predicted: Predicted points in the frame of their own camera, in any unit.
        true: True points in the frame of their own camera.
        valid: Mask of the pixels to compare; pixels with a true z of 0 or less are ignored as well.

    Returns:
        The term over all pixels; images with fewer than 32 valid points in the grid are left out.
    """
    estimated, truth, mask = _flattened(predicted, true, valid)
    weights = _inverse_depths(truth, mask)
    grid = _grid(valid.shape[-2], valid.shape[-1], valid.device)
    scale, shift = align_scale_and_shift(estimated[:, grid], truth[:, grid], weights[:, grid], ALONG_Z)
    aligned = scale[:, None, None] * estimated + shift[:, None]
    counts = mask & (mask[:, grid].sum(dim=-1, keepdim=True) >= MIN_POINTS)
    return masked_term(weights * (aligned - truth).abs().sum(dim=-1), counts)


def local_point_terms(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
    focal: Float[Tensor, "*batch"],
    generator: torch.Generator,
) -> tuple[Term, ...]:
    """Compute ||s x + t - x*||_1 / z* with a scale s and a 3D shift t for each of 16 random patches, at 3 levels.

    A patch of level l contains the valid points within d / (2 l) rows and columns of its center pixel, where d is the
    image diagonal, and within z* d / (2 l focal) of its center in space.

    Args:
        predicted: Predicted points in the frame of their own camera, in any unit.
        true: True points in the frame of their own camera.
        valid: Mask of the pixels to compare; pixels with a true z of 0 or less are ignored as well.
        focal: Focal length of each image, in pixels.
        generator: Source of the random centers.

    Returns:
        One term per level, over all points of its patches. Patches with fewer than 32 points are left out, so small
        images have a count of 0 at fine levels.
    """
    height, width = valid.shape[-2:]
    estimated, truth, mask = _flattened(predicted, true, valid)
    weights = _inverse_depths(truth, mask)
    terms = []
    for level in PATCH_LEVELS:
        radius = 0.5 * math.hypot(height, width) / level
        centers, exists = sample_patch_centers(mask, generator)
        pixels, inside = patch_pixels(centers, (height, width), radius)
        x, y, w, ok = (_gather(maps, pixels) for maps in (estimated, truth, weights, mask))
        center_points = _gather(truth, centers[..., None])
        reach = center_points[..., 2] * (radius / focal.reshape(-1, 1, 1))
        members = inside & ok & exists[..., None] & ((y - center_points).square().sum(dim=-1) <= reach.square())
        members = members & (members.sum(dim=-1, keepdim=True) >= MIN_POINTS)
        # Residuals are in units of the radius: errors larger than the patch are outliers.
        per_radius = members / torch.where(reach > 0, reach, torch.ones_like(reach))
        patches = (x.flatten(0, 1), y.flatten(0, 1), per_radius.to(y.dtype).flatten(0, 1))
        scale, shift = (fit.unflatten(0, centers.shape) for fit in align_scale_and_shift(*patches, ALONG_ALL))
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
    """Fit the scale s > 0 and the shift t that minimize the truncated weighted L1 distance, without gradient.

    Args:
        points: Points to align.
        true: Target points.
        weights: Weight of each point, not negative.
        axes: 1 for each axis along which the shift is free, 0 for each axis along which it is 0.

    Returns:
        Scale and shift. If all points coincide (as before training) or all weights are 0, the scale is 1 and the shift
        aligns the weighted means.
    """
    # Not new_tensor(axes): that copy would wait for the device.
    free = torch.stack([points.new_full((), axis) for axis in axes])
    means_fit, has_shape = _align_means(points, true, weights, free)
    pivots = _fit_from_pivots(points, true, weights, free)
    scale, shift = (torch.cat([first[:, None], rest], dim=1) for first, rest in zip(means_fit, pivots, strict=True))
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
    return torch.where(has_shape, scale, means_fit[0]), torch.where(has_shape[:, None], shift, means_fit[1])


def sample_patch_centers(
    valid: Bool[Tensor, "batch pixel"], generator: torch.Generator
) -> tuple[Tensor, Bool[Tensor, "batch center"]]:
    """Draw up to 16 different valid pixels of each image as centers of patches.

    Args:
        valid: Mask of the pixels to draw from.
        generator: Source of random numbers.

    Returns:
        Pixel indices (batch, center), and whether each of them is valid: images with fewer valid pixels have fewer
        centers.
    """
    keys = torch.rand(valid.shape, generator=generator, device=generator.device).to(valid.device)
    keys, centers = torch.where(valid, keys, -1.0).topk(min(PATCHES_PER_LEVEL, valid.shape[-1]), dim=-1)
    return centers, keys >= 0


def patch_pixels(centers: Tensor, size: tuple[int, int], radius: float) -> tuple[Tensor, Tensor]:
    """List the pixels of a square grid around each patch center.

    The grid contains all pixels within `radius` rows and columns, or 16 evenly spaced ones per axis if there are more.

    Args:
        centers: Indices of the center pixels (batch, center).
        size: Height and width of the image in pixels.
        radius: Half the side of a patch in pixels.

    Returns:
        Pixel indices (batch, center, n), clamped to the image, and whether each pixel is inside the image.
    """
    whole = int(radius)
    side = min(2 * whole + 1, MAX_PATCH_SIDE)
    offset = torch.linspace(-whole, whole, side, device=centers.device).round().long()
    down, right = torch.cartesian_prod(offset, offset).unbind(-1)
    rows, columns = centers[..., None] // size[1] + down, centers[..., None] % size[1] + right
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return rows.clamp(0, size[0] - 1) * size[1] + columns.clamp(0, size[1] - 1), inside


def _align_means(points: Tensor, true: Tensor, weights: Tensor, free: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Fit the scale that equalizes the mean absolute deviations and the shift that aligns the means.

    Also returns which inputs have a measurable scale. This fit is not robust, but it always exists and is never
    mirrored.
    """
    share = (weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30))[..., None]
    mean_x, mean_y = ((share * values).sum(dim=1) for values in (points, true))
    extent_x = (share * (points - free * mean_x[:, None]).abs()).sum(dim=(1, 2))
    extent_y = (share * (true - free * mean_y[:, None]).abs()).sum(dim=(1, 2))
    has_shape = (extent_x > MIN_EXTENT * mean_x.abs().sum(dim=-1)) & (extent_y > 0)
    scale = torch.where(has_shape, extent_y, 1.0) / torch.where(has_shape, extent_x, 1.0)
    return (scale, free * (mean_y - scale[:, None] * mean_x)), has_shape


def _fit_from_pivots(points: Tensor, true: Tensor, weights: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a scale (batch, pivot) and a shift (batch, pivot, 3) from each of several pivot points.

    The pivot is mapped exactly along the free axes. The weighted median of the ratios of the remaining offsets is then
    the scale of least L1 distance.
    """
    pivots = _pivots(weights)[..., None]
    pivot_x, pivot_y = torch.take_along_dim(points, pivots, dim=1), torch.take_along_dim(true, pivots, dim=1)
    left_x, left_y = points[:, None] - free * pivot_x[:, :, None], true[:, None] - free * pivot_y[:, :, None]
    per_axis = weights.repeat_interleave(3, dim=-1)[:, None]
    scale = _median_ratio(left_y.flatten(2), left_x.flatten(2), per_axis)
    return scale, free * (pivot_y - scale[..., None] * pivot_x)


def _pivots(weights: Tensor) -> Tensor:
    """Select points (batch, pivot) at even steps of the cumulative weight, so that none has weight 0."""
    total = weights.cumsum(dim=-1)
    count = min(MAX_PIVOTS, weights.shape[-1])
    quantiles = (torch.arange(count, device=weights.device, dtype=weights.dtype) + 0.5) / count
    return torch.searchsorted(total, quantiles * total[:, -1:]).clamp(max=weights.shape[-1] - 1)


def _median_ratio(y: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Find the s that minimizes sum_i w_i |s x_i - y_i|: the median of y / x weighted by w |x|; 0 if all x are 0."""
    mass = weights * x.abs()
    ratio = torch.where(mass > 0, y / torch.where(mass > 0, x, torch.ones_like(x)), torch.zeros_like(y))
    ordered, order = ratio.sort(dim=-1)
    total = mass.gather(-1, order).cumsum(dim=-1)
    middle = (total < 0.5 * total[..., -1:]).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, middle.clamp(max=ratio.shape[-1] - 1))[..., 0]


def _reweighted(
    points: Tensor, true: Tensor, weights: Tensor, free: Tensor, fit: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Take one step of reweighted least squares: coordinates weigh w / |r|, and 0 beyond the truncation."""
    residual = weights[..., None] * (fit[0][:, None, None] * points + fit[1][:, None] - true).abs()
    coordinate_weights = torch.where(
        residual < 1, weights[..., None].square() / residual.clamp(min=1e-6), torch.zeros_like(residual)
    )
    total = coordinate_weights.sum(dim=1)
    share = coordinate_weights / torch.where(total > 0, total, torch.ones_like(total))[:, None]
    mean_x, mean_y = free * (share * points).sum(dim=1), free * (share * true).sum(dim=1)
    x, y = points - mean_x[:, None], true - mean_y[:, None]
    square = (coordinate_weights * x.square()).sum(dim=(1, 2))
    scale = (coordinate_weights * x * y).sum(dim=(1, 2)) / torch.where(square > 0, square, torch.ones_like(square))
    return scale, free * (mean_y - scale[:, None] * mean_x)


def _cost(points: Tensor, true: Tensor, weights: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute the truncated weighted L1 distance; infinite for scales of 0 or less, which would mirror the scene."""
    residual = (scale[..., None, None] * points + shift[..., None, :] - true).abs()
    cost = (weights[..., None] * residual).clamp(max=1).sum(dim=(-1, -2))
    return torch.where(scale > 0, cost, torch.full_like(cost, torch.inf))


def _flattened(predicted: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both point maps (image, pixel, 3), 0 at invalid pixels, and the mask of valid pixels (image, pixel)."""
    predicted, true, mask = predicted.flatten(-3, -2), true.flatten(-3, -2), valid.flatten(-2)
    mask = mask & (true[..., 2] > 0)
    estimated, truth = (fill_unknown(points, mask[..., None].expand_as(points), 0.0) for points in (predicted, true))
    pixels = mask.shape[-1]
    return estimated.reshape(-1, pixels, 3), truth.reshape(-1, pixels, 3), mask.reshape(-1, pixels)


def _inverse_depths(true: Tensor, mask: Tensor) -> Tensor:
    """Compute 1 / z*, at most 10 times its median over the valid pixels of the image; 0 at invalid pixels."""
    inverse = mask / torch.where(mask, true[..., 2], torch.ones_like(true[..., 2]))
    # In descending order, invalid pixels come last.
    middle = (mask.sum(dim=-1, keepdim=True) // 2).clamp(max=mask.shape[-1] - 1)
    median = inverse.sort(dim=-1, descending=True).values.gather(-1, middle)
    return torch.minimum(inverse, MAX_WEIGHT * median)


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Return the indices of evenly spaced pixels in at most 32 rows and columns."""
    rows, columns = (
        torch.linspace(0, side - 1, min(side, MAX_GRID_SIDE), device=device).round().long() for side in (height, width)
    )
    return (rows[:, None] * width + columns).flatten()


def _gather(maps: Tensor, pixels: Tensor) -> Tensor:
    """Look up values (image, center, n) or (image, center, n, 3) of maps (image, pixel, ...) at pixel indices."""
    images = torch.arange(maps.shape[0], device=maps.device)[:, None, None]
    return maps[images, pixels]
