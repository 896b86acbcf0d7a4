"""What can be measured of a scene without its truth: how the camera went, what is known, and what agrees with what."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import rotation_angle
from recon4d.io.exporters.point_selection import is_dynamic
from recon4d.records import Calibration, ErrorCurve, Scene

AGREEMENT = 0.05
"""Point map and depth agree at a pixel where their points are nearer than this share of its depth."""


FAR_OFF = 0.2
"""An error of more than this share of depth is far off."""
BEST_SHARE = 0.2
"""The most confident pixels that are spoken of by themselves."""


@dataclass(frozen=True)
class ExpectedErrors:
    """What a calibration foretells of the known pixels of one field, errors and shares from 0 to 1.

    Half of the pixels are expected to be wrong by at most `of_half`, and half of the most confident `BEST_SHARE` by at
    most `of_best`; `far_off_share` are expected to be wrong by more than `FAR_OFF`.
    """

    of_half: float
    of_best: float
    far_off_share: float


@dataclass(frozen=True)
class ExpectedOfScene:
    """The expected errors of each field; None where the calibration or the scene says nothing about it."""

    depth: ExpectedErrors | None
    points: ExpectedErrors | None
    tracks: ExpectedErrors | None


@dataclass(frozen=True)
class SceneFacts:
    """Measured of one scene; NaN where nothing can be said. Angles are degrees, shares from 0 to 1.

    `size` is (height, width) of the maps; `seconds` from the first to the last frame. `fields_of_view` are (horizontal,
    vertical), in the median over frames; `least_field_of_view` and `greatest_field_of_view` are the extremes of either
    axis and any frame, and `focal_drift` the greatest ratio between two frames. `path_length` runs through the centers
    by time (by number without times), in units; `span` is the greatest distance between two centers, as a share of the
    median depth; `turn` the greatest angle between two cameras. `known_share` is of pixels with depth, `moving_share`
    of known pixels where the scene says what moves; `confidence_quartiles` (25, 50, 75 %) of known depth.
    `agreeing_share` is of pixels with both, where point map and depth agree, `disagreement` the median distance of
    their points as a share of depth.
    """

    num_frames: int
    size: tuple[int, int]
    seconds: float
    fields_of_view: tuple[float, float]
    least_field_of_view: float
    greatest_field_of_view: float
    focal_drift: float
    path_length: float
    span: float
    turn: float
    median_depth: float
    known_share: float
    moving_share: float
    confidence_quartiles: tuple[float, float, float]
    agreeing_share: float
    disagreement: float
    metres_per_unit: float
    num_tracks: int


def measure_scene(scene: Scene, times: Float[Tensor, " time"]) -> SceneFacts:
    """The facts of one scene whose frames were taken at `times` (seconds, NaN: unknown).

    Raises ``ValueError`` for a batch or times that do not fit.
    """
    if scene.batch_shape or times.shape != (scene.num_frames,):
        raise ValueError(
            f"wanted one scene and a time for each of its {scene.num_frames} frames, given a batch of "
            f"{tuple(scene.batch_shape)} and times of shape {tuple(times.shape)}"
        )
    has_times = bool(torch.isfinite(times).all())
    is_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    depths, confidence = scene.depths[is_known], scene.depth_confidence[is_known]
    angles = scene.cameras.field_of_view(*scene.size).rad2deg()
    median_depth = _median(depths)
    centers = scene.cameras.centers[times.argsort(stable=True)] if has_times else scene.cameras.centers
    quartiles = np.percentile(confidence.numpy(), (25, 50, 75)).tolist() if len(confidence) else [math.nan] * 3
    is_told = is_known & torch.isfinite(scene.dynamic)
    agreeing_share, disagreement = _agreement(scene, is_known)
    return SceneFacts(
        num_frames=scene.num_frames,
        size=scene.size,
        seconds=float(times.max() - times.min()) if has_times else math.nan,
        fields_of_view=(_median(angles[:, 0]), _median(angles[:, 1])),
        least_field_of_view=float(angles.min()),
        greatest_field_of_view=float(angles.max()),
        focal_drift=float((angles.amax(dim=0) / angles.amin(dim=0)).max()),
        path_length=float(centers.diff(dim=0).norm(dim=-1).sum()),
        span=float(_distances(centers).max()) / median_depth,
        turn=_turn(scene),
        median_depth=median_depth,
        known_share=float(is_known.double().mean()),
        moving_share=float(is_dynamic(scene)[is_told].double().mean()),
        confidence_quartiles=(quartiles[0], quartiles[1], quartiles[2]),
        agreeing_share=agreeing_share,
        disagreement=disagreement,
        metres_per_unit=float(scene.metres_per_unit),
        num_tracks=0 if scene.tracks is None else scene.tracks.confidence[:, 0].numel(),
    )


def expected_of_scene(scene: Scene, calibration: Calibration) -> ExpectedOfScene:
    """What the model's calibration foretells of a scene that it answered; tracks at other times than their anchor's."""
    tracks = None
    if scene.tracks is not None:
        is_elsewhere = scene.tracks.anchors[:, None] != torch.arange(scene.num_frames)
        tracks = _expected(calibration.tracks, scene.tracks.confidence[is_elsewhere])
    return ExpectedOfScene(
        depth=_expected(calibration.depth, scene.depth_confidence),
        points=_expected(calibration.points, scene.point_confidence),
        tracks=tracks,
    )


def _expected(curve: ErrorCurve | None, confidence: Tensor) -> ExpectedErrors | None:
    known = confidence[confidence > 0].sort(descending=True).values
    if curve is None or not len(known):
        return None
    best = known[: max(1, round(BEST_SHARE * len(known)))]
    return ExpectedErrors(
        of_half=curve.error_of_share(known, 0.5),
        of_best=curve.error_of_share(best, 0.5),
        far_off_share=1 - curve.share_within(known, FAR_OFF),
    )


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy())) if values.numel() else math.nan


def _distances(centers: Float[Tensor, "time 3"]) -> Float[Tensor, "time time"]:
    """Between every two centers; taken directly, since |a|^2 - 2 ab + |b|^2 would lose what is small."""
    return (centers[:, None] - centers[None]).norm(dim=-1)


def _turn(scene: Scene) -> float:
    """The greatest angle between any two cameras, in degrees."""
    rotations = scene.cameras.world_from_cam[:, :3, :3]
    return max(float(rotation_angle(rotation.T @ rotations).max().rad2deg()) for rotation in rotations)


def _agreement(scene: Scene, is_known: Tensor) -> tuple[float, float]:
    """The share of pixels where point map and depth agree, and the median of their relative distance."""
    both = is_known & (scene.point_confidence > 0)
    apart = (scene.points - scene.points_from_depth).norm(dim=-1)[both] / scene.depths[both]
    if not len(apart):
        return math.nan, math.nan
    return float((apart <= AGREEMENT).double().mean()), _median(apart)
