"""Corners followed through a clip to a fraction of a pixel, from where a network's matches say that they went.

A network matches cells of several pixels, right to a part of one between neighboring frames and worse between distant
ones: enough to begin a search, and too little for bundle adjustment. Corners (Shi and Tomasi 1994) are looked
for in every frame from where they were last found, guided by the matches about that place. They are always compared
with how they looked at first, so that errors do not add up.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import evenly_spaced
from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.refine.grayscale import gray_pictures, searched_size
from recon4d.refine.projection import project_points
from recon4d.refine.tracks.lucas_kanade import (
    Placement,
    Templates,
    align,
    make_templates,
    ncc,
)

LEVELS = 3
"""Pictures of half the size each, coarse ones first: a search reaches twice as far in the next."""
FINE_RADIUS, COARSE_RADIUS = 7, 5
"""Pixels of a patch to each side of its center, in the finest picture and in the others."""
FINE_STEPS, COARSE_STEPS = 8, 6
FINE_REACH, COARSE_REACH = 4.0, 6.0
"""Pixels of its picture that a search may end from where it began."""
NEAREST_GUIDES = 4
GUIDE_REACH = 0.08
"""Of the longer side: matches farther away say nothing of a corner."""
SHAPES = (0.45, 2.2)
"""How much smaller or larger a patch may look, in any direction."""
MARGIN = 4.0
"""Pixels from the border of a picture within which nothing is found."""
MOST_MISSES = 3
"""Frames in a row without a corner, after which it is given up."""
GRID_STEP = 8
"""Pixels between the guides that a scene makes."""
BEHIND = 0.1
"""Of the depth that is seen: what lies farther behind it is hidden."""
LEAST_CORNER = 1e-3
"""Of the clip's sharpest corner; what is weaker is not followed."""


@dataclass(frozen=True)
class CornerTrackingConfig:
    """How corners are followed."""

    side: int = 320
    """Pictures are searched at about the area of a square of this side, and never enlarged."""
    corners_a_frame: int = 300
    most_sources: int = 12
    """Frames whose corners are followed; of longer clips, evenly spaced ones."""
    least_likeness: float = 0.85
    """Correlation with how a corner looked at first, from which on it is found."""


@dataclass(frozen=True)
class _Corners:
    """Corners of some frames, all in one row."""

    frames: Int[Tensor, " corner"]
    pixels: Float[Tensor, "corner 2"]


def track_corners(
    clip: Clip, scene: Scene, guides: FeatureTracks, config: CornerTrackingConfig = CornerTrackingConfig()
) -> FeatureTracks:
    """Where corners of `clip` are seen in its frames, in pixels of the maps of `scene`.

    `guides` are rough tracks in the same pixels (`reconstruct_and_match`): what is not near any of them is not found.
    Corners on what moves by `scene`, or is to be ignored by `clip.known`, are not followed. Tracks may be few or none
    where pictures are smooth. Deterministic. Raises ``ValueError`` for a batch, and where frames do not correspond.
    """
    _check(clip, scene, guides)
    pictures = _pyramid(clip, config)
    size = (pictures[0].shape[1], pictures[0].shape[2])
    factor = guides.pixels.new_tensor([size[1] / scene.size[1], size[0] / scene.size[0]])
    corners = _corners(pictures[0], _may_start(clip, scene, size), config)
    search = _Search(pictures, corners, FeatureTracks(guides.pixels * factor, guides.visibility), config)

    numbers = torch.arange(len(corners.frames))
    pixels = pictures[0].new_zeros(clip.num_frames, len(numbers), 2)
    seen = pictures[0].new_zeros(clip.num_frames, len(numbers))
    pixels[corners.frames, numbers], seen[corners.frames, numbers] = corners.pixels, 1.0
    for direction in (1, -1):
        for targets, chosen, found in search.along(direction):
            pixels[targets, chosen], seen[targets, chosen] = found, 1.0
    return FeatureTracks(pixels / factor, seen)


