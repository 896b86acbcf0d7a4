"""Plane-sweep stereo (Collins 1996) with semi-global matching: depth of every pixel from images with exact cameras.

Each frame is compared with its best neighbors at many depths, by the normalized correlation of small windows, so that
exposure has no influence. Semi-global matching (Hirschmueller 2008) then selects one depth per pixel, with jumps where
surfaces end and few elsewhere. Depth is verified where several frames agree on the surface; dynamic objects and areas
that only one frame observes do not agree and stay unverified.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import (
    pixel_grid,
    stratified_indices,
    transform_points,
    unproject_map,
)
from recon4d.records import Cameras
from recon4d.refine.projection import project_points

MIN_VARIANCE = 1e-4
"""Added to the variance of a window, in squared gray values of [0, 1]: noise of smooth areas is not texture.
Hand-tuned."""
WINDOW = 5
"""Side of the compared windows, in pixels. Hand-tuned."""
PLANE_STEP = 1.0
"""Median distance between the projections of neighboring planes in the source where it is largest, in pixels.
Hand-tuned."""
PLANE_COUNT_RANGE = (32, 160)
"""Smallest and largest number of planes. Hand-tuned."""
FINE_STEPS = (0.3, 0.1)
"""Step sizes of the final search relative to the distance of two planes; each goes three steps to both sides.
Hand-tuned."""
MIN_PARALLAX = 0.015
"""Smallest median angle between the rays of two frames, in radians; with less, a frame does not determine depth.
Hand-tuned."""
SUFFICIENT_PARALLAX = 0.1
"""Median angle in radians above which more parallax is not preferred. Hand-tuned."""
MAX_PARALLAX = 0.6
"""Largest median angle in radians; with more, the appearance differs too much. Hand-tuned."""
MIN_OVERLAP = 0.2
"""Smallest fraction of a frame's pixels that a source must observe. Hand-tuned."""
RANGE_FACTOR = 1.6
"""Factor by which the searched range exceeds the 1st and the 99th percentile of the expected depth. Hand-tuned."""
SMALL_JUMP_COST = 0.06
"""Cost of a step to the adjacent plane, in units of 1 - correlation. Hand-tuned."""
LARGE_JUMP_COST = 0.5
"""Cost of a step to any other plane without an image edge, in units of 1 - correlation. Hand-tuned."""
EDGE_CONTRAST = 0.04
"""Difference of neighboring gray values in [0, 1] that halves the cost of a large jump. Hand-tuned."""
EXPECTATION_COST = 0.08
"""Cost of a difference of 1 in log depth from the expected depth, in units of 1 - correlation; larger differences cost
no more. Hand-tuned."""
MIN_SUPPORT = 0.4
"""Smallest fraction of the surrounding window that is verified at a similar depth. Hand-tuned."""
SUPPORT_RANGE = 0.1
"""Largest relative difference of depth within a supporting window. Hand-tuned."""


@dataclass(frozen=True)
class StereoConfig:
    """Settings of stereo."""

    side: int = 256
    """Side in pixels of the square with the largest area at which images are compared; they are never enlarged."""
    num_sources: int = 4
    """Largest number of frames that each one is compared with."""
    min_ncc: float = 0.5
    """Smallest correlation of a verified pixel, up to 1."""
    max_relative_difference: float = 0.02
    """Largest relative difference of depth at which two frames agree."""
    min_agreeing_sources: int = 2
    """Minimum number of agreeing source frames (all of them if there are fewer)."""


@dataclass(frozen=True)
class StereoDepths:
    """Depth from stereo."""

    depths: Float[Tensor, "time height width"]
    """Depth of each pixel; the expected depth in frames without suitable neighbors."""
    verified: Bool[Tensor, "time height width"]
    """Whether windows correlate at this depth and other frames have the same surface."""


def stereo_depths(
    images: Float[Tensor, "time height width"],
    cameras: Cameras,
    expected: Float[Tensor, "time height width"],
    config: StereoConfig = StereoConfig(),
) -> StereoDepths:
    """Compute the depth of every pixel by a plane sweep.

    Args:
        images: Gray images in [0, 1].
        cameras: Exact cameras, with intrinsics for the size of the images.
        expected: Approximate positive depth, which sets the search range and decides where images have no texture.
        config: Settings.

    Returns:
        Depth, and where it is verified.
    """
    normalized = _normalize(images)
    neighbors = [_select_neighbors(cameras, expected, frame, config) for frame in range(len(images))]
    depths, correlation = expected.clone(), torch.zeros_like(expected)
    for frame, sources in enumerate(neighbors):
        if len(sources):
            views = [_View(cameras, frame, source) for source in sources.tolist()]
            depths[frame], correlation[frame] = _sweep(images[frame], normalized, views, expected[frame])
    verified = correlation >= config.min_ncc
    for frame, sources in enumerate(neighbors):
        if len(sources):
            verified[frame] &= _is_consistent(cameras, depths, frame, sources, config)
            verified[frame] &= _is_supported(depths[frame], verified[frame])
    return StereoDepths(depths, verified)


