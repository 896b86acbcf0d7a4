"""How well cameras agree with the truth in pairs of frames, and in their fields of view: no alignment is needed.

Everything is about the motion from one camera to another, which no similarity of the world changes (but for the length
of its translation, which is not looked at). A pair of which a frame is not placed counts as wrong by 180 degrees; a
frame whose true camera is not known is left out. Translation means little between two cameras that almost share their
place, so it counts only between cameras that are *apart*.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.pairing import is_registered
from recon4d.geometry import field_of_view, rotation_angle
from recon4d.records import Scene

DEGREES = (5, 15, 30)
"""The N of auc_N, rra_N and rta_N."""
LEAST_BASELINE = 0.01
"""Cameras are apart from this share of the scene's median depth."""
SAME_PLACE = 1e-9
"""Cameras whose largest distance is below this are at one place, where no depth says what is small."""
NO_DIRECTION = 1e6
"""Published error of a translation without a direction: more than any threshold."""


@dataclass(frozen=True)
class PairErrors:
    """Errors of the relative motion between all frames i < j whose true cameras are known, in degrees.

    `rotation` and `translation` are in 0..180, and 180 where a frame is not placed; `translation` is the angle between
    the two directions of motion, and 180 where either motion has no length. `translation_folded` takes no notice of
    the sign of the motion: 0..90, and 1e6 where a frame is not placed or a motion has no length. `is_apart` is where
    the true cameras are far enough from each other for their translation to count.
    """

    rotation: Float[Tensor, "pair"]
    translation: Float[Tensor, "pair"]
    translation_folded: Float[Tensor, "pair"]
    is_apart: Bool[Tensor, "pair"]

    @property
    def largest(self) -> Float[Tensor, "pair"]:
        """The larger of rotation and, where the cameras are apart, translation error, in degrees."""
        return torch.where(self.is_apart, torch.maximum(self.rotation, self.translation), self.rotation)

    @property
    def largest_folded(self) -> Float[Tensor, "pair"]:
        """The published larger error, in degrees: translation is folded and counts in every pair."""
        return torch.maximum(self.rotation, self.translation_folded)


def pair_errors(prediction: Scene, truth: Scene) -> PairErrors:
    """The errors of all pairs of frames of two paired scenes; none with fewer than two true cameras."""
    kept = is_registered(truth).nonzero()[:, 0]
    first, second = torch.triu_indices(len(kept), len(kept), offset=1, device=kept.device)
    true = truth.cameras.world_from_cam[kept].double()
    predicted = prediction.cameras.world_from_cam[kept].double()
    pair_is_placed = is_registered(prediction)[kept][first] & is_registered(prediction)[kept][second]

    true_rotation, true_motion = _relative_motion(true[first], true[second])
    rotation, motion = _relative_motion(predicted[first], predicted[second])
    rotation_error = rotation_angle(true_rotation.transpose(-1, -2) @ rotation).rad2deg()
    angle = angle_between(motion, true_motion).rad2deg()
    has_direction = pair_is_placed & (motion.norm(dim=-1) > 0) & (true_motion.norm(dim=-1) > 0)

    return PairErrors(
        rotation=torch.where(pair_is_placed, rotation_error, 180.0),
        translation=torch.where(has_direction, angle, 180.0),
        translation_folded=torch.where(has_direction, torch.minimum(angle, 180 - angle), NO_DIRECTION),
        is_apart=is_apart(true_motion.norm(dim=-1), median_depth(truth)),
    )


def angle_between(a: Float[Tensor, "*batch 3"], b: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """The angle between two directions of any length but zero, in radians in [0, pi]; atan2 keeps small ones exact."""
    a, b = torch.nn.functional.normalize(a, dim=-1, eps=0), torch.nn.functional.normalize(b, dim=-1, eps=0)
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))


