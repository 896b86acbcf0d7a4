"""Camera metrics over pairs of frames (relative rotation and translation direction) and of the field of view.

The metrics compare relative poses. Rotations and translation directions between two cameras do not change under a
similarity transform of the world, so no alignment is needed. A pair with an unregistered frame counts as an error of
180 degrees; frames without a true camera are skipped. The translation direction between two cameras at almost the same
place is meaningless, so it counts only for pairs with a sufficient baseline.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, scores, share, undefined
from recon4d.eval.pairing import is_registered
from recon4d.geometry import field_of_view, rotation_angle
from recon4d.records import Scene

DEGREES = (30, 15, 5)
"""Thresholds N of `auc_N`, `rra_N` and `rta_N`, in degrees; common in the literature."""
HEADLINE_DEGREES = (30, 5)
"""Thresholds N of `auc_N` in the first table of a report."""
MIN_BASELINE_SHARE = 0.01
"""Smallest baseline whose direction counts, as a share of the median true depth. Hand-tuned."""
MIN_BASELINE = 1e-9
"""Largest distance of coinciding cameras if no true depth is known, in units of the truth. Hand-tuned."""
UNDEFINED_DIRECTION_ERROR = 1e6
"""Error of a translation of length zero in the published metrics, in degrees: larger than any threshold."""
NO_BASELINE = "no two true cameras have a sufficient baseline"
"""Note of metrics of the translation direction if no pair has a sufficient baseline."""


@dataclass(frozen=True)
class PairErrors:
    """Errors of the relative poses of all pairs of frames i < j whose true cameras are known."""

    rotation: Float[Tensor, "pair"]
    """Angle of the relative rotation error, in degrees (0 to 180); 180 if a frame is not registered."""
    translation: Float[Tensor, "pair"]
    """Angle between the true and predicted translation directions, in degrees (0 to 180); 180 if a frame is not
    registered or a translation has length zero."""
    translation_folded: Float[Tensor, "pair"]
    """Angle between the translation directions regardless of sign, in degrees (0 to 90); 1e6 if a frame is not
    registered or a translation has length zero."""
    has_baseline: Bool[Tensor, "pair"]
    """Whether the true cameras are far enough apart for the translation to count."""

    @property
    def largest(self) -> Float[Tensor, "pair"]:
        """Larger of rotation and translation error, in degrees; the rotation error for pairs without baseline."""
        return torch.where(self.has_baseline, torch.maximum(self.rotation, self.translation), self.rotation)

    @property
    def largest_folded(self) -> Float[Tensor, "pair"]:
        """Larger of the rotation and the folded translation error, in degrees, as published: for every pair."""
        return torch.maximum(self.rotation, self.translation_folded)


def pair_errors(prediction: Scene, truth: Scene) -> PairErrors:
    """Compute the errors of the relative poses of all pairs of frames.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        Errors of every pair of frames with known true cameras; empty with fewer than two such frames.
    """
    kept = is_registered(truth).nonzero()[:, 0]
    first, second = torch.triu_indices(len(kept), len(kept), offset=1, device=kept.device)
    true = truth.cameras.world_from_cam[kept].double()
    predicted = prediction.cameras.world_from_cam[kept].double()
    is_pair_registered = is_registered(prediction)[kept][first] & is_registered(prediction)[kept][second]

    true_rotation, true_motion = _relative_motion(true[first], true[second])
    rotation, motion = _relative_motion(predicted[first], predicted[second])
    rotation_error = rotation_angle(true_rotation.transpose(-1, -2) @ rotation).rad2deg()
    angle = angle_between(motion, true_motion).rad2deg()
    has_direction = is_pair_registered & (motion.norm(dim=-1) > 0) & (true_motion.norm(dim=-1) > 0)

    return PairErrors(
        rotation=torch.where(is_pair_registered, rotation_error, 180.0),
        translation=torch.where(has_direction, angle, 180.0),
        translation_folded=torch.where(has_direction, torch.minimum(angle, 180 - angle), UNDEFINED_DIRECTION_ERROR),
        has_baseline=has_baseline(true_motion.norm(dim=-1), median_depth(truth)),
    )


def angle_between(a: Float[Tensor, "*batch 3"], b: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Compute the angle between vectors; atan2 keeps small angles accurate.

    Args:
        a: Vectors of nonzero length.
        b: Vectors of nonzero length.

    Returns:
        Angles in radians, from 0 to pi.
    """
    a, b = torch.nn.functional.normalize(a, dim=-1, eps=0), torch.nn.functional.normalize(b, dim=-1, eps=0)
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))


