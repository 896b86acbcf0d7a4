"""Thinning of points to a budget, deterministic: by cells of the pixel grid in a frame, by voxels over all frames.

Of each cell or voxel, the most confident pixel is kept. The outline of what is thinned in a frame, such as the edge of
a mover, is kept first.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.records import Scene

OUTLINE_SHARE = 0.5
"""Largest share of the points of a frame that the outline may take. Hand-tuned."""
CELL_GROWTH, VOXEL_GROWTH = 1.05, 1.2
"""Smallest factor by which cells or voxels grow until their number is within the budget. Hand-tuned."""
VOXEL_PIXELS = 0.7
"""Smallest side of a voxel in pixels of the camera that sees the point. After rounding to powers of two it is 0.5 to 1
pixels, so that neighbors in one picture are not merged, but views of the same surface are."""
CANDIDATES = 8
"""Largest number of candidates for a place in the budget of all frames; bounds the memory. Hand-tuned."""
HASH_FACTORS = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB, 0x2545F4914F6CDD1D)
"""Large odd factors of the hash of a voxel's three indices and its size. With 64 bits, collisions are negligible."""


def thin_frame(
    mask: Bool[Tensor, "height width"], confidence: Float[Tensor, "height width"], limit: int
) -> Bool[Tensor, "height width"]:
    """Limit the number of selected pixels of one frame.

    Args:
        mask: Selected pixels.
        confidence: Confidence of each pixel.
        limit: Largest number of pixels to keep.

    Returns:
        A subset of `mask` with at most `limit` pixels; `mask` itself if it does not exceed the limit.
    """
    if int(mask.sum()) <= limit:
        return mask
    inside = 1 - F.max_pool2d((~mask).float()[None], 3, 1, 1)[0]
    outline = mask & (inside < 0.5)
    kept = _by_cells(outline, confidence, int(OUTLINE_SHARE * limit))
    return kept | _by_cells(mask & ~outline, confidence, limit - int(kept.sum()))


def frame_limit(counts: Int[Tensor, " time"], per_frame: int, total: int) -> int:
    """Find the largest limit per frame that keeps the points of all frames within a total.

    Args:
        counts: Number of points of each frame.
        per_frame: Largest limit.
        total: Largest number of points of all frames together.

    Returns:
        The limit, at least 1.
    """
    low, high = 1, max(1, per_frame)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(counts.clamp(max=middle).sum()) <= total else (low, middle - 1)
    return low


def thin_by_voxels(
    scene: Scene, mask: Bool[Tensor, "time height width"], limit: int
) -> Bool[Tensor, "time height width"]:
    """Merge the points of all frames that lie in the same voxel, and limit their number.

    The side of a voxel is proportional to the size of a pixel at the depth of the point, rounded to a power of two, so
    that near surfaces keep their detail. It grows until the number of voxels is within the limit.

    Args:
        scene: The scene, with known depth and camera at all selected pixels.
        mask: Selected pixels.
        limit: Largest number of pixels to keep.

    Returns:
        The subset of `mask` with the most confident pixel of each voxel; of equally confident ones, the earliest.
    """
    counts = mask.sum(dim=(1, 2))
    candidates_limit = frame_limit(counts, int(counts.max()), CANDIDATES * limit)
    positions, points, footprints = [], [], []
    for frame in range(scene.num_frames):
        chosen = _by_cells(mask[frame], scene.depth_confidence[frame], candidates_limit)
        alone = scene.frames([frame])
        points.append(alone.points_from_depth[0][chosen].double())
        footprints.append(alone.depths[0][chosen].double() / alone.cameras.intrinsics[0, 0, 0].double())
        positions.append(chosen.flatten().nonzero()[:, 0] + frame * chosen.numel())
    kept, points, footprints = torch.cat(positions), torch.cat(points), torch.cat(footprints)
    order = scene.depth_confidence.flatten()[kept].argsort(descending=True, stable=True)
    pixels = VOXEL_PIXELS
    while len(order):
        order = order[_first_of_each(_voxels(points[order], pixels * footprints[order]))]
        if len(order) <= limit:
            break
        pixels *= max(VOXEL_GROWTH, math.sqrt(len(order) / limit))
    selected = torch.zeros_like(mask.flatten())
    selected[kept[order]] = True
    return selected.reshape(mask.shape)


def _by_cells(mask: Tensor, confidence: Tensor, limit: int) -> Bool[Tensor, "height width"]:
    """Keep the most confident pixel of each square cell; cells are as small as the limit allows."""
    kept = torch.zeros_like(mask)
    rows, columns = mask.nonzero().unbind(-1)
    if len(rows) <= limit:
        return mask
    if limit < 1:
        return kept
    side = math.sqrt(len(rows) / limit)
    order = confidence[rows, columns].argsort(descending=True, stable=True)
    rows, columns = rows[order], columns[order]
    first = order
    while len(first) > limit:
        first = _first_of_each((rows / side).long() * mask.shape[1] + (columns / side).long())
        side *= CELL_GROWTH
    kept[rows[first], columns[first]] = True
    return kept


def _voxels(points: Float[Tensor, "n 3"], sides: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Number the voxels of points; the sides are rounded to powers of two."""
    exponents = sides.log2().round()
    indices = (points / torch.exp2(exponents)[:, None]).floor().long()
    hashed = [index * factor for index, factor in zip((*indices.T, exponents.long()), HASH_FACTORS, strict=True)]
    return hashed[0] + hashed[1] + hashed[2] + hashed[3]


def _first_of_each(groups: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """Find the first member of each group, in ascending order."""
    order = groups.argsort(stable=True)
    is_first = torch.ones(len(order), dtype=torch.bool)
    is_first[1:] = groups[order][1:] != groups[order][:-1]
    return order[is_first].sort().values
