"""Sub-pixel tracking of corners through a clip, guided by the approximate matches of a network.

A network matches cells of several pixels, with sub-cell accuracy between adjacent frames and less between distant ones:
good enough to start a search, but too coarse for bundle adjustment. Corners (Shi and Tomasi 1994, "Good Features to
Track") are therefore aligned by `lucas_kanade` in every frame, starting from the frame where they were last found and
displaced by the matches around that place. They are always compared with their first appearance, so that errors do not
accumulate.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices, pixel_indices
from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.refine.grayscale import grayscale_images, working_size
from recon4d.refine.tracks.lucas_kanade import (
    Placement,
    Templates,
    align,
    make_templates,
    ncc,
)

NUM_LEVELS = 3
"""Levels of the image pyramid; each has half the resolution of the one before."""
SEARCH_LEVELS = (2, 3)
"""Numbers of levels that are searched, one after the other until a corner is found. Hand-tuned."""
FINE_RADIUS, COARSE_RADIUS = 7, 4
"""Radius of a template in pixels, at the finest level and at the others. Hand-tuned."""
FINE_STEPS, COARSE_STEPS = 12, 6
"""Largest number of Gauss-Newton steps at the finest level and at the others. With more steps, wrong alignments drift
away and are rejected. Hand-tuned."""
FINE_REACH, COARSE_REACH = 4.0, 6.0
"""Largest distance between start and end of a search in pixels of its level, at the finest level and at the others.
Hand-tuned."""
NUM_GUIDES = 4
"""Number of nearest guides that displace a corner. Hand-tuned."""
NUM_CANDIDATES = 24
"""Number of nearest guides in one frame among which those visible in the other frame are sought. Hand-tuned."""
GUIDE_REACH = 0.08
"""Largest distance between a corner and its nearest guide, as a fraction of the longer side. Hand-tuned."""
SCALE_RANGE = (0.45, 2.2)
"""Range of the singular values of a template's shape: how much smaller or larger it may appear. Hand-tuned."""
MARGIN = 4.0
"""Width of the image border in which corners are not accepted, in pixels. Hand-tuned."""
MAX_MISSES = 3
"""Number of consecutive frames without a match after which a corner is no longer searched for. Hand-tuned."""
GUIDE_STEP = 8
"""Grid step of the guides from a scene's own geometry, in pixels. Hand-tuned."""
OCCLUSION_TOLERANCE = 0.1
"""Largest depth behind the visible surface that counts as visible, relative to that surface's depth. Hand-tuned."""
MIN_CORNER_RESPONSE = 1e-3
"""Smallest response of a corner, relative to the strongest one of the clip. Hand-tuned."""
_EPSILON = 1e-12


@dataclass(frozen=True)
class CornerTrackingConfig:
    """Settings of `track_corners`."""

    side: int = 320
    """Side in pixels of the square with the largest area at which images are searched; they are never enlarged."""
    corners_per_frame: int = 300
    """Approximate number of corners per source frame, spread over the image by a grid."""
    num_source_frames: int = 12
    """Largest number of frames in which corners are detected; evenly spaced in longer clips."""
    min_ncc: float = 0.85
    """Smallest correlation with the first appearance of an accepted corner, up to 1."""


@dataclass(frozen=True)
class _Corners:
    """Corners detected in the source frames."""

    frames: Int[Tensor, " corner"]
    pixels: Float[Tensor, "corner 2"]


