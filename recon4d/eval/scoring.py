"""All metrics of one prediction: the project's own, and those of the published protocols of a benchmark."""

import math
from dataclasses import dataclass, replace

import torch

from recon4d.errors import UserError, one_line
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.calibration import calibration_scores
from recon4d.eval.metrics.cameras import camera_scores
from recon4d.eval.metrics.depth import depth_scores
from recon4d.eval.metrics.dynamic_mask import dynamic_mask_scores
from recon4d.eval.metrics.pixel_tracks import pixel_track_scores
from recon4d.eval.metrics.points import point_scores
from recon4d.eval.metrics.score import Metric, Score, ScoreFunction, scores, undefined
from recon4d.eval.metrics.tracks import track_scores
from recon4d.eval.metrics.trajectory import trajectory_scores
from recon4d.eval.pairing import pair_with_truth
from recon4d.eval.predictions import Prediction, Status
from recon4d.eval.protocols.multiview_points import multiview_point_scores
from recon4d.eval.protocols.tapvid3d import tapvid3d_scores
from recon4d.eval.protocols.video_depth import video_depth_scores
from recon4d.eval.protocols.worldtrack import worldtrack_scores
from recon4d.records import Calibration, Cameras, Scene

NO_PREDICTION = "no prediction"
"""Note of a score that is the worst value of its metric, because the clip has no prediction."""


@scores(
    "Cost",
    Metric(
        "seconds",
        "s",
        "lower",
        "time of the method alone for one clip, without loading it and after a first, untimed call",
        is_headline=True,
    ),
)
def seconds_scores(seconds: float) -> tuple[Score, ...]:
    """Score the time of a method on one clip.

    Args:
        seconds: Time in seconds; NaN if it was not measured.

    Returns:
        One score.
    """
    return (undefined("seconds", 1, "not measured") if math.isnan(seconds) else Score("seconds", seconds, 1, 1),)


SCORE_FUNCTIONS: tuple[ScoreFunction[...], ...] = (
    camera_scores,
    trajectory_scores,
    depth_scores,
    point_scores,
    track_scores,
    pixel_track_scores,
    dynamic_mask_scores,
    calibration_scores,
    video_depth_scores,
    multiview_point_scores,
    worldtrack_scores,
    tapvid3d_scores,
    seconds_scores,
)
"""The registry of metrics: every function that computes scores, in the order of reports."""

METRICS: dict[str, Metric] = {metric.name: metric for function in SCORE_FUNCTIONS for metric in function.metrics}
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
        found = tuple(map(_with_worst_value, _scene_scores(_unknown_scene(truth), truth, benchmark, calibration)))
    else:
        found = _scene_scores(scene, truth, benchmark, calibration)
    found = (*found, *seconds_scores(prediction.seconds))
    return ClipResult(method, clip, truth.num_frames, status, reason, found)


def _scene_scores(
    prediction: Scene, truth: Scene, benchmark: Benchmark, calibration: Calibration | None
) -> tuple[Score, ...]:
    """Return the scores of all functions that compare scenes and belong to the benchmark."""
    options = {calibration_scores: (calibration,), video_depth_scores: (benchmark.max_depth,)}
    return tuple(
        score
        for function in SCORE_FUNCTIONS
        if function is not seconds_scores and function.protocol in (None, *benchmark.protocols)
        for score in function(prediction, truth, *options.get(function, ()))
    )


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
