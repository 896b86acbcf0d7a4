"""Loop closure: places that the camera revisits, found by local features and verified by geometry.

Keyframes that look alike and are far apart in time are proposed. Frames of the late window are then located in the
early window: by features, PnP with RANSAC and bundle adjustment, as `recon4d.locate` does, which determines rotation
and translation. The ratio of the depths that both windows give to the same features determines the scale. A measurement
is accepted only if several frames agree on it, if the depth maps of both windows agree, and if other loops or the path
of the camera confirm it (`loop_consistency`): a wrong loop would bend everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import similarity, transform_points
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.loop_consistency import Loop, Tolerance, differs
from recon4d.inference.windows.place_recognition import choose_keyframes
from recon4d.inference.windows.pose_graph import Edge
from recon4d.inference.windows.robust_similarity import robust_mean
from recon4d.inference.windows.window_alignment import is_static
from recon4d.inference.windows.work_folder import WorkFolder
from recon4d.io.long_clips import LongClip
from recon4d.records import Scene
from recon4d.refine.localization.localize import IntrinsicsHypothesis, localize
from recon4d.refine.localization.scene_views import SceneView, view_frame
from recon4d.refine.no_solution import NoSolution

DEPTH_TOLERANCE = 0.05
"""Largest difference between two depths of the same surface, as a fraction of depth. Hand-tuned."""
MIN_OVERLAP = 0.1
"""Smallest fraction of one frame's points that must project into the other image. Hand-tuned."""
FRAME_STEP = 2
"""Distance between the frames of a window that are matched with those of another one. Hand-tuned."""
MAX_DEPTH_DEVIATION = 0.1
"""Largest median deviation of the log ratios of depths from their mean. Hand-tuned."""
SAME_PLACE = Tolerance(degrees=2.0, log_scale=0.05, translation=0.05)
"""Largest difference of measurements of one loop by different frames. Hand-tuned."""


@dataclass(frozen=True)
class LoopConfig:
    """How revisited places are found and verified."""

    min_windows_apart: int = 3
    """Smallest difference between the numbers of two windows that may close a loop, at least 2."""
    min_agreement: float = 0.5
    """Smallest fraction of the points of one frame, of those in the other image, that must have the depth found
    there."""
    max_pairs: int = 64
    """Largest number of pairs of windows that are verified; each takes a few seconds."""

    def __post_init__(self) -> None:
        if self.min_windows_apart < 2 or self.max_pairs < 1:
            raise UserError(
                f"min_windows_apart is {self.min_windows_apart} and max_pairs is {self.max_pairs}; they must be at "
                "least 2 and 1"
            )
        if not 0 < self.min_agreement <= 1:
            raise UserError(f"min_agreement is {self.min_agreement:g}; it must be above 0 and at most 1")


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
    score: float
    """Product of the descriptions of both frames, at most 1."""


def find_loop_pairs(
    windows: Sequence[Window], places: Float[Tensor, "keyframe values"], config: LoopConfig
) -> list[LoopPair]:
    """Find pairs of frames that look alike: the best pair of every two windows that are far enough apart.

    Two pairs are redundant if their early windows are at most one apart and their late windows are too; only the more
    similar one is kept.

    Args:
        windows: Overlapping windows of the clip.
        places: Descriptions of the keyframes of all windows (`choose_keyframes`), window by window.
        config: Thresholds.

    Returns:
        At most ``config.max_pairs`` pairs, the most similar first.
    """
    keyframes = [choose_keyframes(window) for window in windows]
    described = places.split([len(numbers) for numbers in keyframes])
    found = []
    for late in windows:
        for early in windows[: max(0, late.number - config.min_windows_apart + 1)]:
            score = described[early.number] @ described[late.number].T
            row, column = divmod(int(score.argmax()), score.shape[1])
            frames = keyframes[early.number][row], keyframes[late.number][column]
            found.append(LoopPair(early, late, *frames, float(score[row, column])))
    found.sort(key=lambda pair: (-pair.score, pair.early_frame, pair.late_frame))
    kept: list[LoopPair] = []
    for pair in found:
        is_redundant = any(
            abs(pair.early.number - other.early.number) <= 1 and abs(pair.late.number - other.late.number) <= 1
            for other in kept
        )
        if not is_redundant and pair.score > 0:
            kept.append(pair)
        if len(kept) == config.max_pairs:
            break
    return kept