def is_apart(baselines: Float[Tensor, "pair"], depth: float) -> Bool[Tensor, "pair"]:
    """Where cameras are at least 1 % of `depth` from each other; of the largest baseline where `depth` is NaN.

    Nothing is apart where all cameras are at one place.
    """
    if math.isfinite(depth):
        return baselines >= LEAST_BASELINE * depth
    largest = baselines.max() if len(baselines) else baselines.new_zeros(())
    return (baselines >= LEAST_BASELINE * largest) & (largest >= SAME_PLACE)


def median_depth(truth: Scene) -> float:
    """The median depth of a scene over its known pixels, in its unit; NaN where no depth is known."""
    known = truth.depths[truth.depth_confidence > 0]
    return float(np.median(known.cpu().numpy())) if len(known) else math.nan


def area_under_curve(errors: Float[Tensor, "n"], degrees: int) -> float:
    """Mean over t = 1..`degrees` of the share of errors below t degrees (Jin et al. 2021 as VGGT bins it)."""
    return sum(share_below(errors, t) for t in range(1, degrees + 1)) / degrees


def area_under_curve_exact(errors: Float[Tensor, "n"], degrees: int) -> float:
    """The area under the curve of the share of errors below t, 0 <= t <= N: mean of max(0, N - error) / N."""
    return float((degrees - errors).clamp(min=0).mean() / degrees)


def share_below(errors: Float[Tensor, "n"], degrees: float) -> float:
    """The share of errors that are strictly below `degrees`."""
    return float((errors < degrees).double().mean())


def field_of_view_errors(prediction: Scene, truth: Scene) -> Float[Tensor, "frame"]:
    """Absolute differences of the horizontal field of view in degrees, of the frames placed in both scenes."""
    placed = is_registered(prediction) & is_registered(truth)
    predicted, true = (
        field_of_view(scene.cameras.intrinsics[placed].double(), *truth.size)[:, 0] for scene in (prediction, truth)
    )
    return (predicted - true).abs().rad2deg()


def focal_errors(prediction: Scene, truth: Scene) -> Float[Tensor, "frame"]:
    """|f_p / f_t - 1| of the frames placed in both scenes, f the geometric mean of fx and fy (at least 0)."""
    placed = is_registered(prediction) & is_registered(truth)
    predicted, true = (
        scene.cameras.intrinsics[placed].double().diagonal(dim1=-2, dim2=-1)[:, :2].clamp(min=0).prod(dim=-1).sqrt()
        for scene in (prediction, truth)
    )
    return (predicted / true - 1).abs()


