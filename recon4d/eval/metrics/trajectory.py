"""Trajectory metrics after Sim(3) alignment: absolute trajectory error and relative pose error.

The similarity transform is fitted to the camera centers of the registered frames (Umeyama 1991), as in the tool evo and
in the literature. Clips that the literature skips (static cameras, too few frames) have undefined scores with a note.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_sim3
from recon4d.eval.metrics.cameras import MIN_BASELINE, median_depth
from recon4d.eval.metrics.score import Metric, Score, length, scores, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import invert, rotation_angle, transform_cameras, transform_points
from recon4d.records import Scene

MIN_FRAMES = 3
"""Minimum number of registered frames: a similarity transform aligns fewer centers exactly."""
STATIC_CAMERA_SHARE = 1e-6
"""Largest distance between the centers of a static camera, as a share of the median true depth. Hand-tuned."""
ALIGNED_BY = "sim3 of cameras"
"""Name of the alignment in scores."""


@dataclass(frozen=True)
class StepErrors:
    """Relative pose errors between consecutive frames."""

    translation: Float[Tensor, "step"]
    """Translation errors in the unit of the truth."""
    rotation: Float[Tensor, "step"]
    """Rotation errors in degrees."""


def align_cameras(predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Alignment:
    """Fit a similarity transform to camera centers in float64 (Umeyama 1991).

    For centers on a line, the rotation about it is not determined and one solution is returned. Coinciding predicted
    centers are only translated, to the mean of the true ones.

    Args:
        predicted: Predicted ``world_from_cam``.
        true: True ``world_from_cam`` of the same frames.

    Returns:
        The alignment with the least squared distances.
    """
    centers, true_centers = predicted[:, :3, 3].double(), true[:, :3, 3].double()
    return replace(align_sim3(centers, true_centers), name=ALIGNED_BY)


def trajectory_error(predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> float:
    """Compute the absolute trajectory error.

    Args:
        predicted: Predicted ``world_from_cam``.
        true: True ``world_from_cam`` of the same frames.

    Returns:
        Root mean square distance of the camera centers after `align_cameras`, in the unit of the truth.
    """
    truth_from_prediction = align_cameras(predicted, true).truth_from_prediction
    offsets = transform_points(truth_from_prediction, predicted[:, :3, 3].double()) - true[:, :3, 3].double()
    return _root_mean_square(offsets.norm(dim=-1))


def step_errors(
    predicted: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"], frame_indices: Int[Tensor, "n"]
) -> StepErrors:
    """Compute the relative pose errors E = (Q_i^-1 Q_i+1)^-1 (P_i^-1 P_i+1) of consecutive frames.

    Args:
        predicted: Predicted ``world_from_cam``, which becomes P after `align_cameras`.
        true: True ``world_from_cam`` Q of the same frames.
        frame_indices: Indices of these frames in the clip, ascending. Only frames with consecutive indices form a step.

    Returns:
        Errors of each step.
    """
    aligned = transform_cameras(align_cameras(predicted, true).truth_from_prediction, predicted.double())
    before = (frame_indices.diff() == 1).nonzero()[:, 0]
    step = invert(aligned[before]) @ aligned[before + 1]
    true_step = invert(true[before].double()) @ true[before + 1].double()
    error = invert(true_step) @ step
    return StepErrors(error[:, :3, 3].norm(dim=-1), rotation_angle(error[:, :3, :3]).rad2deg())


def nearest_registered(registered: Bool[Tensor, "time"]) -> Int[Tensor, "time"]:
    """Find the nearest registered frame of every frame.

    Args:
        registered: Mask of the registered frames.

    Returns:
        Indices of the nearest registered frames, the earlier one of two.

    Raises:
        ValueError: If no frame is registered.
    """
    if not registered.any():
        raise ValueError(f"none of {len(registered)} frames is registered; at least one is needed")
    indices = torch.arange(len(registered), device=registered.device)
    distance = (indices[:, None] - indices[registered]).abs()
    return indices[registered][distance.argmin(dim=-1)]


def path_length(centers: Float[Tensor, "n 3"]) -> float:
    """Compute the length of a camera path.

    Args:
        centers: Camera centers in the order of time.

    Returns:
        Sum of the distances between consecutive centers, in the unit of the centers.
    """
    return float(centers.double().diff(dim=0).norm(dim=-1).sum())


def has_static_camera(truth: Scene) -> bool:
    """Check whether the true camera does not move.

    Args:
        truth: True scene with at least one known camera.

    Returns:
        True if the largest distance between camera centers is below 1e-6 of the median true depth (below 1e-9 units if
        no depth is known).
    """
    centers = truth.cameras.centers[is_registered(truth)].double()
    largest = float(torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").max())
    depth = median_depth(truth)
    return largest < (STATIC_CAMERA_SHARE * depth if math.isfinite(depth) else MIN_BASELINE)


@scores(
    "Cameras",
    length(
        "ate",
        "Absolute trajectory error over registered frames: root mean square distance of the camera centers after "
        "Sim(3) alignment.",
        is_headline=True,
    ),
    Metric("ate_of_path", "ratio", "lower", "Absolute trajectory error (ate) divided by the length of the true path."),
    length(
        "ate_all",
        "Absolute trajectory error over all frames: an unregistered frame takes the camera of the nearest registered "
        "one (the earlier of two).",
    ),
    length(
        "rpe_translation",
        "Relative pose error between consecutive registered frames: root mean square translation error after the "
        "Sim(3) alignment of ate.",
    ),
    Metric(
        "rpe_rotation",
        "degree",
        "lower",
        "Relative pose error between consecutive registered frames: root mean square rotation error.",
    ),
    skips="frames",
)
def trajectory_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted camera trajectory.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `trajectory_scores.metrics`, in their order; empty if the truth has no known camera. All are
        undefined with fewer than three registered frames or a static true camera.
    """
    is_known = is_registered(truth)
    total = int(is_known.sum())
    if not total:
        return ()
    is_used = is_registered(prediction) & is_known
    count = int(is_used.sum())
    reason = None
    if count < MIN_FRAMES:
        reason = f"{count} of {total} frames are registered; at least {MIN_FRAMES} are needed"
    elif has_static_camera(truth):
        reason = "the true camera is static"
    if reason:
        return tuple(undefined(metric.name, total, reason, ALIGNED_BY) for metric in trajectory_scores.metrics)

    predicted, true = prediction.cameras.world_from_cam, truth.cameras.world_from_cam
    error = trajectory_error(predicted[is_used], true[is_used])
    path = path_length(truth.cameras.centers[is_known])
    filled = predicted[nearest_registered(is_registered(prediction))]
    error_of_all = trajectory_error(filled[is_known], true[is_known])
    return (
        length_score(Score("ate", error, count, total, ALIGNED_BY), truth),
        Score("ate_of_path", error / path, count, total, ALIGNED_BY),
        length_score(Score("ate_all", error_of_all, total, total, ALIGNED_BY), truth),
        *_step_scores(prediction, truth),
    )


def _step_scores(prediction: Scene, truth: Scene) -> tuple[Score, Score]:
    is_known = is_registered(truth)
    total = int((is_known[1:] & is_known[:-1]).sum())
    indices = (is_registered(prediction) & is_known).nonzero()[:, 0]
    errors = step_errors(prediction.cameras.world_from_cam[indices], truth.cameras.world_from_cam[indices], indices)
    count = len(errors.rotation)
    if not count:
        note = "no two consecutive frames are registered"
        return (
            undefined("rpe_translation", total, note, ALIGNED_BY),
            undefined("rpe_rotation", total, note, ALIGNED_BY),
        )
    translation = Score("rpe_translation", _root_mean_square(errors.translation), count, total, ALIGNED_BY)
    rotation = Score("rpe_rotation", _root_mean_square(errors.rotation), count, total, ALIGNED_BY)
    return length_score(translation, truth), rotation


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