def track_corners(
    clip: Clip, scene: Scene, guides: FeatureTracks, config: CornerTrackingConfig = CornerTrackingConfig()
) -> FeatureTracks:
    """Detect corners in a clip and track them through all of its frames.

    Corners are detected where neither `scene.dynamic` nor the mask `ignore` of the clip's priors excludes them. The
    result is deterministic; it has few or no tracks in images without texture.

    Args:
        clip: A single clip.
        scene: Its predicted scene.
        guides: Approximate tracks in pixels of the scene's maps, for example from `reconstruct_and_match`. Corners
            without a guide nearby are not found.
        config: Settings.

    Returns:
        One track per corner, in pixels of the scene's maps.

    Raises:
        ValueError: If one of the inputs is a batch, or if their numbers of frames differ.
    """
    _check_input(clip, scene, guides)
    images = _pyramid(clip, config)
    size = (images[0].shape[1], images[0].shape[2])
    factor = guides.pixels.new_tensor([size[1] / scene.size[1], size[0] / scene.size[0]])
    corners = _detect_corners(images[0], _allowed_pixels(clip, scene, size), config)
    tracker = _CornerTracker(images, corners, FeatureTracks(guides.pixels * factor, guides.visibility), config)

    indices = torch.arange(len(corners.frames)).to(corners.frames)
    pixels = images[0].new_zeros(clip.num_frames, len(indices), 2)
    visibility = images[0].new_zeros(clip.num_frames, len(indices))
    pixels[corners.frames, indices], visibility[corners.frames, indices] = corners.pixels, 1.0
    for targets, found, found_pixels in tracker.track():
        pixels[targets, found], visibility[targets, found] = found_pixels, 1.0
    return FeatureTracks(pixels / factor, visibility)


