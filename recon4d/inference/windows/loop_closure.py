"""Loop closure: places that the camera revisits, found by image similarity and verified by geometry.

Pairs of frames that look alike and are far apart in time are proposed. The neighborhoods of both frames are
reconstructed together, and the result is aligned with each of the two windows, which measures the similarity between
the windows. The measurement is accepted if the points of one window have the depth that the other window predicts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import invert, project, transform_points
from recon4d.inference.windows.frame_reader import apply_ignore_mask, read_clip_of_frames
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.pose_graph import Edge
from recon4d.inference.windows.window_alignment import TooFewPixelsError, align_by_points, is_static
from recon4d.inference.windows.work_folder import WorkFolder
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene

THUMBNAIL_SIDE = 12
"""Side of the thumbnails by which frames are compared, in pixels. Hand-tuned."""
DEPTH_TOLERANCE = 0.05
"""Largest difference between two depths of the same surface, as a fraction of depth. Hand-tuned."""
MIN_OVERLAP = 0.1
"""Smallest fraction of one frame's points that must project into the other image. Hand-tuned."""


@dataclass(frozen=True)
class LoopConfig:
    """How revisited places are found and verified."""

    min_windows_apart: int = 3
    """Smallest difference between the numbers of two windows that may close a loop, at least 2."""
    min_correlation: float = 0.9
    """Smallest correlation of the thumbnails of two frames (1: equal images) for a pair to be verified."""
    min_agreement: float = 0.5
    """Smallest fraction of the points of one frame, of those in the other image, that must have the depth found
    there."""
    max_pairs: int = 32
    """Largest number of pairs of frames that are verified; each costs as much as one window."""

    def __post_init__(self) -> None:
        if self.min_windows_apart < 2 or self.max_pairs < 1:
            raise UserError(
                f"min_windows_apart is {self.min_windows_apart} and max_pairs is {self.max_pairs}; they must be at "
                "least 2 and 1"
            )
        if not (0 < self.min_correlation <= 1 and 0 < self.min_agreement <= 1):
            raise UserError(
                f"min_correlation is {self.min_correlation:g} and min_agreement is {self.min_agreement:g}; both must "
                "be above 0 and at most 1"
            )


@dataclass(frozen=True)
class LoopPair:
    """Two frames that look alike and may show the same place."""

    early: Window
    """Window that owns the earlier frame."""
    late: Window
    """Window that owns the later frame."""
    early_frame: int
    """Number of the earlier frame in the long clip."""
    late_frame: int
    """Number of the later frame in the long clip."""
    correlation: float
    """Correlation of the thumbnails of both frames, at most 1."""


def thumbnails(long_clip: LongClip) -> Float[Tensor, "time values"]:
    """Compute a small gray image of every frame, normalized so that dot products are correlations.

    Args:
        long_clip: The clip to read.

    Returns:
        Thumbnails (time, values) with mean 0 and norm 1.
    """
    return torch.stack([_thumbnail(image) for image in long_clip.images(range(long_clip.num_frames))])


def find_loop_pairs(
    windows: Sequence[Window], features: Float[Tensor, "time values"], config: LoopConfig
) -> list[LoopPair]:
    """Find pairs of frames that look alike: the best pair of every two windows that are far enough apart.

    Two pairs are redundant if their early windows are at most one apart and their late windows are too; only the one
    with the higher correlation is kept.

    Args:
        windows: Overlapping windows of the clip.
        features: Thumbnails (time, values) of all frames, from `thumbnails`.
        config: Thresholds.

    Returns:
        At most ``config.max_pairs`` pairs in the order of decreasing correlation.
    """
    found = []
    for late in windows:
        for early in windows[: max(0, late.number - config.min_windows_apart + 1)]:
            correlation = features[list(early.owned)] @ features[list(late.owned)].T
            best = int(correlation.argmax())
            if correlation.flatten()[best] >= config.min_correlation:
                row, column = divmod(best, correlation.shape[1])
                value = float(correlation[row, column])
                found.append(LoopPair(early, late, early.owned[row], late.owned[column], value))
    found.sort(key=lambda pair: (-pair.correlation, pair.early_frame, pair.late_frame))
    kept: list[LoopPair] = []
    for pair in found:
        is_redundant = any(
            abs(pair.early.number - other.early.number) <= 1 and abs(pair.late.number - other.late.number) <= 1
            for other in kept
        )
        if not is_redundant:
            kept.append(pair)
    return kept[: config.max_pairs]


