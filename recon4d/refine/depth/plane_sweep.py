"""Depth of every pixel from pictures whose cameras are exact: a plane sweep (Collins 1996), kept where frames agree.

Each frame is compared with its best neighbors at many depths, by the correlation of small windows, so that exposure
does not matter. Semi-global matching (Hirschmueller 2008) then chooses one depth a pixel, which jumps where surfaces
end and seldom elsewhere. What moves, and what one picture alone sees, does not agree from frame to frame, and stays
unproven.
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

LEAST_VARIANCE = 1e-4
"""Of gray values in [0, 1]: noise of a smooth wall is not taken for a pattern."""


@dataclass(frozen=True)
class StereoConfig:
    """How depth is looked for."""

    side: int = 256
    """Pictures are compared at about the area of a square of this side, and never enlarged."""
    sources: int = 4
    """Frames that each one is compared with."""
    window: int = 5
    """Pixels a side that are compared."""
    plane_step: float = 1.0
    """Pixels that a pixel moves from plane to plane, in the median, in the source where it moves most."""
    fewest_planes: int = 32
    most_planes: int = 160
    fine_steps: tuple[float, ...] = (0.3, 0.1)
    """Of a plane's distance: in the end depth is looked for so finely, three steps to each side of the best."""
    least_parallax: float = 0.015
    """Radians between the rays of two frames, in the median: with less a frame says nothing of another's depth."""
    plenty_of_parallax: float = 0.1
    """From here on more is no better."""
    most_parallax: float = 0.6
    """With more it looks too different."""
    least_overlap: float = 0.2
    """Of what a frame sees, that another must have in its picture."""
    range_factor: float = 1.6
    """How far beyond the nearest and the farthest of the expected depths is looked."""
    small_jump: float = 0.06
    """What a step to the next plane costs, in units of 1 - correlation."""
    large_jump: float = 0.5
    """What a step to any other costs, less where the picture has an edge."""
    edge: float = 0.04
    """Of gray values in [0, 1]: a difference of neighbors that halves the cost of a jump."""
    expectation: float = 0.08
    """What it costs to be an e-th or e times as deep as expected; farther costs no more."""
    agreement: float = 0.02
    """Of depth: two frames that differ by less agree."""
    agreeing_sources: int = 2
    """So many must agree, or all where there are fewer."""
    least_likeness: float = 0.5
    """Correlation from which on a pixel can be proven."""
    company: float = 0.4
    """Of the pixels about one, those that must be proven too, at a depth within `company_range` of its own."""
    company_range: float = 0.1


@dataclass(frozen=True)
class StereoDepths:
    """Depth as pictures tell it."""

    depths: Float[Tensor, "time height width"]
    """As expected where no frame has a neighbor to be compared with."""
    verified: Bool[Tensor, "time height width"]
    """Where the picture looks alike at that depth, and other frames found the same surface."""


def stereo_depths(
    pictures: Float[Tensor, "time height width"],
    cameras: Cameras,
    expected: Float[Tensor, "time height width"],
    config: StereoConfig = StereoConfig(),
) -> StereoDepths:
    """Depth of gray pictures in [0, 1] by cameras of their size, near what is `expected` where pictures are smooth."""
    patterns = _normalized(pictures, config.window)
    neighbors = [_neighbors(cameras, expected, frame, config) for frame in range(len(pictures))]
    depths, likeness = expected.clone(), torch.zeros_like(expected)
    for frame, sources in enumerate(neighbors):
        if len(sources):
            views = [_View(cameras, frame, source) for source in sources.tolist()]
            depths[frame], likeness[frame] = _searched(pictures[frame], patterns, views, expected[frame], config)
    proven = likeness >= config.least_likeness
    for frame, sources in enumerate(neighbors):
        if len(sources):
            proven[frame] &= _agreeing(cameras, depths, frame, sources, config)
            proven[frame] &= _in_company(depths[frame], proven[frame], config)
    return StereoDepths(depths, proven)