def has_baseline(baselines: Float[Tensor, "pair"], depth: float) -> Bool[Tensor, "pair"]:
    """Find the pairs of cameras whose translation direction is meaningful.

    Args:
        baselines: Distances between the cameras of each pair.
        depth: Median depth of the scene in the same unit; NaN if unknown.

    Returns:
        True where the baseline is at least 1 % of the depth. If the depth is NaN, the largest baseline takes its place;
        all values are then False if all cameras coincide.
    """
    if math.isfinite(depth):
        return baselines >= MIN_BASELINE_SHARE * depth
    largest = baselines.max() if len(baselines) else baselines.new_zeros(())
    return (baselines >= MIN_BASELINE_SHARE * largest) & (largest >= MIN_BASELINE)


def median_depth(truth: Scene) -> float:
    """Compute the median depth of a scene over its known pixels.

    Args:
        truth: A scene without batch axes.

    Returns:
        Median depth in the unit of the scene; NaN if no depth is known.
    """
    known = truth.depths[truth.depth_confidence > 0]
    return float(np.median(known.cpu().numpy())) if len(known) else math.nan


def area_under_curve(errors: Float[Tensor, "n"], degrees: int) -> float:
    """Compute the area under the curve of pose errors with bins of one degree (Jin et al. 2021, binned as in VGGT).

    Args:
        errors: Errors in degrees, at least one.
        degrees: Upper end of the curve, in degrees.

    Returns:
        Mean over t = 1..`degrees` of the share of errors below t degrees.
    """
    return sum(share_below(errors, t) for t in range(1, degrees + 1)) / degrees


def area_under_curve_exact(errors: Float[Tensor, "n"], degrees: int) -> float:
    """Compute the exact area under the curve of pose errors.

    Args:
        errors: Errors in degrees, at least one.
        degrees: Upper end N of the curve, in degrees.

    Returns:
        Mean of max(0, N - error) / N, which is the integral of the share of errors below t over 0 <= t <= N, divided
        by N.
    """
    return float((degrees - errors).clamp(min=0).mean() / degrees)


def share_below(errors: Float[Tensor, "n"], degrees: float) -> float:
    """Compute the share of errors below a threshold.

    Args:
        errors: Errors in degrees, at least one.
        degrees: Threshold in degrees.

    Returns:
        Share of errors that are strictly smaller.
    """
    return float((errors < degrees).double().mean())


def _field_of_view_errors(prediction: Scene, truth: Scene) -> Float[Tensor, "frame"]:
    """Return the absolute errors of the horizontal field of view in degrees, over frames registered in both scenes."""
    registered = is_registered(prediction) & is_registered(truth)
    predicted, true = (
        field_of_view(scene.cameras.intrinsics[registered].double(), *truth.size)[:, 0] for scene in (prediction, truth)
    )
    return (predicted - true).abs().rad2deg()


def focal_errors(prediction: Scene, truth: Scene) -> Float[Tensor, "frame"]:
    """Compute the relative errors of the focal length.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        |f_predicted / f_true - 1| of the frames that are registered in both scenes, where f is the geometric mean of fx
        and fy. Negative focal lengths count as 0.
    """
    registered = is_registered(prediction) & is_registered(truth)
    predicted, true = (
        scene.cameras.intrinsics[registered].double().diagonal(dim1=-2, dim2=-1)[:, :2].clamp(min=0).prod(dim=-1).sqrt()
        for scene in (prediction, truth)
    )
    return (predicted / true - 1).abs()