def measure_loop(
    pair: LoopPair,
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    work: WorkFolder,
    static_below: float,
    min_agreement: float,
) -> Edge | None:
    """Measure the similarity between two windows from a joint reconstruction of the neighborhoods of two frames.

    The joint reconstruction has at most as many frames as a window.

    Args:
        pair: The two frames.
        reconstruct_clip: Reconstructs a clip, as for `reconstruct_windows`.
        long_clip: The clip to read frames from.
        work: Holds the reconstructions of all windows.
        static_below: Pixels with a dynamic probability of this or more are not used.
        min_agreement: Smallest `depth_agreement` of the two frames.

    Returns:
        The measured similarity; None if the geometry does not confirm that both frames show the same place.
    """
    early_frames = _around(pair.early, pair.early_frame)
    late_frames = _around(pair.late, pair.late_frame)
    clip = read_clip_of_frames(long_clip, [*early_frames, *late_frames])
    both = work.with_shared_intrinsics(apply_ignore_mask(reconstruct_clip(clip), clip))
    early, late = work.load_window_scene(pair.early.number), work.load_window_scene(pair.late.number)
    count = len(early_frames)
    try:
        early_alignment = align_by_points(
            both.frames(slice(0, count)), early.frames(pair.early.positions(early_frames)), static_below
        )
        late_alignment = align_by_points(
            both.frames(slice(count, None)), late.frames(pair.late.positions(late_frames)), static_below
        )
    except TooFewPixelsError:
        return None
    early_from_late = early_alignment.partner_from_world @ invert(late_alignment.partner_from_world)
    early_scene = early.frames(pair.early.positions((pair.early_frame,)))
    late_scene = late.frames(pair.late.positions((pair.late_frame,)))
    if depth_agreement(early_scene, late_scene, early_from_late, static_below) < min_agreement:
        return None
    return Edge(pair.early.number, pair.late.number, early_from_late)


def depth_agreement(one: Scene, other: Scene, one_from_other: Float[Tensor, "4 4"], static_below: float) -> float:
    """Compute the fraction of the other frame's static points that have the depth that the first frame predicts.

    Only points that project to static pixels of the first frame count.

    Args:
        one: Scene of a single frame.
        other: Scene of another single frame, in a world of its own.
        one_from_other: Similarity transform (4, 4) from the world of `other` to that of `one`.
        static_below: Pixels with a dynamic probability of this or more are not used.

    Returns:
        The fraction, from 0 to 1; 0 if less than `MIN_OVERLAP` of the points project to static pixels.
    """
    valid = (other.depth_confidence > 0) & is_static(other, static_below)
    points = transform_points(one_from_other, other.points_from_depth[valid].double())
    in_camera = transform_points(one.cameras.cam_from_world[0].double(), points)
    pixels = project(in_camera, one.cameras.intrinsics[0].double())
    height, width = one.size
    inside = (in_camera[:, 2] > 0) & (pixels >= 0).all(dim=-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    static = (one.depth_confidence > 0) & is_static(one, static_below)
    nearest, farthest, on_static = _depth_range_around(one, static, pixels[inside])
    depths = in_camera[inside, 2]
    if on_static.sum() < MIN_OVERLAP * max(1, len(points)):
        return 0.0
    agrees = (depths > (1 - DEPTH_TOLERANCE) * nearest) & (depths < (1 + DEPTH_TOLERANCE) * farthest)
    return float(agrees[on_static].double().mean())


def _around(window: Window, frame: int) -> tuple[int, ...]:
    """Return the half of a window's frames that is nearest to `frame`."""
    count = max(1, len(window.frames) // 2)
    start = min(max(0, window.frames.index(frame) - count // 2), len(window.frames) - count)
    return window.frames[start : start + count]


def _depth_range_around(
    scene: Scene, mask: Bool[Tensor, "one height width"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """Return the least and greatest depth of the four pixels around each position, and whether all are in `mask`."""
    height, width = scene.size
    column = (pixels[:, 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (pixels[:, 1] - 0.5).floor().clamp(0, height - 2).long()
    corners = [(row + down, column + right) for down in (0, 1) for right in (0, 1)]
    depths = torch.stack([scene.depths[0, y, x] for y, x in corners])
    in_mask = torch.stack([mask[0, y, x] for y, x in corners])
    return depths.amin(dim=0), depths.amax(dim=0), in_mask.all(dim=0)


def _thumbnail(image: Tensor) -> Float[Tensor, "values"]:
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    gray = F.interpolate(image[None].float(), size, mode="area").mean(dim=1).flatten()
    return F.normalize(gray - gray.mean(), dim=0)
