"""Loops: places seen again much later, found by likeness of pictures and believed only when geometry agrees.

Frames that look alike and lie far apart in time are candidates. Both surroundings are reconstructed together, the
answer is joined to each of the two windows, and so measures where one window stands from the other. That measurement
counts only if the depth of one window, carried over, is what the other window sees there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, project, transform_points
from recon4d.inference.windows.frame_reader import clip_of_frames, masked
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.pose_graph import Edge
from recon4d.inference.windows.window_alignment import NothingSharedError, is_static, join_by_points
from recon4d.inference.windows.work_folder import WorkFolder
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene

THUMBNAIL_SIDE = 12
SAME_DEPTH = 0.05
"""Two depths of one pixel that differ by less than this share are the same surface."""
LEAST_SEEN = 0.1
"""The least share of a frame's points that the other frame must have in its picture."""


@dataclass(frozen=True)
class LoopConfig:
    """When two places of a clip are taken for one."""

    min_windows_apart: int = 3
    """Windows nearer than this are neighbors, and no loop."""
    min_likeness: float = 0.9
    """Correlation of thumbnails, 1 for equal pictures, from which on frames are looked at together."""
    min_agreement: float = 0.5
    """Share of the points of one frame, of those in the other's picture, that must be at the depth found there."""
    max_candidates: int = 32
    """Most pairs that are reconstructed together: each costs as much as a window."""

    def __post_init__(self) -> None:
        if self.min_windows_apart < 2 or self.max_candidates < 1:
            raise ValueError(
                f"min_windows_apart is {self.min_windows_apart} and max_candidates {self.max_candidates}; "
                "wanted at least 2 and 1"
            )
        if not (0 < self.min_likeness <= 1 and 0 < self.min_agreement <= 1):
            raise ValueError(
                f"min_likeness is {self.min_likeness:g} and min_agreement {self.min_agreement:g}; "
                "wanted numbers above 0, at most 1"
            )


@dataclass(frozen=True)
class LoopCandidate:
    """Two frames that look alike, each in the window that owns it."""

    early: Window
    late: Window
    early_frame: int
    late_frame: int
    likeness: float


def thumbnails(long_clip: LongClip) -> Float[Tensor, "time values"]:
    """A small gray picture of every frame, without its mean and of length 1: dot products are correlations."""
    small = [_thumbnail(image) for image in long_clip.images(range(long_clip.num_frames))]
    return torch.stack(small)


def loop_candidates(
    windows: Sequence[Window], small: Float[Tensor, "time values"], config: LoopConfig
) -> list[LoopCandidate]:
    """The best pair of frames of every two windows far enough apart, the most alike first.

    Of candidates between the same two neighborhoods (each window within one of the other's) only the best is kept.
    """
    found = []
    for late in windows:
        for early in windows[: max(0, late.number - config.min_windows_apart + 1)]:
            likeness = small[list(early.owned)] @ small[list(late.owned)].T
            best = int(likeness.argmax())
            if likeness.flatten()[best] >= config.min_likeness:
                row, column = divmod(best, likeness.shape[1])
                value = float(likeness[row, column])
                found.append(LoopCandidate(early, late, early.owned[row], late.owned[column], value))
    found.sort(key=lambda one: (-one.likeness, one.early_frame, one.late_frame))
    kept: list[LoopCandidate] = []
    for one in found:
        is_near = any(
            abs(one.early.number - other.early.number) <= 1 and abs(one.late.number - other.late.number) <= 1
            for other in kept
        )
        if not is_near:
            kept.append(one)
    return kept[: config.max_candidates]


def measure_loop(
    candidate: LoopCandidate,
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    work: WorkFolder,
    static_below: float,
    min_agreement: float,
) -> Edge | None:
    """Where the late window stands from the early one, or None where geometry does not say that they meet.

    Frames around both are reconstructed in one pass, at most as many as a window has.
    """
    early_frames = _around(candidate.early, candidate.early_frame)
    late_frames = _around(candidate.late, candidate.late_frame)
    clip = clip_of_frames(long_clip, [*early_frames, *late_frames])
    together = work.seen(masked(reconstruct_clip(clip), clip))
    early, late = work.load_answer(candidate.early.number), work.load_answer(candidate.late.number)
    count = len(early_frames)
    try:
        early_joint = join_by_points(
            together.frames(slice(0, count)), early.frames(candidate.early.positions(early_frames)), static_below
        )
        late_joint = join_by_points(
            together.frames(slice(count, None)), late.frames(candidate.late.positions(late_frames)), static_below
        )
    except NothingSharedError:
        return None
    early_from_late = early_joint.partner_from_world @ invert(late_joint.partner_from_world)
    seen_early = early.frames(candidate.early.positions((candidate.early_frame,)))
    seen_late = late.frames(candidate.late.positions((candidate.late_frame,)))
    if depth_agreement(seen_early, seen_late, early_from_late, static_below) < min_agreement:
        return None
    return Edge(candidate.early.number, candidate.late.number, early_from_late)


def depth_agreement(one: Scene, other: Scene, one_from_other: Float[Tensor, "4 4"], static_below: float) -> float:
    """The share of the other frame's static points, of those on static pixels of the first, that lie at its depth.

    0 where fewer than a tenth of them fall on such pixels. Both scenes are of a single frame.
    """
    known = (other.depth_confidence > 0) & is_static(other, static_below)
    points = transform_points(one_from_other, other.points_from_depth[known].double())
    in_camera = transform_points(one.cameras.cam_from_world[0].double(), points)
    pixels = project(in_camera, one.cameras.intrinsics[0].double())
    height, width = one.size
    inside = (in_camera[:, 2] > 0) & (pixels >= 0).all(dim=-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    still = (one.depth_confidence > 0) & is_static(one, static_below)
    nearest, farthest, counts = _depths_around(one, still, pixels[inside])
    carried = in_camera[inside, 2]
    if counts.sum() < LEAST_SEEN * max(1, len(points)):
        return 0.0
    is_there = (carried > (1 - SAME_DEPTH) * nearest) & (carried < (1 + SAME_DEPTH) * farthest)
    return float(is_there[counts].double().mean())


def _around(window: Window, frame: int) -> tuple[int, ...]:
    """Half of a window's frames, as near to `frame` as can be."""
    count = max(1, len(window.frames) // 2)
    start = min(max(0, window.frames.index(frame) - count // 2), len(window.frames) - count)
    return window.frames[start : start + count]


def _depths_around(
    scene: Scene, among: Bool[Tensor, "one height width"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """The least and the greatest depth of the four pixels around each place, and whether all four are `among` these."""
    height, width = scene.size
    column = (pixels[:, 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (pixels[:, 1] - 0.5).floor().clamp(0, height - 2).long()
    corners = [(row + down, column + right) for down in (0, 1) for right in (0, 1)]
    depths = torch.stack([scene.depths[0, y, x] for y, x in corners])
    counts = torch.stack([among[0, y, x] for y, x in corners])
    return depths.amin(dim=0), depths.amax(dim=0), counts.all(dim=0)


def _thumbnail(image: Tensor) -> Float[Tensor, "values"]:
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    gray = F.interpolate(image[None].float(), size, mode="area").mean(dim=1).flatten()
    return F.normalize(gray - gray.mean(), dim=0)
