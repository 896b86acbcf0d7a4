"""Depth maps bent to go through points that were triangulated: a network's shapes, at the depths that cameras prove.

What is bent is log depth, by a field that is first affine in the network's own log depth and the pixel (a network errs
in scale, in contrast and in slope), then what is left near each point, smoothed over ever smaller neighborhoods that
end where the network's depth jumps.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import rows_and_columns
from recon4d.records import Scene
from recon4d.refine.track_transfer import transfer_tracks

LEAST_POINTS = 20
"""Points of a frame, with fewer of which its depth stays as it is."""
CELLS = 64
"""Along the longer side of a map: how finely the field is known; depth keeps its own detail."""
REACHES = (0.125, 0.04, 0.025)
"""Of the longer side: how far points speak for what is around them, round by round."""
SAME_SURFACE = 0.15
"""Of log depth: how far two pixels of the network's may differ and still count as one surface."""
LARGE_ERROR = 0.1
"""Of log depth: points that disagree by more with what fits most others count less and less (Cauchy)."""
CAUTION = 0.3
"""Points that the absence of any weighs: far from all points nothing is changed."""
STIFFNESS = (1e-3, 3.0, 3.0, 3.0)
"""Points that not changing scale, contrast and the two slopes weighs."""
ROUNDS = 10


@dataclass(frozen=True)
class PointDepths:
    """How deep points are in the frames that see them."""

    pixels: Float[Tensor, "time point 2"]
    depths: Float[Tensor, "time point"]
    known: Bool[Tensor, "time point"]


def fit_depth_alignment(
    depths: Float[Tensor, "time height width"], points: PointDepths
) -> Float[Tensor, "time height width"]:
    """What to multiply each frame's depth by, so that it goes through `points`; 1 where they say nothing."""
    return torch.stack(
        [
            _bending_of_frame(depths[frame], points.pixels[frame][known], points.depths[frame][known])
            for frame, known in enumerate(points.known)
        ]
    )


def disagreement(depths: Float[Tensor, "time height width"], points: PointDepths) -> Float[Tensor, " seen"]:
    """How far depth is from each frame's points: the absolute difference of logs, capped at 1."""
    return _log_ratios(depths, points).abs().clamp(max=1)


def correlation(depths: Float[Tensor, "time height width"], points: PointDepths) -> float:
    """How far depth and points agree on what is near and what is far: 1, or -1 where they say the opposite; of logs."""
    theirs = points.depths[points.known].log()
    return float(torch.corrcoef(torch.stack([theirs - _log_ratios(depths, points), theirs]))[0, 1])


def median_ratio(depths: Float[Tensor, "time height width"], points: PointDepths) -> float:
    """How many times as deep as the maps have them points are."""
    return float(_log_ratios(depths, points).median().exp())


def scale_depth(scene: Scene, factors: Float[Tensor, "time height width"]) -> Scene:
    """The scene with its depth multiplied, and the points and tracks that follow from it (`carried_tracks`)."""
    after = replace(scene, depths=scene.depths * factors)
    return replace(after, points=after.points_from_depth, tracks=transfer_tracks(scene, after))


def _bending_of_frame(
    depths: Float[Tensor, "height width"], pixels: Float[Tensor, "point 2"], wanted: Float[Tensor, " point"]
) -> Float[Tensor, "height width"]:
    if len(wanted) < LEAST_POINTS:
        return torch.ones_like(depths)
    depths = _without_gaps(depths)
    height, width = depths.shape
    side = max(height, width)
    grid = [max(1, round(CELLS * length / side)) for length in (height, width)]
    cells = F.interpolate(depths.log()[None, None], grid, mode="area").flatten()
    rows, columns = ((torch.arange(n) + 0.5) * (length / n) for n, length in zip(grid, depths.shape, strict=True))
    centers = torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)

    at_points = _at(depths, pixels).log()
    left = wanted.log() - at_points
    middle = at_points.median()
    # Beyond the depths of all points a contrast would only be guessed.
    within = cells.clamp(at_points.min(), at_points.max())
    design = [_features(logs - middle, places / side) for logs, places in ((at_points, pixels), (within, centers))]
    change = _robust_fit(design[0], left)
    field, left = design[1] @ change, left - design[0] @ change
    trust = 1 / (1 + (left / (3 * LARGE_ERROR)).square())
    distances = [torch.cdist(places, pixels) / side for places in (pixels, centers)]
    jumps = [(logs[:, None] - at_points).abs() / SAME_SURFACE for logs in (at_points, cells)]
    for reach in REACHES:
        at_points_too, smooth = (
            _smoothed(trust * torch.exp(-0.5 * ((away / reach).square() + jump.square())), left)
            for away, jump in zip(distances, jumps, strict=True)
        )
        field, left = field + smooth, left - at_points_too
    maps = F.interpolate(field.reshape(1, 1, *grid), depths.shape, mode="bilinear", align_corners=False)
    return maps[0, 0].exp()


def _features(logs: Tensor, places: Tensor) -> Float[Tensor, "n 4"]:
    """What a network's log depth may be wrong by: a constant, its own contrast, and a slope across the picture."""
    return torch.cat([torch.ones_like(logs)[:, None], logs[:, None], places - 0.5], dim=-1)


def _robust_fit(features: Float[Tensor, "point 4"], wanted: Float[Tensor, " point"]) -> Float[Tensor, "4"]:
    """Least squares whose weights follow the errors (Cauchy), held back by `STIFFNESS`."""
    features, wanted = features.double(), wanted.double()
    weights = torch.ones_like(wanted)
    change = features.new_zeros(4)
    for _ in range(ROUNDS):
        weighed = features * weights[:, None]
        normal = weighed.T @ features + torch.diag(features.new_tensor(STIFFNESS))
        change = torch.linalg.solve(normal, weighed.T @ wanted)
        weights = 1 / (1 + ((wanted - features @ change) / LARGE_ERROR).square())
    return change.float()


def _smoothed(weights: Float[Tensor, "n point"], values: Float[Tensor, " point"]) -> Float[Tensor, " n"]:
    return weights @ values / (weights.sum(dim=1) + CAUTION)


def _log_ratios(depths: Tensor, points: PointDepths) -> Float[Tensor, " seen"]:
    ratios = [
        _log_ratio(depths[frame], points.pixels[frame][known], points.depths[frame][known])
        for frame, known in enumerate(points.known)
    ]
    return torch.cat(ratios)


def _log_ratio(depths: Tensor, pixels: Tensor, wanted: Tensor) -> Float[Tensor, " point"]:
    return wanted.log() - _at(_without_gaps(depths), pixels).log()


def _without_gaps(depths: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Depth whose logarithm exists everywhere: where none is known (0), the median of the others."""
    known = depths > 0
    return torch.where(known, depths, depths[known].median() if known.any() else 1.0)


def _at(depths: Float[Tensor, "height width"], pixels: Float[Tensor, "point 2"]) -> Float[Tensor, " point"]:
    return depths[rows_and_columns(pixels, (depths.shape[0], depths.shape[1]))]