def measure_loop(
    pair: LoopPair, long_clip: LongClip, work: WorkFolder, static_below: float, min_agreement: float
) -> Loop | None:
    """Measure the similarity between two windows by locating frames of the late one in the early one.

    Args:
        pair: The two frames.
        long_clip: The clip to read frames from.
        work: Holds the reconstructions of all windows.
        static_below: Pixels with a dynamic probability of this or more are not used by the comparison of depth maps.
        min_agreement: Smallest `depth_agreement` of the two frames.

    Returns:
        The measurement; None if the geometry does not confirm that both frames show the same place.
    """
    early, late = work.load_window_scene(pair.early.number), work.load_window_scene(pair.late.number)
    views = _views(long_clip, pair.early, early, pair.early_frame)
    measured = [_measure(view, views) for view in _views(long_clip, pair.late, late, pair.late_frame)]
    found = sorted((one for one in measured if one is not None), key=lambda one: -one[1])
    if not found:
        return None
    early_from_late, num_inliers = found[0]
    length = float(early.depths[early.depth_confidence > 0].median())
    num_agreeing = sum(not differs(early_from_late, other, length, SAME_PLACE) for other, _ in found)
    if num_agreeing < min(2, len(measured)):
        return None
    early_scene = early.frames(pair.early.positions((pair.early_frame,)))
    late_scene = late.frames(pair.late.positions((pair.late_frame,)))
    if depth_agreement(early_scene, late_scene, early_from_late, static_below) < min_agreement:
        return None
    return Loop(Edge(pair.early.number, pair.late.number, early_from_late), num_inliers)


def _views(long_clip: LongClip, window: Window, scene: Scene, frame: int) -> list[SceneView]:
    """Return the features of a frame of a window and of two frames around it."""
    numbers = [number for number in (frame - FRAME_STEP, frame, frame + FRAME_STEP) if number in window.frames]
    positions = window.positions(tuple(numbers))
    views = [
        view_frame(scene.frames([position]), image)
        for position, image in zip(positions, long_clip.images(numbers), strict=True)
    ]
    return [view for view in views if view is not None]


def _measure(view: SceneView, views: Sequence[SceneView]) -> tuple[Float[Tensor, "4 4"], int] | None:
    """Locate a view of the late window among those of the early one; return early_from_late and the inliers."""
    known = IntrinsicsHypothesis("known", view.intrinsics, 0.0)
    try:
        location = localize(view.features, view.size, views, [known])
    except NoSolution:
        return None
    ratios = (location.depths / view.depths[location.inliers]).log()
    log_scale = robust_mean(ratios)
    if float((ratios - log_scale).abs().median()) > MAX_DEPTH_DEVIATION:
        return None
    scale = torch.tensor(log_scale, dtype=torch.double).exp()
    scaled = similarity(scale, torch.eye(3, dtype=torch.double), torch.zeros(3, dtype=torch.double))
    return location.world_from_cam @ scaled @ view.cam_from_world, location.num_inliers


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
    projected = one.cameras.map(torch.Tensor.double).project_points(points[None], one.size)
    inside = projected.inside[0]
    static = (one.depth_confidence > 0) & is_static(one, static_below)
    nearest, farthest, on_static = _depth_range_around(one, static, projected.pixels[0, inside])
    depths = projected.depths[0, inside]
    if on_static.sum() < MIN_OVERLAP * max(1, len(points)):
        return 0.0
    agrees = (depths > (1 - DEPTH_TOLERANCE) * nearest) & (depths < (1 + DEPTH_TOLERANCE) * farthest)
    return float(agrees[on_static].double().mean())


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