def _sweep(
    image: Float[Tensor, "height width"],
    normalized: Float[Tensor, "time height width"],
    views: list["_View"],
    expected: Float[Tensor, "height width"],
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """Compute depth and correlation of one frame: first among planes, then in fine steps about the best one."""
    planes = _planes(views, expected)
    costs = _costs(normalized, views, planes[:, None, None])
    deviation = (planes[:, None, None].log() + expected.log()).abs().clamp(max=1)
    best = _semi_global(costs + EXPECTATION_COST * deviation, image).argmin(dim=0, keepdim=True)
    inverse, cost = planes[best[0]], costs.gather(0, best)[0]
    for step in FINE_STEPS:
        steps = step * (planes[1] - planes[0]) * torch.arange(-3.0, 4.0)
        around = (inverse + steps[:, None, None]).clamp(min=planes[0])
        cost, nearest = _costs(normalized, views, around).min(dim=0)
        inverse = around.gather(0, nearest[None])[0]
    return 1 / inverse, 1 - cost


class _View:
    """Projection of a frame's pixels p into a source at inverse depth w: the pixel of (infinite @ p + w * epipole)."""

    def __init__(self, cameras: Cameras, frame: int, source: int) -> None:
        to_source = cameras.cam_from_world[source] @ cameras.world_from_cam[frame]
        self.frame, self.source = frame, source
        self.infinite = cameras.intrinsics[source] @ to_source[:3, :3] @ torch.linalg.inv(cameras.intrinsics[frame])
        self.epipole = cameras.intrinsics[source] @ to_source[:3, 3]

    def pixels(
        self, size: tuple[int, int], inverse: Float[Tensor, "plane #height #width"]
    ) -> tuple[Float[Tensor, "plane height width 2"], Bool[Tensor, "plane height width"]]:
        """Compute pixels (x, y) in the source, and whether the points are in front of it."""
        grid = torch.cat([pixel_grid(*size), torch.ones(*size, 1)], dim=-1)
        x, y, z = ((grid @ row)[None] + inverse * shift for row, shift in zip(self.infinite, self.epipole, strict=True))
        depth = z.clamp(min=1e-6)
        return torch.stack([x / depth, y / depth], dim=-1), z > 1e-6


def _select_neighbors(cameras: Cameras, expected: Tensor, frame: int, config: StereoConfig) -> Int[Tensor, " source"]:
    """Select the frames with the largest overlap with `frame` under sufficient parallax."""
    points = _unproject(cameras, expected, frame)[::4, ::4].flatten(0, 1).expand(len(expected), -1, -1)
    overlap = project_points(cameras, points, (expected.shape[1], expected.shape[2])).inside.float().mean(dim=1)
    rays = F.normalize(points - cameras.centers[:, None], dim=-1)
    parallax = torch.linalg.cross(rays, rays[frame].expand_as(rays)).norm(dim=-1).median(dim=1).values
    is_suitable = (parallax >= MIN_PARALLAX) & (parallax <= MAX_PARALLAX) & (overlap >= MIN_OVERLAP)
    score = overlap * (parallax / SUFFICIENT_PARALLAX).clamp(max=1)
    score = torch.where(is_suitable, score, 0.0)
    best = score.topk(min(config.num_sources, len(score))).indices
    return best[score[best] > 0]


def _unproject(cameras: Cameras, depths: Tensor, frame: int) -> Float[Tensor, "height width 3"]:
    in_camera = unproject_map(depths[frame], cameras.intrinsics[frame])
    return transform_points(cameras.world_from_cam[frame], in_camera)


def _planes(views: list[_View], expected: Float[Tensor, "height width"]) -> Float[Tensor, " plane"]:
    """Compute evenly spaced inverse depths, which are even steps in any other image."""
    sampled = expected.flatten()[stratified_indices(expected.numel(), 10000)]
    near, far = sampled.quantile(torch.tensor([0.01, 0.99])).tolist()
    first, last = 1 / (far * RANGE_FACTOR), RANGE_FACTOR / near
    size, ends = (expected.shape[0], expected.shape[1]), torch.tensor([first, last])[:, None, None]
    lengths = [float(view.pixels(size, ends)[0].diff(dim=0).norm(dim=-1).median()) for view in views]
    count, (fewest, most) = int(max(lengths) / PLANE_STEP), PLANE_COUNT_RANGE
    return torch.linspace(first, last, min(max(count, fewest), most))


def _costs(
    normalized: Float[Tensor, "time height width"],
    views: list[_View],
    inverse: Float[Tensor, "plane #height #width"],
) -> Float[Tensor, "plane height width"]:
    """Compute 1 - correlation between the window about each pixel and the better half of the sources."""
    height, width = normalized.shape[1:]
    costs = []
    for view in views:
        pixels, in_front = view.pixels((height, width), inverse)
        grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
        warped = F.grid_sample(
            normalized[view.source].expand(len(pixels), 1, -1, -1),
            grid,
            padding_mode="border",
            align_corners=False,
        )[:, 0]
        inside = in_front & (grid.abs() <= 1).all(dim=-1)
        # For values with mean 0 and variance 1, the mean squared difference is 2 - 2 * correlation.
        cost = 0.5 * _window_mean((warped - normalized[view.frame]).square())
        costs.append(torch.where(inside, cost, 1.0))
    return _mean_of_better_half(costs).clamp(max=1)


def _mean_of_better_half(costs: list[Tensor]) -> Float[Tensor, "plane height width"]:
    """Average the smaller half of the costs, so that sources in which a pixel is occluded have no influence."""
    smallest: list[Tensor] = []
    for cost in costs:
        rest = cost
        for place, kept in enumerate(smallest):
            smallest[place], rest = torch.minimum(kept, rest), torch.maximum(kept, rest)
        if len(smallest) < (len(costs) + 1) // 2:
            smallest.append(rest)
    return torch.stack(smallest).mean(dim=0)


def _normalize(images: Float[Tensor, "time height width"]) -> Float[Tensor, "time height width"]:
    """Subtract the mean of the window about each pixel, and divide by its standard deviation."""
    mean = _window_mean(images)
    variance = (_window_mean(images.square()) - mean.square()).clamp(min=0)
    return (images - mean) / (variance + MIN_VARIANCE).sqrt()


def _window_mean(values: Float[Tensor, "n height width"]) -> Float[Tensor, "n height width"]:
    """Average over the square window about each pixel, by rows and then by columns."""
    half = WINDOW // 2
    values = F.avg_pool2d(values[:, None], (1, WINDOW), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(values, (WINDOW, 1), 1, (half, 0), count_include_pad=False)[:, 0]


def _semi_global(
    costs: Float[Tensor, "plane height width"], image: Float[Tensor, "height width"]
) -> Float[Tensor, "plane height width"]:
    """Sum the costs of the cheapest paths to each pixel and plane over four directions."""
    total = torch.zeros_like(costs)
    for axis in (1, 2):
        contrast = image.diff(dim=axis - 1).abs()
        jump_cost = LARGE_JUMP_COST / (1 + contrast / EDGE_CONTRAST)
        along, jump_costs = costs.movedim(axis, 0), jump_cost.movedim(axis - 1, 0)
        forward = _cheapest_paths(along, jump_costs)
        backward = _cheapest_paths(along.flip(0), jump_costs.flip(0)).flip(0)
        total += (forward + backward).movedim(0, axis)
    return total


def _cheapest_paths(
    costs: Float[Tensor, "step plane line"], jump_costs: Float[Tensor, "gap line"]
) -> Float[Tensor, "step plane line"]:
    """Accumulate path costs along one direction (Hirschmueller 2008, equation 13)."""
    paths = torch.empty_like(costs)
    paths[0] = costs[0]
    for step in range(1, len(costs)):
        before = paths[step - 1]
        smallest = before.min(dim=0).values
        best = torch.minimum(before, smallest + jump_costs[step - 1].clamp(min=SMALL_JUMP_COST))
        best[1:] = torch.minimum(best[1:], before[:-1] + SMALL_JUMP_COST)
        best[:-1] = torch.minimum(best[:-1], before[1:] + SMALL_JUMP_COST)
        paths[step] = costs[step] + best - smallest
    return paths


def _is_consistent(
    cameras: Cameras, depths: Float[Tensor, "time height width"], frame: int, sources: Tensor, config: StereoConfig
) -> Bool[Tensor, "height width"]:
    """Check whether enough sources have the same surface at the pixel that observes it."""
    points = _unproject(cameras, depths, frame).flatten(0, 1).expand(len(sources), -1, -1)
    source_cameras = Cameras(cameras.world_from_cam[sources], cameras.intrinsics[sources])
    projected = project_points(source_cameras, points, (depths.shape[1], depths.shape[2]))
    surface = depths[sources[:, None], *projected.pixel_indices()]
    agrees = projected.inside & ((projected.depths / surface - 1).abs() <= config.max_relative_difference)
    return (agrees.sum(dim=0) >= min(config.min_agreeing_sources, len(sources))).reshape(depths.shape[1:])


def _is_supported(
    depths: Float[Tensor, "height width"], verified: Bool[Tensor, "height width"]
) -> Bool[Tensor, "height width"]:
    """Check whether enough surrounding pixels lie on the same surface: accidental agreement is isolated."""
    values = torch.where(verified, depths, torch.inf)
    around = F.unfold(F.pad(values[None, None], [WINDOW // 2] * 4, value=torch.inf), WINDOW)[0]
    is_close = (around / depths.flatten() - 1).abs() <= SUPPORT_RANGE
    return (is_close.float().mean(dim=0) >= MIN_SUPPORT).reshape(depths.shape)
