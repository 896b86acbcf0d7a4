"""Flying pixels: pixels of smeared depth edges, which float between the near and the far surface.

Networks, resizing and the enlargement of maps turn a depth edge into a ramp of a few pixels. Every point cloud, mesh
and view of this package excludes the pixels of `flying_pixels`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import is_depth_edge

REACH = 3 / 512
"""Largest width of a ramp relative to the longer side of the map: 3 pixels at 512, 1 pixel up to 256. Chosen with
``python -m benchmarks.flying_pixels``: wider ramps cost more good pixels than they exclude flying ones."""
MIN_CONTRAST = 0.05
"""Smallest difference of the two surfaces of a ramp, relative to the nearer one. Hand-tuned."""
MIN_DISTANCE = 0.02
"""Smallest distance of a flying pixel from both surfaces, relative to its depth. Hand-tuned."""
MIN_STEEPNESS = 2.0
"""Smallest slope of inverse depth in a ramp, relative to that beside it. The inverse depth of a plane is linear in
pixels, so that its slope is the same inside and outside, however oblique the plane is. Hand-tuned."""


def flying_pixels(
    depths: Float[Tensor, "time height width"], is_known: Bool[Tensor, "time height width"]
) -> Bool[Tensor, "time height width"]:
    """Find the pixels of smeared depth edges.

    A pixel is flying if it is on either side of a depth difference of more than 5 % between direct neighbors
    (`is_depth_edge`), or if it lies on a ramp of up to `REACH` between two surfaces and is close to neither of them.

    Args:
        depths: Depth maps (z), in any unit. Values of unknown pixels are ignored.
        is_known: Pixels of known depth, which is finite and above 0.

    Returns:
        Mask of the flying pixels; False for unknown pixels.
    """
    reach = max(1, round(REACH * max(depths.shape[-2:])))
    is_edge = is_depth_edge(depths, is_known)
    if reach == 1:
        return is_edge  # a ramp of one pixel is a difference of direct neighbors
    known_depths = torch.where(is_known, depths, torch.ones_like(depths))
    is_ramp = _on_ramp(known_depths, is_known, reach, -2) | _on_ramp(known_depths, is_known, reach, -1)
    return is_edge | (is_ramp & ~_near_extremes(known_depths, is_known, reach))


def _on_ramp(depths: Tensor, is_known: Tensor, reach: int, axis: int) -> Bool[Tensor, "time height width"]:
    """Find the pixels between two pixels `reach` apart that differ in depth by more than a plane does."""
    length = depths.shape[axis] - reach
    is_ramp = torch.zeros_like(is_known)
    if length <= 0:
        return is_ramp
    first, last = (1 / depths.narrow(axis, start, length) for start in (0, reach))
    both_known = is_known.narrow(axis, 0, length) & is_known.narrow(axis, reach, length)
    slopes = torch.where(both_known, (last - first).abs(), torch.inf)
    # The contrast relative to the nearer surface: (far - near) / near = (1 / near - 1 / far) / (1 / far).
    is_step = both_known & (slopes > MIN_CONTRAST * torch.minimum(first, last))
    # Slopes beside the ramp; an unknown one does not count.
    beside = torch.minimum(_shifted(slopes, reach + 1, axis), _shifted(slopes, -reach - 1, axis))
    is_step &= slopes > MIN_STEEPNESS * torch.where(beside.isinf(), torch.zeros_like(beside), beside)
    for offset in range(reach + 1):
        is_ramp.narrow(axis, offset, length).logical_or_(is_step)
    return is_ramp & is_known


def _near_extremes(depths: Tensor, is_known: Tensor, reach: int) -> Bool[Tensor, "time height width"]:
    """Find the pixels whose depth is close to the smallest or the largest depth around them."""
    nearest = -_largest_around(torch.where(is_known, -depths, -torch.inf), reach)
    farthest = _largest_around(torch.where(is_known, depths, -torch.inf), reach)
    return (depths <= nearest * (1 + MIN_DISTANCE)) | (depths >= farthest * (1 - MIN_DISTANCE))


def _largest_around(values: Tensor, reach: int) -> Tensor:
    side = 2 * reach + 1
    rows = F.max_pool2d(values, (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))


def _shifted(values: Float[Tensor, "time height width"], shift: int, axis: int) -> Float[Tensor, "time height width"]:
    """Move values along an axis; values from outside are infinite."""
    shifted = torch.full_like(values, torch.inf)
    length = values.shape[axis] - abs(shift)
    if length > 0:
        source, target = (0, shift) if shift > 0 else (-shift, 0)
        shifted.narrow(axis, target, length).copy_(values.narrow(axis, source, length))
    return shifted