def scene_guides(scene: Scene, most_sources: int = CornerTrackingConfig.most_sources) -> FeatureTracks:
    """Guides from a scene's own depth and cameras: where still pixels of each source frame are seen elsewhere."""
    height, width = scene.size
    row, column = torch.cartesian_prod(
        *(torch.arange(GRID_STEP // 2, side, GRID_STEP) for side in (height, width))
    ).unbind(-1)
    over_time = torch.arange(scene.num_frames)[:, None]
    pixels, seen = [], []
    for source in evenly_spaced(scene.num_frames, most_sources).tolist():
        points = scene.points_from_depth[source, row, column].expand(scene.num_frames, -1, -1)
        there = project_points(scene.cameras, points, scene.size)
        in_front = there.depths <= (1 + BEHIND) * scene.depths[over_time, *there.places()]
        stands = ~(scene.dynamic[source, row, column] > 0.5)
        pixels.append(there.pixels)
        seen.append((there.inside & in_front & stands).to(there.pixels))
    return FeatureTracks(torch.cat(pixels, dim=1), torch.cat(seen, dim=1))


class _Search:
    """Looks for corners, from frame to frame away from their own."""

    def __init__(
        self,
        pictures: list[Tensor],
        corners: _Corners,
        guides: FeatureTracks,
        config: CornerTrackingConfig,
    ) -> None:
        self._pictures, self._corners, self._guides, self._config = pictures, corners, guides, config
        self._templates: list[Templates] = [
            make_templates(picture, corners.frames, corners.pixels / 2**level, COARSE_RADIUS if level else FINE_RADIUS)
            for level, picture in enumerate(pictures)
        ]
        self._reach = GUIDE_REACH * max(pictures[0].shape[1:])

    def along(
        self, direction: int
    ) -> Iterator[tuple[Int[Tensor, " found"], Int[Tensor, " found"], Float[Tensor, "found 2"]]]:
        """Frames, numbers of corners and pixels of what is found at each distance in time, nearest first."""
        frames, time = self._corners.frames, len(self._pictures[0])
        last, last_frames = Placement.upright(self._corners.pixels), frames
        misses = torch.zeros_like(frames)
        for gap in range(1, time):
            targets = frames + direction * gap
            chosen = ((targets >= 0) & (targets < time) & (misses < MOST_MISSES)).nonzero()[:, 0]
            if not len(chosen):
                return
            guided, is_guided = self._guided(last_frames[chosen], targets[chosen], last.centers[chosen])
            start = Placement(guided, last.shapes[chosen])
            found, is_found = self._found(chosen, targets[chosen], start)
            is_found &= is_guided
            yield targets[chosen[is_found]], chosen[is_found], found.centers[is_found]

            last = Placement(last.centers.clone(), last.shapes.clone())
            last.centers[chosen[is_found]] = found.centers[is_found]
            last.shapes[chosen[is_found]] = found.shapes[is_found]
            last_frames = last_frames.index_copy(0, chosen[is_found], targets[chosen[is_found]])
            misses = misses.index_copy(0, chosen, torch.where(is_found, 0, misses[chosen] + 1))

    def _found(
        self, chosen: Int[Tensor, " chosen"], targets: Int[Tensor, " chosen"], start: Placement
    ) -> tuple[Placement, Bool[Tensor, " chosen"]]:
        """Where corners are in `targets`, from coarse pictures to fine, and whether that is certain."""
        placed, is_near = start, torch.ones_like(chosen, dtype=torch.bool)
        for level in reversed(range(LEVELS)):
            picture, templates = self._pictures[level], self._templates[level].take(chosen)
            steps, reach = (COARSE_STEPS, COARSE_REACH) if level else (FINE_STEPS, FINE_REACH)
            at_level = Placement(placed.centers / 2**level, placed.shapes)
            moved = align(templates, picture, targets, at_level, steps, bends=level == 0)
            is_near = (moved.centers - at_level.centers).norm(dim=-1) <= reach
            placed = Placement(moved.centers * 2**level, moved.shapes).where(is_near, placed)
        alike = ncc(self._templates[0].take(chosen), self._pictures[0], targets, placed)
        height, width = self._pictures[0].shape[1:]
        corner = placed.centers.new_tensor([width - MARGIN, height - MARGIN])
        inside = (placed.centers >= MARGIN).all(dim=-1) & (placed.centers <= corner).all(dim=-1)
        stretches = torch.linalg.svdvals(placed.shapes)
        keeps_shape = (stretches[:, 1] >= SHAPES[0]) & (stretches[:, 0] <= SHAPES[1])
        return placed, is_near & inside & keeps_shape & (alike >= self._config.least_likeness)

    def _guided(
        self, frames: Int[Tensor, " corner"], targets: Int[Tensor, " corner"], pixels: Float[Tensor, "corner 2"]
    ) -> tuple[Float[Tensor, "corner 2"], Bool[Tensor, " corner"]]:
        """Where the guides about each pixel of its frame say that it is in its target, and whether there are any."""
        guided, is_guided = pixels.clone(), torch.zeros_like(frames, dtype=torch.bool)
        for frame, target in torch.stack([frames, targets], dim=-1).unique(dim=0).tolist():
            here = ((frames == frame) & (targets == target)).nonzero()[:, 0]
            certain = torch.minimum(self._guides.visibility[frame], self._guides.visibility[target])
            both = (certain > 0).nonzero()[:, 0]
            if len(both) < NEAREST_GUIDES:
                continue
            away = torch.cdist(pixels[here], self._guides.pixels[frame, both])
            nearest, order = away.topk(NEAREST_GUIDES, largest=False)
            weight = certain[both[order]] / (nearest.square() + 1)
            flow = (self._guides.pixels[target, both] - self._guides.pixels[frame, both])[order]
            guided[here] += (weight[..., None] * flow).sum(dim=1) / weight.sum(dim=1, keepdim=True)
            is_guided[here] = nearest[:, 0] <= self._reach
        return guided, is_guided


def _pyramid(clip: Clip, config: CornerTrackingConfig) -> list[Tensor]:
    """Gray pictures (time, height, width) in [0, 1], the finest first, each of half the size of the one before."""
    from kornia.geometry.transform import build_pyramid

    finest = gray_pictures(clip, searched_size(clip.size, config.side, multiple=2 ** (LEVELS - 1)))[:, None]
    return [level[:, 0] for level in build_pyramid(finest, LEVELS)]


def _may_start(clip: Clip, scene: Scene, size: tuple[int, int]) -> Bool[Tensor, "time height width"]:
    """Pixels that stand still, or of which nothing says that they move, and that are not to be ignored."""
    kept = ~(scene.dynamic > 0.5)
    kept = F.interpolate(kept[:, None].float(), size, mode="nearest-exact")[:, 0] > 0.5
    if clip.priors is not None and clip.priors.ignore is not None:
        kept &= F.interpolate((~clip.priors.ignore)[:, None].float(), size, mode="nearest-exact")[:, 0] > 0.5
    return kept


def _corners(
    pictures: Float[Tensor, "time height width"],
    may_start: Bool[Tensor, "time height width"],
    config: CornerTrackingConfig,
) -> _Corners:
    """The sharpest corner of every cell of a grid over the source frames, where there is one."""
    from kornia.feature import gftt_response

    time, height, width = pictures.shape
    sources = evenly_spaced(time, config.most_sources)
    response = gftt_response(pictures[sources, None])[:, 0]
    response = torch.where(may_start[sources], response, 0.0)
    response = F.pad(response[:, FINE_RADIUS:-FINE_RADIUS, FINE_RADIUS:-FINE_RADIUS], [FINE_RADIUS] * 4)
    side = max(2, round((height * width / config.corners_a_frame) ** 0.5))
    sharpest, place = F.max_pool2d(response, side, ceil_mode=True, return_indices=True)
    is_corner = sharpest > LEAST_CORNER * response.max()
    source, row, column = is_corner.nonzero(as_tuple=True)
    pixel = place[source, row, column]
    return _Corners(sources[source], torch.stack([pixel % width, pixel // width], dim=-1) + 0.5)


def _check(clip: Clip, scene: Scene, guides: FeatureTracks) -> None:
    if clip.batch_shape or scene.batch_shape or not clip.num_frames == scene.num_frames == len(guides.visibility):
        raise ValueError(
            f"wanted one clip with a scene and guides of its frames, given {tuple(clip.images.shape[:-3])} frames, a "
            f"scene of {tuple(scene.depths.shape[:-2])} and guides through {len(guides.visibility)}"
        )
