"""Plane-sweep stereo (Collins 1996) with semi-global matching: depth of every pixel from images with exact cameras.

Each frame is compared with its best neighbors at many depths, by the normalized correlation of small windows, so that
exposure has no influence. This is done at a small size, where semi-global matching (Hirschmueller 2008) selects one
depth per pixel, with jumps where surfaces end and few elsewhere. Larger sizes search about this depth only. Depth is
verified where several frames agree on the surface; dynamic objects and areas that only one frame observes do not agree
and stay unverified.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import (
    pixel_indices,
    stratified_indices,
    transform_points,
    unproject_map,
)
from recon4d.records import Cameras
from recon4d.refine.local_contrast import normalize_contrast, window_mean

WINDOW = 5
"""Side of the compared windows, in pixels. Hand-tuned."""
PLANE_STEP = 1.0
"""Median distance between the projections of neighboring planes in the source where it is largest, in pixels of the
smallest images. Hand-tuned."""
PLANE_COUNT_RANGE = (32, 160)
"""Smallest and largest number of planes. Hand-tuned."""
FINE_STEPS = (0.5, 0.25, 0.12)
"""Successive steps of the final search to both sides, relative to the distance of two planes at the full size.
Hand-tuned."""
CANDIDATE_STEPS = 2
"""Steps to both sides of the depth of a smaller image that are compared at the next size. Hand-tuned."""
CANDIDATE_COST = 0.02
"""Cost of each such step, and of the depth of either side of an edge, in units of 1 - correlation. Hand-tuned
(`python -m benchmarks.stereo`)."""
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
COARSEST_SIDE = 150
"""Largest side of a square with the area of the smallest images, in pixels: all planes are compared at this size.
Hand-tuned."""
FRAMES_AT_ONCE = 8
"""Number of frames whose costs are in memory at the same time."""
SAMPLES_AT_ONCE = 2**17
"""Number of samples of a source that are computed at the same time, so that they stay in the cache of a processor."""


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
    neighbors = _select_neighbors(cameras, expected, config)
    pyramid = _image_pyramid(images)
    depths, correlation = expected.clone(), torch.zeros_like(expected)
    for frames in neighbors.batches():
        views = _Views.create(cameras, frames, neighbors, (images.shape[1], images.shape[2]))
        depths[frames], correlation[frames] = _sweep(images[frames], pyramid, views, expected[frames])
    verified = correlation >= config.min_ncc
    verified &= _is_consistent(cameras, depths, neighbors, config)
    verified &= _is_supported(depths, verified)
    return StereoDepths(depths, verified)


@dataclass(frozen=True)
class _Neighbors:
    """Frames that each frame is compared with."""

    sources: Int[Tensor, "time source"]
    """Indices of frames, the best first."""
    is_suitable: Bool[Tensor, "time source"]
    """Whether there is such a source; the suitable ones come first."""

    def batches(self) -> tuple[Int[Tensor, " frame"], ...]:
        """Split the frames that have sources into batches that are processed together."""
        matched = self.is_suitable[:, 0].nonzero()[:, 0]
        return matched.split(FRAMES_AT_ONCE) if len(matched) else ()


def _select_neighbors(cameras: Cameras, expected: Tensor, config: StereoConfig) -> _Neighbors:
    """Select the frames with the largest overlap with each frame under sufficient parallax."""
    scores = torch.stack([_neighbor_scores(cameras, expected, frame) for frame in range(len(expected))])
    best = scores.topk(min(config.num_sources, len(expected)), dim=1)
    return _Neighbors(best.indices, best.values > 0)


def _neighbor_scores(cameras: Cameras, expected: Tensor, frame: int) -> Float[Tensor, " time"]:
    """Rate all frames as sources of a frame; 0 marks those without sufficient parallax or overlap."""
    points = _unproject(cameras, expected, frame)[::4, ::4].flatten(0, 1).expand(len(expected), -1, -1)
    overlap = cameras.project_points(points, (expected.shape[1], expected.shape[2])).inside.float().mean(dim=1)
    rays = F.normalize(points - cameras.centers[:, None], dim=-1)
    parallax = torch.linalg.cross(rays, rays[frame].expand_as(rays)).norm(dim=-1).median(dim=1).values
    is_suitable = (parallax >= MIN_PARALLAX) & (parallax <= MAX_PARALLAX) & (overlap >= MIN_OVERLAP)
    return torch.where(is_suitable, overlap * (parallax / SUFFICIENT_PARALLAX).clamp(max=1), 0.0)


def _unproject(cameras: Cameras, depths: Tensor, frame: int) -> Float[Tensor, "height width 3"]:
    in_camera = unproject_map(depths[frame], cameras.intrinsics[frame])
    return transform_points(cameras.world_from_cam[frame], in_camera)


@dataclass(frozen=True)
class _Views:
    """Projections of frames into their sources, independent of the size of images.

    Coordinates go from -1 to 1 between the borders of an image. The pixel p of a frame at inverse depth w is observed
    at the homogeneous coordinates (infinite @ p + w * epipole) of a source.
    """

    frames: Int[Tensor, " frame"]
    sources: Int[Tensor, "frame source"]
    is_suitable: Bool[Tensor, "frame source"]
    infinite: Float[Tensor, "frame source 3 3"]
    epipole: Float[Tensor, "frame source 3"]

    @staticmethod
    def create(cameras: Cameras, frames: Tensor, neighbors: _Neighbors, size: tuple[int, int]) -> "_Views":
        is_suitable = neighbors.is_suitable[frames]
        sources = neighbors.sources[frames]
        to_source = cameras.cam_from_world[sources] @ cameras.world_from_cam[frames][:, None]
        height, width = size
        normalized = cameras.intrinsics.new_tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
        intrinsics = normalized @ cameras.intrinsics
        infinite = intrinsics[sources] @ to_source[..., :3, :3] @ torch.linalg.inv(intrinsics[frames])[:, None]
        epipole = (intrinsics[sources] @ to_source[..., :3, 3:])[..., 0]
        # All pixels are outside of unsuitable sources.
        outside = infinite.new_tensor([[0.0, 0, 2], [0, 0, 2], [0, 0, 1]])
        infinite = torch.where(is_suitable[..., None, None], infinite, outside)
        epipole = torch.where(is_suitable[..., None], epipole, 0.0)
        return _Views(frames, sources, is_suitable, infinite, epipole)

    def rays(self, size: tuple[int, int]) -> Float[Tensor, "source 3 frame 1 height width"]:
        """Compute the homogeneous coordinates of all pixels at infinity."""
        rows, columns = ((2 * torch.arange(n, device=self.infinite.device) + 1) / n - 1 for n in size)
        grid = torch.stack(
            [columns.expand(size), rows[:, None].expand(size), torch.ones_like(rows[:, None]).expand(size)]
        )
        rays = self.infinite @ grid.flatten(1)
        return rays.unflatten(-1, size).permute(1, 2, 0, 3, 4)[:, :, :, None].contiguous()

    def shifts(self) -> Float[Tensor, "source 3 frame 1 1 1"]:
        """The change of the coordinates with inverse depth."""
        return self.epipole.permute(1, 2, 0)[..., None, None, None]


@dataclass(frozen=True)
class _Level:
    """Costs at one size of the images."""

    normalized: Float[Tensor, "time 1 height width"]
    views: _Views
    own: Float[Tensor, "frame 1 height width"]
    rays: Float[Tensor, "source 3 frame 1 height width"]

    @staticmethod
    def create(normalized: Float[Tensor, "time height width"], views: _Views) -> "_Level":
        size = (normalized.shape[1], normalized.shape[2])
        return _Level(normalized[:, None], views, normalized[views.frames][:, None], views.rays(size))

    @property
    def size(self) -> tuple[int, int]:
        return self.normalized.shape[2], self.normalized.shape[3]

    def coordinates(
        self, source: int, inverse: Float[Tensor, "frame plane #height #width"]
    ) -> Float[Tensor, "frame plane height width 2"]:
        """Compute the coordinates in a source; outside of [-1, 1] behind the camera."""
        x, y, z = (
            ray + inverse * shift for ray, shift in zip(self.rays[source], self.views.shifts()[source], strict=True)
        )
        scale = z.clamp_(min=1e-6).reciprocal_()
        grid = torch.empty(*scale.shape, 2, device=scale.device)
        torch.mul(x, scale, out=grid[..., 0])
        torch.mul(y, scale, out=grid[..., 1])
        return grid

    def costs(self, inverse: Float[Tensor, "frame plane #height #width"]) -> Float[Tensor, "frame plane height width"]:
        """Compute 1 - correlation between the window about each pixel and the better half of the sources."""
        frames, planes = inverse.shape[:2]
        costs = inverse.new_empty(frames, planes, *self.size)
        chunk = max(1, SAMPLES_AT_ONCE // (frames * self.size[0] * self.size[1]))
        for first in range(0, planes, chunk):
            part = slice(first, first + chunk)
            of_sources = [self._source_costs(source, inverse[:, part]) for source in range(len(self.rays))]
            _mean_of_better_half(of_sources, self.views.is_suitable.sum(dim=1), costs[:, part])
        return costs

    def _source_costs(
        self, source: int, inverse: Float[Tensor, "frame plane #height #width"]
    ) -> Float[Tensor, "frame plane height width"]:
        """Compute 1 - correlation with one source of each frame; 1 outside of its image."""
        grid = self.coordinates(source, inverse)
        images = self.normalized[self.views.sources[:, source]]
        warped = F.grid_sample(images, grid.flatten(1, 2), padding_mode="border", align_corners=False)
        difference = warped.unflatten(2, grid.shape[1:3])[:, 0].sub_(self.own).square_()
        # For values with mean 0 and variance 1, the mean squared difference is 2 - 2 * correlation.
        cost = window_mean(difference, WINDOW).mul_(0.5)
        return cost.masked_fill_(torch.maximum(*grid.abs_().unbind(-1)) > 1, 1.0)


def _mean_of_better_half(costs: list[Tensor], num_suitable: Int[Tensor, " frame"], result: Tensor) -> None:
    """Average the smaller half of the costs, so that sources in which a pixel is occluded have no influence."""
    kept = (num_suitable + 1) // 2
    smallest: list[Tensor] = []
    for cost in costs:
        rest = cost
        for place, one in enumerate(smallest):
            smallest[place], rest = torch.minimum(one, rest), torch.maximum(one, rest)
        if len(smallest) < (len(costs) + 1) // 2:
            smallest.append(rest)
    result.zero_()
    for place, cost in enumerate(smallest):
        result.addcmul_(cost, ((place < kept) / kept)[:, None, None, None])
    result.clamp_(max=1)


def _image_pyramid(images: Float[Tensor, "time height width"]) -> list[Float[Tensor, "time _ _"]]:
    """Normalize the images at decreasing sizes."""
    height, width = images.shape[1:]
    scale = 1
    pyramid = [normalize_contrast(images, WINDOW)]
    while (height * width) ** 0.5 / scale > COARSEST_SIDE:
        scale *= 2
        size = (max(1, round(height / scale)), max(1, round(width / scale)))
        smaller = F.interpolate(images[:, None], size, mode="bilinear", antialias=True, align_corners=False)[:, 0]
        pyramid.append(normalize_contrast(smaller, WINDOW))
    return pyramid


def _sweep(
    images: Float[Tensor, "frame height width"],
    pyramid: list[Float[Tensor, "time _ _"]],
    views: _Views,
    expected: Float[Tensor, "frame height width"],
) -> tuple[Float[Tensor, "frame height width"], Float[Tensor, "frame height width"]]:
    """Compute depth and correlation of frames: first among planes at the smallest size, then in fine steps."""
    level = _Level.create(pyramid[-1], views)
    planes = _planes(level, expected)
    step = (planes[:, 1] - planes[:, 0])[:, None, None, None]
    inverse, cost = _best_planes(level, planes, images, expected)
    for normalized in pyramid[-2::-1]:
        level, step = _Level.create(normalized, views), 0.5 * step
        inverse, cost = _best_candidate(level, inverse, step)
    inverse, cost = _refined(level, inverse, cost, step)
    return 1 / inverse[:, 0], 1 - cost[:, 0]


def _best_planes(
    level: _Level, planes: Float[Tensor, "frame plane"], images: Tensor, expected: Tensor
) -> tuple[Float[Tensor, "frame 1 height width"], Float[Tensor, "frame 1 height width"]]:
    """Select one plane for each pixel by semi-global matching."""
    costs = level.costs(planes[:, :, None, None])
    small, logs = (F.interpolate(one[:, None], level.size, mode="area")[:, 0] for one in (images, expected.log()))
    deviation = (planes.log()[:, :, None, None] + logs[:, None]).abs_().clamp_(max=1).mul_(EXPECTATION_COST)
    best = _first_smallest(_semi_global(deviation.add_(costs), small))
    inverse = planes.gather(1, best.flatten(1)).reshape(best.shape)
    return inverse, costs.gather(1, best)


def _best_candidate(
    level: _Level, inverse: Float[Tensor, "frame 1 height width"], step: Float[Tensor, "frame 1 1 1"]
) -> tuple[Float[Tensor, "frame 1 larger_height larger_width"], Float[Tensor, "frame 1 larger_height larger_width"]]:
    """Select inverse depth about that of a smaller image, or that of either side of an edge."""
    nearest, farthest = F.max_pool2d(inverse, 3, 1, 1), -F.max_pool2d(-inverse, 3, 1, 1)
    sides = F.interpolate(torch.cat([nearest, farthest], dim=1), level.size, mode="nearest-exact")
    center = F.interpolate(inverse, level.size, mode="bilinear", align_corners=False)
    offsets = torch.arange(-CANDIDATE_STEPS, CANDIDATE_STEPS + 1, device=step.device)[:, None, None]
    around = (center + step * offsets).clamp(min=0.5 * inverse.amin(dim=(1, 2, 3), keepdim=True))
    candidates = torch.cat([around, sides], dim=1)
    costs = level.costs(candidates)
    num_steps = F.pad(offsets.abs(), (0, 0, 0, 0, 0, 2), value=1)
    best = _first_smallest(costs + CANDIDATE_COST * num_steps)
    return candidates.gather(1, best), costs.gather(1, best)


def _refined(
    level: _Level,
    inverse: Float[Tensor, "frame 1 height width"],
    cost: Float[Tensor, "frame 1 height width"],
    step: Float[Tensor, "frame 1 1 1"],
) -> tuple[Float[Tensor, "frame 1 height width"], Float[Tensor, "frame 1 height width"]]:
    """Search in decreasing steps to both sides."""
    lowest = 0.5 * inverse.amin(dim=(1, 2, 3), keepdim=True)
    for factor in FINE_STEPS:
        sides = torch.cat([inverse - factor * step, inverse + factor * step], dim=1).clamp(min=lowest)
        costs = torch.cat([cost, level.costs(sides)], dim=1)
        best = _first_smallest(costs)
        inverse, cost = torch.cat([inverse, sides], dim=1).gather(1, best), costs.gather(1, best)
    return inverse, cost


def _first_smallest(costs: Float[Tensor, "frame plane height width"]) -> Int[Tensor, "frame 1 height width"]:
    """Compute the index of the smallest cost of each pixel, on CPUs several times faster than `argmin`."""
    smallest = costs.amin(dim=1, keepdim=True)
    index = torch.zeros_like(smallest, dtype=torch.long)
    for plane in range(costs.shape[1] - 1, -1, -1):
        index.masked_fill_(costs[:, plane : plane + 1] == smallest, plane)
    return index


def _planes(level: _Level, expected: Float[Tensor, "frame height width"]) -> Float[Tensor, "frame plane"]:
    """Compute evenly spaced inverse depths, which are even steps in any other image."""
    sampled = expected.flatten(1)[:, stratified_indices(expected[0].numel(), 10000, expected.device)]
    near, far = sampled.quantile(sampled.new_tensor([0.01, 0.99]), dim=1)
    first, last = 1 / (far * RANGE_FACTOR), RANGE_FACTOR / near
    ends = torch.stack([first, last], dim=1)[:, :, None, None]
    half = 0.5 * ends.new_tensor([level.size[1], level.size[0]])
    lengths = [
        (level.coordinates(source, ends).diff(dim=1) * half).norm(dim=-1).flatten(1).median(dim=1).values
        for source in range(len(level.rays))
    ]
    longest = torch.where(level.views.is_suitable, torch.stack(lengths, dim=1), 0.0).max()
    count, (fewest, most) = int(longest / PLANE_STEP), PLANE_COUNT_RANGE
    fractions = torch.linspace(0, 1, min(max(count, fewest), most), device=expected.device)
    return first[:, None] + fractions * (last - first)[:, None]


def _semi_global(
    costs: Float[Tensor, "frame plane height width"], images: Float[Tensor, "frame height width"]
) -> Float[Tensor, "frame plane height width"]:
    """Sum the costs of the cheapest paths to each pixel and plane over four directions."""
    total = torch.zeros_like(costs)
    for axis in (2, 3):
        contrast = images.diff(dim=axis - 1).abs()
        jump_costs = (LARGE_JUMP_COST / (1 + contrast / EDGE_CONTRAST)).clamp(min=SMALL_JUMP_COST)
        along = costs.movedim(axis, 0).contiguous()
        total += _cheapest_paths(along, jump_costs.movedim(axis - 1, 0)[:, :, None].contiguous()).movedim(0, axis)
    return total


def _cheapest_paths(
    costs: Float[Tensor, "step frame plane line"], jump_costs: Float[Tensor, "gap frame 1 line"]
) -> Float[Tensor, "step frame plane line"]:
    """Sum the path costs along both directions of an axis (Hirschmueller 2008, equation 13)."""
    total, last = torch.zeros_like(costs), len(costs) - 1
    for is_forward in (True, False):
        path = costs[0 if is_forward else last].clone()
        total[0 if is_forward else last] += path
        for step in range(1, len(costs)):
            gap, place = (step - 1, step) if is_forward else (last - step, last - step)
            smallest = path.amin(dim=1, keepdim=True)
            best = torch.minimum(path, smallest + jump_costs[gap])
            neighbor = path.add_(SMALL_JUMP_COST)
            torch.minimum(best[:, 1:], neighbor[:, :-1], out=best[:, 1:])
            torch.minimum(best[:, :-1], neighbor[:, 1:], out=best[:, :-1])
            path = best.sub_(smallest).add_(costs[place])
            total[place] += path
    return total


def _is_consistent(
    cameras: Cameras, depths: Float[Tensor, "time height width"], neighbors: _Neighbors, config: StereoConfig
) -> Bool[Tensor, "time height width"]:
    """Check whether enough sources have the same surface at the pixel that observes it."""
    size = (depths.shape[1], depths.shape[2])
    found = []
    for frame, sources in enumerate(neighbors.sources):
        points = _unproject(cameras, depths, frame).flatten(0, 1).expand(len(sources), -1, -1)
        source_cameras = Cameras(cameras.world_from_cam[sources], cameras.intrinsics[sources])
        projected = source_cameras.project_points(points, size)
        surface = depths[sources[:, None], *pixel_indices(projected.pixels, size)]
        agrees = projected.inside & ((projected.depths / surface - 1).abs() <= config.max_relative_difference)
        is_suitable = neighbors.is_suitable[frame]
        needed = is_suitable.sum().clamp(1, config.min_agreeing_sources)
        found.append(((agrees & is_suitable[:, None]).sum(dim=0) >= needed).reshape(size))
    return torch.stack(found)


def _is_supported(
    depths: Float[Tensor, "time height width"], verified: Bool[Tensor, "time height width"]
) -> Bool[Tensor, "time height width"]:
    """Check whether enough surrounding pixels lie on the same surface: accidental agreement is isolated."""
    half = WINDOW // 2
    height, width = depths.shape[1:]
    values = F.pad(torch.where(verified, depths, torch.inf), [half] * 4, value=torch.inf)
    count = torch.zeros_like(depths)
    for row in range(WINDOW):
        for column in range(WINDOW):
            around = values[:, row : row + height, column : column + width]
            count += (around / depths - 1).abs_() <= SUPPORT_RANGE
    return count >= MIN_SUPPORT * WINDOW**2
