"""How far the camera's path is from the true one after a similarity has laid it over, and how far off each step is.

The similarity is fitted to the centers of the frames that are placed (Umeyama 1991), as the tool evo and the papers do.
Where they skip a clip (a camera that stands still, too few frames), the score is undefined and says why.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_sim3
from recon4d.eval.metrics.cameras import SAME_PLACE, median_depth
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import (
    invert,
    rotation_angle,
    transform_cameras,
    transform_points,
)
from recon4d.records import Scene

LEAST_FRAMES = 3
"""Fewer centers can always be laid over each other by a similarity."""
STANDS_STILL = 1e-6
"""A camera whose centers stay within this share of the scene's median depth stands still."""
ALIGNED_BY = "sim3 of cameras"

TRAJECTORY_METRICS: tuple[Metric, ...] = (
    Metric(
        "ate",
        "m",
        "lower",
        "Absolute trajectory error on registered frames: root mean square distance of the camera centers after the "
        "similarity that fits them best.",
    ),
    Metric("ate_of_path", "ratio", "lower", "The absolute trajectory error (ate) over the length of the true path."),
    Metric(
        "ate_all",
        "m",
        "lower",
        "Absolute trajectory error on all frames: those that are not placed have the camera of the nearest one that "
        "is (the earlier of two), then as ate.",
    ),
    Metric(
        "rpe_translation",
        "m",
        "lower",
        "Relative error of the step from one frame to the next, where both are placed: root mean square length of the "
        "translation that is left, after the similarity of ate.",
    ),
    Metric(
        "rpe_rotation",
        "degree",
        "lower",
        "Relative error of the step from one frame to the next, where both are placed: root mean square angle of the "
        "rotation that is left.",
    ),
)


@dataclass(frozen=True)
class StepErrors:
    """What is left of each step between neighboring frames: a length in the truth's unit, an angle in degrees."""

    translation: Float[Tensor, "step"]
    rotation: Float[Tensor, "step"]


def align_cameras(predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Alignment:
    """The similarity that fits the predicted centers to the true ones best, in float64 (Umeyama 1991).

    Centers on a line leave a turn about it free, and one of the best answers is given; predicted centers at one place
    are moved to the mean of the true ones, unscaled.
    """
    centers, true_centers = predicted[:, :3, 3].double(), true[:, :3, 3].double()
    return replace(align_sim3(centers, true_centers), name=ALIGNED_BY)


def trajectory_error(predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> float:
    """Root mean square distance of the centers of ``world_from_cam`` after `align_cameras`, in the truth's unit."""
    truth_from_prediction = align_cameras(predicted, true).truth_from_prediction
    left = transform_points(truth_from_prediction, predicted[:, :3, 3].double()) - true[:, :3, 3].double()
    return _root_mean_square(left.norm(dim=-1))


def step_errors(
    predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"], numbers: Int[Tensor, "n"]
) -> StepErrors:
    """What is left of the steps E = (Q_i^-1 Q_i+1)^-1 (P_i^-1 P_i+1), P the predicted cameras after `align_cameras`.

    `numbers` are the frames' numbers, ascending: only frames that are neighbors make a step.
    """
    aligned = transform_cameras(align_cameras(predicted, true).truth_from_prediction, predicted.double())
    before = (numbers.diff() == 1).nonzero()[:, 0]
    step = invert(aligned[before]) @ aligned[before + 1]
    true_step = invert(true[before].double()) @ true[before + 1].double()
    left = invert(true_step) @ step
    return StepErrors(left[:, :3, 3].norm(dim=-1), rotation_angle(left[:, :3, :3]).rad2deg())


def nearest_placed(placed: Bool[Tensor, "time"]) -> Int[Tensor, "time"]:
    """For every frame the number of the nearest placed one, the earlier of two; ValueError where none is placed."""
    if not placed.any():
        raise ValueError(f"none of {len(placed)} frames is placed; wanted at least one")
    numbers = torch.arange(len(placed), device=placed.device)
    distance = (numbers[:, None] - numbers[placed]).abs()
    return numbers[placed][distance.argmin(dim=-1)]


def path_length(centers: Float[Tensor, "n 3"]) -> float:
    """The sum of the steps from each center to the next, in the unit of the centers."""
    return float(centers.double().diff(dim=0).norm(dim=-1).sum())


def stands_still(truth: Scene) -> bool:
    """Whether the true centers stay within 1e-6 of the median true depth, or 1e-9 where no depth is known."""
    centers = truth.cameras.centers[is_registered(truth)].double()
    largest = float(torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").max())
    depth = median_depth(truth)
    return largest < (STANDS_STILL * depth if math.isfinite(depth) else SAME_PLACE)


def trajectory_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `TRAJECTORY_METRICS` of paired scenes, in their order; none where the truth knows no camera."""
    is_known = is_registered(truth)
    total = int(is_known.sum())
    if not total:
        return ()
    is_used = is_registered(prediction) & is_known
    used = int(is_used.sum())
    reason = None
    if used < LEAST_FRAMES:
        reason = f"{used} of {total} frames are placed; wanted at least {LEAST_FRAMES}"
    elif stands_still(truth):
        reason = "the true camera stands still"
    if reason:
        return tuple(undefined(metric.name, total, reason, ALIGNED_BY) for metric in TRAJECTORY_METRICS)

    predicted, true = prediction.cameras.world_from_cam, truth.cameras.world_from_cam
    error = trajectory_error(predicted[is_used], true[is_used])
    length = path_length(truth.cameras.centers[is_known])
    filled = predicted[nearest_placed(is_registered(prediction))]
    error_of_all = trajectory_error(filled[is_known], true[is_known])
    return (
        length_score(Score("ate", error, used, total, ALIGNED_BY), truth),
        Score("ate_of_path", error / length, used, total, ALIGNED_BY),
        length_score(Score("ate_all", error_of_all, total, total, ALIGNED_BY), truth),
        *_step_scores(prediction, truth),
    )


def _step_scores(prediction: Scene, truth: Scene) -> tuple[Score, Score]:
    is_known = is_registered(truth)
    total = int((is_known[1:] & is_known[:-1]).sum())
    numbers = (is_registered(prediction) & is_known).nonzero()[:, 0]
    errors = step_errors(prediction.cameras.world_from_cam[numbers], truth.cameras.world_from_cam[numbers], numbers)
    count = len(errors.rotation)
    if not count:
        note = "no two neighboring frames are placed"
        return (
            undefined("rpe_translation", total, note, ALIGNED_BY),
            undefined("rpe_rotation", total, note, ALIGNED_BY),
        )
    translation = Score("rpe_translation", _root_mean_square(errors.translation), count, total, ALIGNED_BY)
    rotation = Score("rpe_rotation", _root_mean_square(errors.rotation), count, total, ALIGNED_BY)
    return length_score(translation, truth), rotation


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
