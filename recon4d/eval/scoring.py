"""Everything that is measured of one prediction: the project's own metrics, and the published ones of a benchmark."""

import math
from dataclasses import dataclass, replace

import torch

from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.calibration import CALIBRATION_METRICS, calibration_scores
from recon4d.eval.metrics.cameras import CAMERA_METRICS, camera_scores
from recon4d.eval.metrics.depth import DEPTH_METRICS, depth_scores
from recon4d.eval.metrics.dynamic_mask import MOVING_METRICS, dynamic_mask_scores
from recon4d.eval.metrics.pixel_tracks import PIXEL_TRACK_METRICS, pixel_track_scores
from recon4d.eval.metrics.points import POINT_METRICS, point_scores
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.tracks import TRACK_METRICS, track_scores
from recon4d.eval.metrics.trajectory import TRAJECTORY_METRICS, trajectory_scores
from recon4d.eval.pairing import paired
from recon4d.eval.predictions import Prediction, Status
from recon4d.eval.protocols.multiview_points import MULTIVIEW_POINT_METRICS, multiview_point_scores
from recon4d.eval.protocols.tapvid3d import TAPVID3D_METRICS, tapvid3d_scores
from recon4d.eval.protocols.video_depth import VIDEO_DEPTH_METRICS, video_depth_scores
from recon4d.eval.protocols.worldtrack import WORLDTRACK_METRICS, worldtrack_scores
from recon4d.records import Calibration, Cameras, Scene

SECONDS = Metric(
    "seconds",
    "s",
    "lower",
    "time of the method alone for one clip, without loading it and after a first, untimed call",
)

NO_PREDICTION = "no prediction"
"""The note of scores that are the worst value of a clip without a prediction."""

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *CAMERA_METRICS,
        *TRAJECTORY_METRICS,
        *DEPTH_METRICS,
        *POINT_METRICS,
        *TRACK_METRICS,
        *PIXEL_TRACK_METRICS,
        *MOVING_METRICS,
        *CALIBRATION_METRICS,
        *VIDEO_DEPTH_METRICS,
        *MULTIVIEW_POINT_METRICS,
        *WORLDTRACK_METRICS,
        *TAPVID3D_METRICS,
        SECONDS,
    )
}
"""Every metric there is, in the order of reports."""


@dataclass(frozen=True)
class ClipResult:
    """What a method did on one clip."""

    method: str
    clip: str
    num_frames: int
    status: Status
    reason: str
    scores: tuple[Score, ...]

    def score(self, metric: str) -> Score | None:
        """The score of a metric; None where the truth of this clip does not tell it."""
        return next((score for score in self.scores if score.metric == metric), None)


def score_prediction(
    method: str,
    clip: str,
    prediction: Prediction,
    truth: Scene,
    benchmark: Benchmark,
    calibration: Calibration | None = None,
) -> ClipResult:
    """Every metric that the truth can tell; `calibration` is what the method says that its confidences mean.

    A prediction that does not fit its truth, or is no number where it is believed, counts as failed. Failed ones score
    the worst value of every metric that has one.
    """
    status, reason = prediction.status, prediction.reason
    scene = None
    if prediction.scene is not None:
        try:
            scene = paired(prediction.scene, truth)
        except ValueError as error:
            status, reason = "failed", str(error)
    if scene is None:
        scores = tuple(map(_at_worst, _all_scores(_nothing(truth), truth, benchmark, calibration)))
    else:
        scores = _all_scores(scene, truth, benchmark, calibration)
    seconds = undefined(SECONDS.name, 1, "not measured")
    if not math.isnan(prediction.seconds):
        seconds = Score(SECONDS.name, prediction.seconds, 1, 1)
    return ClipResult(method, clip, truth.num_frames, status, reason, (*scores, seconds))


def _all_scores(
    prediction: Scene, truth: Scene, benchmark: Benchmark, calibration: Calibration | None
) -> tuple[Score, ...]:
    scores = [
        *camera_scores(prediction, truth),
        *trajectory_scores(prediction, truth),
        *depth_scores(prediction, truth),
        *point_scores(prediction, truth),
        *track_scores(prediction, truth),
        *pixel_track_scores(prediction, truth),
        *dynamic_mask_scores(prediction, truth),
        *calibration_scores(prediction, truth, calibration),
    ]
    if "video-depth" in benchmark.protocols:
        scores += video_depth_scores(prediction, truth, benchmark.max_depth)
    if "multiview-points" in benchmark.protocols:
        scores += multiview_point_scores(prediction, truth)
    if "worldtrack" in benchmark.protocols:
        scores += worldtrack_scores(prediction, truth)
    if "tapvid3d" in benchmark.protocols:
        scores += tapvid3d_scores(prediction, truth)
    return tuple(scores)


def _at_worst(score: Score) -> Score:
    """The score of a clip without a prediction: of a metric that has a worst value, that one."""
    worst = METRICS[score.metric].worst
    if worst is None:
        return score
    return replace(score, value=worst if math.isnan(score.value) else score.value, note=NO_PREDICTION)


def _nothing(truth: Scene) -> Scene:
    """A scene in which nothing is known."""
    unknown, zeros = torch.full_like(truth.depths, torch.nan), torch.zeros_like(truth.depths)
    return Scene(
        cameras=Cameras(
            torch.full_like(truth.cameras.world_from_cam, torch.nan),
            torch.full_like(truth.cameras.intrinsics, torch.nan),
        ),
        depths=zeros,
        depth_confidence=zeros,
        points=torch.zeros_like(truth.points),
        point_confidence=zeros,
        dynamic=unknown,
        metres_per_unit=torch.full_like(truth.metres_per_unit, torch.nan),
    )