def _relative_motion(world_from_cam_i: Tensor, world_from_cam_j: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation and translation of ``cam_i_from_cam_j``; the translation of equal centers is exactly zero."""
    cam_i_from_world = world_from_cam_i[:, :3, :3].transpose(-1, -2)
    step = world_from_cam_j[:, :3, 3] - world_from_cam_i[:, :3, 3]
    return cam_i_from_world @ world_from_cam_j[:, :3, :3], (cam_i_from_world @ step[..., None])[..., 0]


_ALL_PAIRS = "Pairs with an unregistered frame count as errors of 180 degrees."
_BASELINE = "at least 1 % of the median true depth (of the largest baseline if no depth is known)"


def _threshold_metrics(n: int) -> tuple[Metric, ...]:
    larger = f"the larger of the rotation error and, if the baseline is {_BASELINE}, the translation direction error"
    return (
        share(
            f"auc_{n}",
            f"Mean over t = 1..{n} degrees of the share of frame pairs for which {larger} is below t. {_ALL_PAIRS}",
            is_headline=n in HEADLINE_DEGREES,
        ),
        share(
            f"auc_{n}_exact",
            f"Mean over frame pairs of max(0, {n} - e) / {n}, where e is {larger}, in degrees. {_ALL_PAIRS}",
        ),
        share(
            f"auc_{n}_folded",
            f"Published form of auc_{n}: the sign of the translation is ignored, and translation counts for all pairs, "
            f"however small the baseline. {_ALL_PAIRS}",
        ),
        share(f"rra_{n}", f"Share of frame pairs whose rotation error is below {n} degrees. {_ALL_PAIRS}"),
        share(
            f"rta_{n}",
            f"Share of frame pairs with a baseline of {_BASELINE} whose translation direction error is below {n} "
            f"degrees. {_ALL_PAIRS}",
        ),
        share(
            f"rta_{n}_folded",
            f"Published form of rta_{n}: share of all frame pairs whose translation direction error, regardless of "
            f"sign, is below {n} degrees. {_ALL_PAIRS}",
        ),
    )


@scores(
    "Cameras",
    *(metric for n in DEGREES for metric in _threshold_metrics(n)),
    Metric(
        "rotation_error", "degree", "lower", f"Median relative rotation error over frame pairs. {_ALL_PAIRS}", 180.0
    ),
    Metric(
        "translation_error",
        "degree",
        "lower",
        f"Median angle between true and predicted relative translation, over frame pairs with a baseline of "
        f"{_BASELINE}. {_ALL_PAIRS}",
        worst=180.0,
    ),
    Metric(
        "fov_error", "degree", "lower", "Mean absolute error of the horizontal field of view over registered frames."
    ),
    Metric(
        "focal_error",
        "ratio",
        "lower",
        "Mean over registered frames of |f_predicted / f_true - 1|, where f is the geometric mean of fx and fy.",
    ),
    share("registered", "Share of frames with a true camera that the method registered.", is_headline=True),
)
def camera_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted cameras.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `camera_scores.metrics`, in their order; empty if the truth has no known camera.
    """
    if not is_registered(truth).any():
        return ()
    errors = pair_errors(prediction, truth)
    return (
        *(score for n in DEGREES for score in _threshold_scores(errors, n)),
        _median("rotation_error", errors.rotation, "the truth has only one known camera, so there are no pairs"),
        _median("translation_error", errors.translation[errors.has_baseline], NO_BASELINE),
        *_intrinsics_scores(prediction, truth),
    )


def _threshold_scores(errors: PairErrors, n: int) -> tuple[Score, ...]:
    num_pairs, num_baselines = len(errors.rotation), int(errors.has_baseline.sum())
    values = (
        (f"auc_{n}", area_under_curve(errors.largest, n)),
        (f"auc_{n}_exact", area_under_curve_exact(errors.largest, n)),
        (f"auc_{n}_folded", area_under_curve(errors.largest_folded, n)),
        (f"rra_{n}", share_below(errors.rotation, n)),
        (f"rta_{n}", share_below(errors.translation[errors.has_baseline], n)),
        (f"rta_{n}_folded", share_below(errors.translation_folded, n)),
    )
    found = []
    for name, value in values:
        total, reason = (num_baselines, NO_BASELINE) if name == f"rta_{n}" else (num_pairs, "there are no frame pairs")
        found.append(Score(name, value, total, total) if total else undefined(name, 0, reason))
    return tuple(found)


def _median(metric: str, errors: Tensor, reason: str) -> Score:
    """Return the median error as a score; undefined for the given reason if there are no errors."""
    if not len(errors):
        return undefined(metric, 0, reason)
    return Score(metric, float(np.median(errors.cpu().numpy())), len(errors), len(errors))


def _intrinsics_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    total = int(is_registered(truth).sum())
    count = int((is_registered(prediction) & is_registered(truth)).sum())
    registered = Score("registered", count / total, total, total)
    if not count:
        note = "no frame is registered"
        return undefined("fov_error", total, note), undefined("focal_error", total, note), registered
    return (
        Score("fov_error", float(_field_of_view_errors(prediction, truth).mean()), count, total),
        Score("focal_error", float(focal_errors(prediction, truth).mean()), count, total),
        registered,
    )