def _searched(
    picture: Float[Tensor, "height width"],
    patterns: Float[Tensor, "time height width"],
    views: list["_View"],
    expected: Float[Tensor, "height width"],
    config: StereoConfig,
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """The depth of one frame, first among planes and then about the best of each pixel, and how alike pictures are."""
    planes = _planes(views, expected, config)
    costs = _costs(patterns, views, planes[:, None, None], config)
    surprise = (planes[:, None, None].log() + expected.log()).abs().clamp(max=1)
    best = _semi_global(costs + config.expectation * surprise, picture, config).argmin(dim=0, keepdim=True)
    inverse, cost = planes[best[0]], costs.gather(0, best)[0]
    for step in config.fine_steps:
        steps = step * (planes[1] - planes[0]) * torch.arange(-3.0, 4.0)
        around = (inverse + steps[:, None, None]).clamp(min=planes[0])
        cost, nearest = _costs(patterns, views, around, config).min(dim=0)
        inverse = around.gather(0, nearest[None])[0]
    return 1 / inverse, 1 - cost


class _View:
    """Where pixels of a frame are seen in a source, at any inverse depth w: at (infinite p + w epipole)."""

    def __init__(self, cameras: Cameras, frame: int, source: int) -> None:
        to_source = cameras.cam_from_world[source] @ cameras.world_from_cam[frame]
        self.frame, self.source = frame, source
        self.infinite = cameras.intrinsics[source] @ to_source[:3, :3] @ torch.linalg.inv(cameras.intrinsics[frame])
        self.epipole = cameras.intrinsics[source] @ to_source[:3, 3]

    def pixels(
        self, size: tuple[int, int], inverse: Float[Tensor, "plane #height #width"]
    ) -> tuple[Float[Tensor, "plane height width 2"], Bool[Tensor, "plane height width"]]:
        """The pixels (x, y) of the source, and whether they are in front of it."""
        grid = torch.cat([pixel_grid(*size), torch.ones(*size, 1)], dim=-1)
        x, y, z = ((grid @ row)[None] + inverse * shift for row, shift in zip(self.infinite, self.epipole, strict=True))
        depth = z.clamp(min=1e-6)
        return torch.stack([x / depth, y / depth], dim=-1), z > 1e-6


def _neighbors(cameras: Cameras, expected: Tensor, frame: int, config: StereoConfig) -> Int[Tensor, " source"]:
    """The frames with the best view of what `frame` sees: much of it in the picture, under enough parallax."""
    points = _points(cameras, expected, frame)[::4, ::4].flatten(0, 1).expand(len(expected), -1, -1)
    overlap = project_points(cameras, points, (expected.shape[1], expected.shape[2])).inside.float().mean(dim=1)
    rays = F.normalize(points - cameras.centers[:, None], dim=-1)
    parallax = torch.linalg.cross(rays, rays[frame].expand_as(rays)).norm(dim=-1).median(dim=1).values
    is_between = (parallax >= config.least_parallax) & (parallax <= config.most_parallax)
    score = overlap * (parallax / config.plenty_of_parallax).clamp(max=1)
    score = torch.where(is_between & (overlap >= config.least_overlap), score, 0.0)
    best = score.topk(min(config.sources, len(score))).indices
    return best[score[best] > 0]


def _points(cameras: Cameras, depths: Tensor, frame: int) -> Float[Tensor, "height width 3"]:
    in_camera = unproject_map(depths[frame], cameras.intrinsics[frame])
    return transform_points(cameras.world_from_cam[frame], in_camera)


def _planes(views: list[_View], expected: Float[Tensor, "height width"], config: StereoConfig) -> Tensor:
    """Inverse depths at even distances, which are even steps in any other picture."""
    some = expected.flatten()[stratified_indices(expected.numel(), 10000)]
    near, far = some.quantile(torch.tensor([0.01, 0.99])).tolist()
    first, last = 1 / (far * config.range_factor), config.range_factor / near
    size, ends = (expected.shape[0], expected.shape[1]), torch.tensor([first, last])[:, None, None]
    paths = [float(view.pixels(size, ends)[0].diff(dim=0).norm(dim=-1).median()) for view in views]
    count = int(max(paths) / config.plane_step)
    return torch.linspace(first, last, min(max(count, config.fewest_planes), config.most_planes))


def _costs(
    patterns: Float[Tensor, "time height width"],
    views: list[_View],
    inverse: Float[Tensor, "plane #height #width"],
    config: StereoConfig,
) -> Float[Tensor, "plane height width"]:
    """1 - correlation of the window about each pixel with what a source shows there, of the better half of sources."""
    height, width = patterns.shape[1:]
    costs = []
    for view in views:
        pixels, in_front = view.pixels((height, width), inverse)
        normalized = 2 * pixels / pixels.new_tensor([width, height]) - 1
        shown = F.grid_sample(
            patterns[view.source].expand(len(pixels), 1, -1, -1),
            normalized,
            padding_mode="border",
            align_corners=False,
        )[:, 0]
        inside = in_front & (normalized.abs() <= 1).all(dim=-1)
        # Of values with mean 0 and variance 1 the mean squared difference is 2 - 2 correlation.
        cost = 0.5 * _mean_about((shown - patterns[view.frame]).square(), config.window)
        costs.append(torch.where(inside, cost, 1.0))
    return _mean_of_better_half(costs).clamp(max=1)


def _mean_of_better_half(costs: list[Tensor]) -> Tensor:
    """The mean of the smaller half: a source from which a pixel is hidden has no voice."""
    smallest: list[Tensor] = []
    for cost in costs:
        left = cost
        for place, kept in enumerate(smallest):
            smallest[place], left = torch.minimum(kept, left), torch.maximum(kept, left)
        if len(smallest) < (len(costs) + 1) // 2:
            smallest.append(left)
    return torch.stack(smallest).mean(dim=0)


def _normalized(pictures: Float[Tensor, "time height width"], window: int) -> Float[Tensor, "time height width"]:
    """Each pixel less the mean about it, in standard deviations about it."""
    mean = _mean_about(pictures, window)
    variance = (_mean_about(pictures.square(), window) - mean.square()).clamp(min=0)
    return (pictures - mean) / (variance + LEAST_VARIANCE).sqrt()


def _mean_about(values: Float[Tensor, "n height width"], window: int) -> Float[Tensor, "n height width"]:
    """The mean of a square window, row by row and then column by column."""
    half = window // 2
    values = F.avg_pool2d(values[:, None], (1, window), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(values, (window, 1), 1, (half, 0), count_include_pad=False)[:, 0]


def _semi_global(costs: Float[Tensor, "plane height width"], picture: Tensor, config: StereoConfig) -> Tensor:
    """The sum over four directions of the cheapest way to get to each pixel at each plane."""
    total = torch.zeros_like(costs)
    for axis in (1, 2):
        difference = picture.diff(dim=axis - 1).abs()
        jump = config.large_jump / (1 + difference / config.edge)
        along, jumps = costs.movedim(axis, 0), jump.movedim(axis - 1, 0)
        ways = (
            _cheapest_ways(along, jumps, config.small_jump),
            _cheapest_ways(along.flip(0), jumps.flip(0), config.small_jump).flip(0),
        )
        total += (ways[0] + ways[1]).movedim(0, axis)
    return total


def _cheapest_ways(costs: Float[Tensor, "step plane line"], jumps: Float[Tensor, "gap line"], small: float) -> Tensor:
    ways = torch.empty_like(costs)
    ways[0] = costs[0]
    for step in range(1, len(costs)):
        before = ways[step - 1]
        least = before.min(dim=0).values
        best = torch.minimum(before, least + jumps[step - 1].clamp(min=small))
        best[1:] = torch.minimum(best[1:], before[:-1] + small)
        best[:-1] = torch.minimum(best[:-1], before[1:] + small)
        ways[step] = costs[step] + best - least
    return ways


def _agreeing(
    cameras: Cameras, depths: Float[Tensor, "time height width"], frame: int, sources: Tensor, config: StereoConfig
) -> Bool[Tensor, "height width"]:
    """Where enough of the sources have the same surface at the pixel that sees it."""
    points = _points(cameras, depths, frame).flatten(0, 1).expand(len(sources), -1, -1)
    chosen = Cameras(cameras.world_from_cam[sources], cameras.intrinsics[sources])
    there = project_points(chosen, points, (depths.shape[1], depths.shape[2]))
    found = depths[sources[:, None], *there.places()]
    agrees = there.inside & ((there.depths / found - 1).abs() <= config.agreement)
    return (agrees.sum(dim=0) >= min(config.agreeing_sources, len(sources))).reshape(depths.shape[1:])


def _in_company(
    depths: Float[Tensor, "height width"], proven: Bool[Tensor, "height width"], config: StereoConfig
) -> Bool[Tensor, "height width"]:
    """Where enough pixels around lie on the same surface: what agrees by chance does so alone."""
    window, values = config.window, torch.where(proven, depths, torch.inf)
    around = F.unfold(F.pad(values[None, None], [window // 2] * 4, value=torch.inf), window)[0]
    alike = (around / depths.flatten() - 1).abs() <= config.company_range
    return (alike.float().mean(dim=0) >= config.company).reshape(depths.shape)