def scene_guides(scene: Scene, num_source_frames: int = CornerTrackingConfig.num_source_frames) -> FeatureTracks:
    """Compute guides for `track_corners` from the depth and the cameras of a scene.

    Args:
        scene: A single scene.
        num_source_frames: Largest number of frames from which guides start.

    Returns:
        The projections of static pixels on a regular grid of each source frame, visible where they are not occluded.
    """
    height, width = scene.size
    row, column = torch.cartesian_prod(
        *(torch.arange(GUIDE_STEP // 2, side, GUIDE_STEP) for side in (height, width))
    ).unbind(-1)
    over_time = torch.arange(scene.num_frames)[:, None]
    pixels, visibility = [], []
    for source in evenly_spaced_indices(scene.num_frames, num_source_frames).tolist():
        points = scene.points_from_depth[source, row, column].expand(scene.num_frames, -1, -1)
        projected = scene.cameras.project_points(points, scene.size)
        surface = scene.depths[over_time, *pixel_indices(projected.pixels, scene.size)]
        is_unoccluded = projected.depths <= (1 + OCCLUSION_TOLERANCE) * surface
        is_static = ~scene.is_dynamic[source, row, column]
        pixels.append(projected.pixels)
        visibility.append((projected.inside & is_unoccluded & is_static).to(projected.pixels))
    return FeatureTracks(torch.cat(pixels, dim=1), torch.cat(visibility, dim=1))


class _CornerTracker:
    """Search for corners frame by frame, away from the frames in which they were detected."""

    def __init__(
        self, images: list[Tensor], corners: _Corners, guides: FeatureTracks, config: CornerTrackingConfig
    ) -> None:
        self._images, self._corners, self._config = images, corners, config
        self._guides = _NearestGuides(guides, GUIDE_REACH * max(images[0].shape[1:]))
        self._templates: list[Templates] = [
            make_templates(
                image,
                corners.frames,
                corners.pixels / 2**level,
                COARSE_RADIUS if level else FINE_RADIUS,
                with_shape=level == 0,
            )
            for level, image in enumerate(images)
        ]

    def track(self) -> Iterator[tuple[Int[Tensor, " found"], Int[Tensor, " found"], Float[Tensor, "found 2"]]]:
        """Track all corners forward and backward in time.

        Yields frame indices, corner indices and pixels of the corners found, in order of the distance in time.
        """
        time = len(self._images[0])
        corners = torch.arange(len(self._corners.frames)).to(self._corners.frames).repeat(2)
        frames = self._corners.frames.repeat(2)
        direction = torch.ones_like(frames)
        direction[len(frames) // 2 :] = -1
        last, last_frames = Placement.upright(self._corners.pixels.repeat(2, 1)), frames
        num_misses = torch.zeros_like(frames)
        for gap in range(1, time):
            targets = frames + direction * gap
            active = ((targets >= 0) & (targets < time) & (num_misses < MAX_MISSES)).nonzero()[:, 0]
            guided, is_guided = self._guides.displace(last_frames[active], targets[active], last.centers[active])
            start = Placement(guided, last.shapes[active])
            placement, is_found = self._search(corners[active], targets[active], start, is_guided)
            found, found_frames = active[is_found], targets[active[is_found]]
            yield found_frames, corners[found], placement.centers[is_found]

            last = last.replaced(found, placement.take(is_found.nonzero()[:, 0]))
            last_frames = last_frames.index_copy(0, found, found_frames)
            num_misses = num_misses.index_copy(0, active, torch.where(is_found, 0, num_misses[active] + 1))

    def _search(
        self, corners: Int[Tensor, " n"], targets: Int[Tensor, " n"], start: Placement, is_wanted: Bool[Tensor, " n"]
    ) -> tuple[Placement, Bool[Tensor, " n"]]:
        """Search for the wanted corners in the frames `targets`; also return whether they are found.

        Those that are not found from one level of the pyramid are searched for again from the next coarser one.
        """
        placement, is_found = start, torch.zeros_like(is_wanted)
        for num_levels in SEARCH_LEVELS:
            wanted = (is_wanted & ~is_found).nonzero()[:, 0]
            aligned, is_accepted = self._align(corners[wanted], targets[wanted], start.take(wanted), num_levels)
            placement = placement.replaced(wanted, aligned)
            is_found = is_found.index_copy(0, wanted, is_accepted)
        return placement, is_found

    def _align(
        self, corners: Int[Tensor, " n"], targets: Int[Tensor, " n"], start: Placement, num_levels: int
    ) -> tuple[Placement, Bool[Tensor, " n"]]:
        """Align corners to the frames `targets` from coarse to fine; also return whether the result is accepted."""
        placement, is_near = start, torch.ones_like(corners, dtype=torch.bool)
        for level in reversed(range(num_levels)):
            images, templates = self._images[level], self._templates[level].take(corners)
            num_steps, reach = (COARSE_STEPS, COARSE_REACH) if level else (FINE_STEPS, FINE_REACH)
            at_level = Placement(placement.centers / 2**level, placement.shapes)
            aligned = align(templates, images, targets, at_level, num_steps)
            is_near = (aligned.centers - at_level.centers).norm(dim=-1) <= reach
            placement = Placement(aligned.centers * 2**level, aligned.shapes).where(is_near, placement)
        correlation = ncc(self._templates[0].take(corners), self._images[0], targets, placement)
        height, width = self._images[0].shape[1:]
        corner = placement.centers.new_tensor([width - MARGIN, height - MARGIN])
        inside = (placement.centers >= MARGIN).all(dim=-1) & (placement.centers <= corner).all(dim=-1)
        smaller, larger = placement.scales()
        has_valid_scale = (smaller >= SCALE_RANGE[0]) & (larger <= SCALE_RANGE[1])
        return placement, is_near & inside & has_valid_scale & (correlation >= self._config.min_ncc)


class _NearestGuides:
    """Displacement of pixels between frames by the nearest guides."""

    def __init__(self, guides: FeatureTracks, reach: float) -> None:
        from scipy.spatial import KDTree

        self._guides, self._reach = guides, reach
        self._frames, self._numbers = (guides.visibility > 0).nonzero(as_tuple=True)
        # One tree for all frames: the frame is a third coordinate, with steps beyond the reach.
        places = self._with_frame(guides.pixels[self._frames, self._numbers], self._frames)
        self._tree = KDTree(places) if len(places) else None

    def displace(
        self, frames: Int[Tensor, " n"], targets: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
    ) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
        """Displace pixels from `frames` to `targets`; also return whether a guide is near.

        Of the `NUM_CANDIDATES` nearest guides in `frames`, the `NUM_GUIDES` nearest that are visible in `targets` too
        are used.
        """
        if self._tree is None:
            return pixels, torch.zeros_like(frames, dtype=torch.bool)
        distances, places = self._tree.query(
            self._with_frame(pixels, frames), k=NUM_CANDIDATES, distance_upper_bound=self._reach
        )
        is_near = torch.from_numpy(places < self._tree.n).to(pixels.device)
        places = torch.from_numpy(places).to(pixels.device).clamp(max=self._tree.n - 1)
        numbers = self._numbers[places]
        certainty = torch.minimum(
            self._guides.visibility[frames[:, None], numbers], self._guides.visibility[targets[:, None], numbers]
        )
        is_usable = is_near & (certainty > 0)
        is_usable &= is_usable.cumsum(dim=1) <= NUM_GUIDES
        squares = torch.from_numpy(distances).to(pixels).nan_to_num(posinf=0).square()
        weights = torch.where(is_usable, certainty / (squares + 1), 0.0)
        flow = self._guides.pixels[targets[:, None], numbers] - self._guides.pixels[frames[:, None], numbers]
        shift = (weights[..., None] * flow).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=_EPSILON)
        return pixels + shift, is_usable.any(dim=1)

    def _with_frame(self, pixels: Float[Tensor, "n 2"], frames: Int[Tensor, " n"]) -> NDArray[np.float64]:
        beyond = 2 * self._reach * frames.to(pixels)
        return torch.cat([pixels, beyond[:, None]], dim=1).double().cpu().numpy()


def _pyramid(clip: Clip, config: CornerTrackingConfig) -> list[Float[Tensor, "time height width"]]:
    """Compute the grayscale image pyramid, finest level first."""
    from kornia.geometry.transform import build_pyramid

    size = working_size(clip.size, config.side, multiple=2 ** (NUM_LEVELS - 1))
    finest = grayscale_images(clip, size)[:, None]
    return [level[:, 0] for level in build_pyramid(finest, NUM_LEVELS)]


def _allowed_pixels(clip: Clip, scene: Scene, size: tuple[int, int]) -> Bool[Tensor, "time height width"]:
    """Compute the mask of pixels where corners may be detected: neither dynamic nor ignored."""
    allowed = _nearest(~scene.is_dynamic, size)
    if clip.priors is not None and clip.priors.ignore is not None:
        allowed &= ~_nearest(clip.priors.ignore, size)
    return allowed


def _nearest(
    masks: Bool[Tensor, "time height width"], size: tuple[int, int]
) -> Bool[Tensor, "time new_height new_width"]:
    """Resize masks by taking the nearest pixels; as bytes, because the masks of large photos would be too large."""
    return F.interpolate(masks[:, None].view(torch.uint8), size, mode="nearest-exact")[:, 0].bool()


def _detect_corners(
    images: Float[Tensor, "time height width"],
    allowed: Bool[Tensor, "time height width"],
    config: CornerTrackingConfig,
) -> _Corners:
    """Detect the strongest corner of every cell of a grid in the source frames, if it is strong enough."""
    from kornia.feature import gftt_response

    time, height, width = images.shape
    sources = evenly_spaced_indices(time, config.num_source_frames)
    response = gftt_response(images[sources, None])[:, 0]
    response = torch.where(allowed[sources], response, 0.0)
    response = F.pad(response[:, FINE_RADIUS:-FINE_RADIUS, FINE_RADIUS:-FINE_RADIUS], [FINE_RADIUS] * 4)
    side = max(2, round((height * width / config.corners_per_frame) ** 0.5))
    strongest, place = F.max_pool2d(response, side, ceil_mode=True, return_indices=True)
    is_corner = strongest > MIN_CORNER_RESPONSE * response.max()
    source, row, column = is_corner.nonzero(as_tuple=True)
    pixel = place[source, row, column]
    return _Corners(sources[source], torch.stack([pixel % width, pixel // width], dim=-1) + 0.5)


def _check_input(clip: Clip, scene: Scene, guides: FeatureTracks) -> None:
    if clip.batch_shape or scene.batch_shape or not clip.num_frames == scene.num_frames == len(guides.visibility):
        raise ValueError(
            f"expected one clip with a scene and guides of its frames, got {tuple(clip.images.shape[:-3])} frames, a "
            f"scene of {tuple(scene.depths.shape[:-2])} and guides through {len(guides.visibility)}"
        )
