"""All metrics of one prediction: the project's own, and those of the published protocols of a benchmark."""

import math
from dataclasses import dataclass, replace

import torch

from recon4d.errors import UserError, one_line
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.calibration import CALIBRATION_METRICS, calibration_scores
from recon4d.eval.metrics.cameras import CAMERA_METRICS, camera_scores
from recon4d.eval.metrics.depth import DEPTH_METRICS, depth_scores
from recon4d.eval.metrics.dynamic_mask import DYNAMIC_MASK_METRICS, dynamic_mask_scores
from recon4d.eval.metrics.pixel_tracks import PIXEL_TRACK_METRICS, pixel_track_scores
from recon4d.eval.metrics.points import POINT_METRICS, point_scores
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.tracks import TRACK_METRICS, track_scores
from recon4d.eval.metrics.trajectory import TRAJECTORY_METRICS, trajectory_scores
from recon4d.eval.pairing import pair_with_truth
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
"""Note of a score that is the worst value of its metric, because the clip has no prediction."""

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *CAMERA_METRICS,
        *TRAJECTORY_METRICS,
        *DEPTH_METRICS,
        *POINT_METRICS,
        *TRACK_METRICS,
        *PIXEL_TRACK_METRICS,
        *DYNAMIC_MASK_METRICS,
        *CALIBRATION_METRICS,
        *VIDEO_DEPTH_METRICS,
        *MULTIVIEW_POINT_METRICS,
        *WORLDTRACK_METRICS,
        *TAPVID3D_METRICS,
        SECONDS,
    )
}
"""All metrics by name, in the order of reports."""


@dataclass(frozen=True)
class ClipResult:
    """Scores of a method on one clip."""

    method: str
    """Name of the method."""
    clip: str
    """Name of the clip."""
    num_frames: int
    """Number of frames of the clip."""
    status: Status
    """Outcome in one word."""
    reason: str
    """Reason for a status other than `ok`, in one line."""
    scores: tuple[Score, ...]
    """One score for each metric that is defined by the ground truth of this clip."""

    def score(self, metric: str) -> Score | None:
        """Look up the score of a metric.

        Args:
            metric: Name of the metric.

        Returns:
            The score; None if the ground truth of this clip does not define the metric.
        """
        return next((score for score in self.scores if score.metric == metric), None)


def score_prediction(
    method: str,
    clip: str,
    prediction: Prediction,
    truth: Scene,
    benchmark: Benchmark,
    calibration: Calibration | None = None,
) -> ClipResult:
    """Compute every metric that the ground truth defines.

    A prediction with another number of frames, or with values that are not finite at a confidence above 0, counts as
    failed. A clip without a scene gets the worst value of every metric that has one.

    Args:
        method: Name of the method.
        clip: Name of the clip.
        prediction: Prediction of the method for this clip.
        truth: True scene of the clip.
        benchmark: Defines the published protocols to evaluate.
        calibration: Calibration of the method's confidence; None skips the calibration metrics.

    Returns:
        The scores and the status of the prediction.
    """
    status, reason = prediction.status, prediction.reason
    scene = None
    if prediction.scene is not None:
        try:
            scene = pair_with_truth(prediction.scene, truth)
        except UserError as error:
            status, reason = "failed", one_line(error)
    if scene is None:
        scores = tuple(map(_with_worst_value, _all_scores(_unknown_scene(truth), truth, benchmark, calibration)))
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


def _with_worst_value(score: Score) -> Score:
    """Return the score of a clip without a prediction: the worst value of the metric, if it has one."""
    worst = METRICS[score.metric].worst
    if worst is None:
        return score
    return replace(score, value=worst if math.isnan(score.value) else score.value, note=NO_PREDICTION)


def _unknown_scene(truth: Scene) -> Scene:
    """Return a scene of the truth's shape in which everything is unknown."""
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