def _relative_motion(world_from_cam_i: Tensor, world_from_cam_j: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation and translation of ``cam_i_from_cam_j``; cameras at one place have a translation of exactly zero."""
    turned_back = world_from_cam_i[:, :3, :3].transpose(-1, -2)
    step = world_from_cam_j[:, :3, 3] - world_from_cam_i[:, :3, 3]
    return turned_back @ world_from_cam_j[:, :3, :3], (turned_back @ step[..., None])[..., 0]


_ALL_PAIRS = "Frames that are not placed count as wrong by 180 degrees."
_APART = "between cameras at least 1 % of the median true depth apart (without depth: of the largest baseline)"


def _threshold_metrics(n: int) -> tuple[Metric, ...]:
    larger = f"the larger of rotation error and, {_APART}, translation direction error"
    return (
        Metric(
            f"auc_{n}",
            "share",
            "higher",
            f"Mean over t = 1..{n} degrees of the share of frame pairs of which {larger} is below t. {_ALL_PAIRS}",
            worst=0.0,
        ),
        Metric(
            f"auc_{n}_exact",
            "share",
            "higher",
            f"Mean over frame pairs of max(0, {n} - e) / {n}, where e is {larger}, in degrees. {_ALL_PAIRS}",
            worst=0.0,
        ),
        Metric(
            f"auc_{n}_folded",
            "share",
            "higher",
            f"Published form: as auc_{n}, with translation directions that differ in sign only counted as the same, "
            f"and translation counted between all cameras, however close. {_ALL_PAIRS}",
            worst=0.0,
        ),
        Metric(
            f"rra_{n}",
            "share",
            "higher",
            f"Share of frame pairs whose rotation error is below {n} degrees. {_ALL_PAIRS}",
            worst=0.0,
        ),
        Metric(
            f"rta_{n}",
            "share",
            "higher",
            f"Share of frame pairs, {_APART}, whose translation direction is wrong by less than {n} degrees. "
            f"{_ALL_PAIRS}",
            worst=0.0,
        ),
        Metric(
            f"rta_{n}_folded",
            "share",
            "higher",
            f"Published form: share of all frame pairs whose translation direction, its sign left out, is wrong by "
            f"less than {n} degrees. {_ALL_PAIRS}",
            worst=0.0,
        ),
    )


CAMERA_METRICS: tuple[Metric, ...] = (
    *(metric for n in DEGREES for metric in _threshold_metrics(n)),
    Metric(
        "rotation_error",
        "degree",
        "lower",
        f"Median over frame pairs of the error of their relative rotation. {_ALL_PAIRS}",
        worst=180.0,
    ),
    Metric(
        "translation_error",
        "degree",
        "lower",
        f"Median over frame pairs, {_APART}, of the angle between true and predicted relative translation. "
        f"{_ALL_PAIRS}",
        worst=180.0,
    ),
    Metric(
        "fov_error",
        "degree",
        "lower",
        "Mean over placed frames of the absolute difference of the horizontal field of view.",
    ),
    Metric(
        "focal_error",
        "ratio",
        "lower",
        "Mean over placed frames of |f_predicted / f_true - 1|, f the geometric mean of the two focal lengths.",
    ),
    Metric("registered", "share", "higher", "Share of the frames whose camera the method could place.", worst=0.0),
)


def camera_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `CAMERA_METRICS`, in their order; none at all where the truth knows no camera."""
    if not is_registered(truth).any():
        return ()
    errors = pair_errors(prediction, truth)
    return (
        *(score for n in DEGREES for score in _threshold_scores(errors, n)),
        _median("rotation_error", errors.rotation, "the truth knows one camera: there is no pair"),
        _median("translation_error", errors.translation[errors.is_apart], "no two true cameras are apart"),
        *_intrinsics_scores(prediction, truth),
    )


def _threshold_scores(errors: PairErrors, n: int) -> tuple[Score, ...]:
    pairs, apart = len(errors.rotation), int(errors.is_apart.sum())
    over_pairs = (
        (f"auc_{n}", area_under_curve(errors.largest, n)),
        (f"auc_{n}_exact", area_under_curve_exact(errors.largest, n)),
        (f"auc_{n}_folded", area_under_curve(errors.largest_folded, n)),
        (f"rra_{n}", share_below(errors.rotation, n)),
        (f"rta_{n}", share_below(errors.translation[errors.is_apart], n)),
        (f"rta_{n}_folded", share_below(errors.translation_folded, n)),
    )
    scores = []
    for name, value in over_pairs:
        total, missing = (
            (apart, "no two true cameras are apart") if name == f"rta_{n}" else (pairs, "no pair of frames")
        )
        scores.append(Score(name, value, total, total) if total else undefined(name, 0, missing))
    return tuple(scores)


def _median(metric: str, errors: Tensor, missing: str) -> Score:
    if not len(errors):
        return undefined(metric, 0, missing)
    return Score(metric, float(np.median(errors.cpu().numpy())), len(errors), len(errors))


def _intrinsics_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    total = int(is_registered(truth).sum())
    placed = int((is_registered(prediction) & is_registered(truth)).sum())
    registered = Score("registered", placed / total, total, total)
    if not placed:
        note = "no frame is placed"
        return undefined("fov_error", total, note), undefined("focal_error", total, note), registered
    return (
        Score("fov_error", float(field_of_view_errors(prediction, truth).mean()), placed, total),
        Score("focal_error", float(focal_errors(prediction, truth).mean()), placed, total),
        registered,
    )
