"""Evaluation of sampled motion on what is not observed: hidden within the clip, and after its end.

The first part of the frames of each clip is observed, and motion is predicted for all of them. Baselines that know a
single motion: each point stays where it was observed last, it keeps its velocity, its curve goes on, and the tracks of
the model's motion head. Observations are the true tracks, or those of a reconstruction of the observed frames.
"""

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets import Sample
from recon4d.eval.alignment.similarity import align_sim3
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.motion_samples import MotionScores, score_motion
from recon4d.inference import reconstruct, sample_with_tokens
from recon4d.io import atomic_file
from recon4d.models import SceneModel
from recon4d.motion import fit_trajectories
from recon4d.motion.trajectories import DynamicTracks, dynamic_tracks
from recon4d.records import Clip, Scene, Tracks
from recon4d.zoo import MotionFlow

OBSERVED_SHARE = 0.6
"""Share of the frames that are observed."""
MIN_DISPLACEMENT = 0.02
"""Points that move less in the whole clip, in meters, are static."""
MAX_TRACKS = 600
"""Largest number of tracks of a clip."""
MIN_TRACKS = 8
"""Clips with fewer tracks in a part do not count there."""

Part = Literal["hidden", "later", "static"]
PARTS: tuple[Part, ...] = ("hidden", "later", "static")
"""Dynamic points while they are hidden within the observed frames, dynamic points after these, and points that stand
still although they are sampled."""


@dataclass(frozen=True)
class ClipMotionScores:
    """Scores of one prediction of motion on one part of one clip."""

    clip: str
    """Name of the clip."""
    observations: str
    """Where observations come from: "true" or "predicted"."""
    part: Part
    """What is scored."""
    prediction: str
    """Name of the prediction."""
    scores: MotionScores
    """Its scores."""


@dataclass(frozen=True)
class MotionEvaluation:
    """Method and options of an evaluation of sampled motion."""

    model: SceneModel
    """Model of tokens, tracks and reconstruction."""
    flow: MotionFlow
    """Generative head."""
    num_samples: int = 8
    """Number of samples."""
    refine: bool = False
    """Whether predicted observations are those of the refined scene."""


def evaluate_motion(
    benchmark: Benchmark,
    clips: Iterable[str],
    evaluation: MotionEvaluation,
    out: Path,
) -> list[ClipMotionScores]:
    """Score sampled motion and its baselines on the clips of a benchmark, and write ``motions.json``.

    Args:
        benchmark: Benchmark with true tracks.
        clips: Names of the clips to score.
        evaluation: Method and options.
        out: Folder to write to.

    Returns:
        The scores of all clips.
    """
    found: list[ClipMotionScores] = []
    for clip in clips:
        sample = benchmark.read(clip)
        if sample.scene.tracks is not None and sample.clip.num_frames > 3:
            found += _evaluate_clip(clip, sample, evaluation)
    out.mkdir(parents=True, exist_ok=True)
    rows = [_json_values({**asdict(row), **asdict(row.scores)}) for row in found]
    with atomic_file(out / "motions.json") as partial:
        partial.write_text(json.dumps(rows, indent=1, allow_nan=False))
    return found


def _json_values(row: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of one row; JSON has no NaN."""
    plain = {name: value for name, value in row.items() if name != "scores"}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def _evaluate_clip(name: str, sample: Sample, evaluation: MotionEvaluation) -> list[ClipMotionScores]:
    """Score all predictions of one clip from true and from predicted observations."""
    count = max(3, round(OBSERVED_SHARE * sample.clip.num_frames))
    clip, truth = sample.clip.frames(slice(0, count)), sample.scene.frames(slice(0, count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = reconstruct(evaluation.model, clip, refine=evaluation.refine, anchors=(0,))
    predicted = _aligned(predicted.resized(*truth.size), truth)
    found: list[ClipMotionScores] = []
    for observations, observed in (("true", _first_anchor(truth)), ("predicted", predicted)):
        if observed.tracks is None:
            continue
        scene = fit_trajectories(observed, clip.times, MAX_TRACKS)
        assert scene.trajectories is not None
        tracks = dynamic_tracks(scene, MAX_TRACKS)
        pixels = scene.trajectories.pixels
        true, visibility = _true_tracks(sample.scene, pixels)
        predictions = _predictions(sample, clip, scene, tracks, evaluation)
        head = _head_positions(predicted, pixels, sample.clip.times, predictions["hold still"][0])
        if head is not None:
            predictions["motion head"] = head[None]
        found += [
            ClipMotionScores(name, observations, part, label, scores)
            for part, is_counted in scored_positions(true, visibility, count).items()
            for label, samples in predictions.items()
            if (label != "motion head" or part == "hidden")
            and (scores := score_motion(samples, true, is_counted)) is not None
            and scores.tracks >= MIN_TRACKS
        ]
    return found


def _predictions(
    sample: Sample, clip: Clip, scene: Scene, tracks: DynamicTracks, evaluation: MotionEvaluation
) -> dict[str, Float[Tensor, "sample track time 3"]]:
    """Return the samples and the baselines that need no model, at the times of all frames."""
    times = sample.clip.times
    interval = (float(times[0]), float(times[-1]))
    curves = scene.trajectories
    assert curves is not None
    found = {}
    for label, flow in _flows(evaluation):
        sampled = sample_with_tokens(evaluation.model, clip, scene, flow, evaluation.num_samples, interval)
        assert sampled.trajectories is not None
        assert sampled.trajectories.samples is not None
        found[label] = sampled.trajectories.samples.positions(times)
    found["hold still"] = nearest_observation(tracks, clip.times, times)[None]
    found["constant velocity"] = constant_velocity(tracks, clip.times, times)[None]
    found["spline"] = curves.positions(times)[None]
    return found


def nearest_observation(
    tracks: DynamicTracks, observed_times: Float[Tensor, " time"], times: Float[Tensor, " moment"]
) -> Float[Tensor, "track moment 3"]:
    """Predict that points stay where they were observed at the nearest time.

    Args:
        tracks: Observations.
        observed_times: Their times.
        times: Times of the prediction.

    Returns:
        Positions.
    """
    apart = (times[:, None, None] - observed_times[:, None]).abs()
    apart = torch.where(tracks.weights > 0, apart, torch.inf)  # (moment, time, track)
    nearest = apart.argmin(dim=1)
    return tracks.points.gather(0, nearest[..., None].expand(-1, -1, 3)).movedim(0, 1)


def constant_velocity(
    tracks: DynamicTracks, observed_times: Float[Tensor, " time"], times: Float[Tensor, " moment"]
) -> Float[Tensor, "track moment 3"]:
    """Predict that points move on straight lines through the two observations that are next in time.

    Args:
        tracks: Observations.
        observed_times: Their times.
        times: Times of the prediction.

    Returns:
        Positions; those of the only observation where there is one.
    """
    is_observed = tracks.weights > 0
    order = torch.arange(len(observed_times))[:, None]
    positions = []
    for time in times:
        # The last observation before and the first one after the time, or the two nearest on one side.
        before = torch.where(is_observed & (observed_times[:, None] <= time), order, -1)
        after = torch.where(is_observed & (observed_times[:, None] > time), order, len(observed_times))
        last, first = before.topk(min(2, len(order)), dim=0).values, after.topk(min(2, len(order)), 0, False).values
        has_before, has_after = last[0] >= 0, first[0] < len(observed_times)
        left = torch.where(has_before, torch.where(has_after, last[0], last[1]), first[0])
        right = torch.where(has_before, torch.where(has_after, first[0], last[0]), first[1])
        only = torch.where(has_before, last[0], first[0])
        is_pair = (left >= 0) & (right < len(observed_times))
        left, right = torch.where(is_pair, left, only), torch.where(is_pair, right, only)
        columns = torch.arange(tracks.points.shape[1])
        start, end = tracks.points[left, columns], tracks.points[right, columns]
        duration = (observed_times[right] - observed_times[left]).clamp(min=1e-9)
        share = torch.where(is_pair, (time - observed_times[left]) / duration, 0.0)
        positions.append(start + share[:, None] * (end - start))
    return torch.stack(positions, dim=1)


def _flows(evaluation: MotionEvaluation) -> list[tuple[str, MotionFlow]]:
    """Return the generative head with its tokens, if it has any for the model, and without."""
    without = replace(evaluation.flow, token_model="")
    if not evaluation.flow.knows_tokens_of(evaluation.model):
        return [("samples", without)]
    return [("samples", evaluation.flow), ("samples without tokens", without)]


def _aligned(predicted: Scene, truth: Scene) -> Scene:
    """Align a predicted scene to the truth by one similarity."""
    is_known = (truth.depth_confidence > 0) & (predicted.depth_confidence > 0)
    if is_known.sum() < 3:
        return predicted
    alignment = align_sim3(predicted.points_from_depth[is_known].double(), truth.points[is_known].double())
    return predicted.transformed(alignment.truth_from_prediction.to(predicted.depths))


def _first_anchor(truth: Scene) -> Scene:
    """Keep the true tracks of the first anchor."""
    tracks = truth.tracks
    assert tracks is not None
    chosen = {name: getattr(tracks, name)[:1] for name in ("points", "visibility", "confidence", "anchors", "pixels")}
    return replace(truth, tracks=Tracks(**chosen))


def _true_tracks(truth: Scene, pixels: Float[Tensor, "track 2"]) -> tuple[Tensor, Tensor]:
    """Return positions (track, time, 3) and visibility (track, time) of the true tracks nearest to some pixels."""
    tracks = truth.tracks
    assert tracks is not None
    queries = torch.cdist(pixels[None], tracks.pixels[:1])[0].argmin(dim=-1)
    points = tracks.points[0][:, queries].movedim(0, 1)
    known = tracks.confidence[0][:, queries].T > 0
    return torch.where(known[..., None], points, math.nan), tracks.visibility[0][:, queries].T > 0.5


def _head_positions(
    predicted: Scene, pixels: Tensor, times: Tensor, start: Float[Tensor, "track moment 3"]
) -> Float[Tensor, "track moment 3"] | None:
    """Return the tracks of the model at some pixels of the first frame, for the observed frames."""
    tracks = predicted.tracks
    if tracks is None:
        return None
    queries = torch.cdist(pixels[None], tracks.pixels[:1])[0].argmin(dim=-1)
    points = tracks.points[0][:, queries].movedim(0, 1)
    # Only the displacement: positions at the first frame are known.
    shifted = points - points[:, :1] + start[:, :1]
    missing = shifted[:, -1:].expand(-1, len(times) - shifted.shape[1], -1)
    return torch.cat([shifted, missing], dim=1)


def scored_positions(
    true: Float[Tensor, "track time 3"], visibility: Bool[Tensor, "track time"], count: int
) -> dict[Part, Bool[Tensor, "track time"]]:
    """Select the positions that count in each part.

    Args:
        true: True positions in meters; NaN where they are unknown.
        visibility: Whether the points are truly visible.
        count: Number of observed frames.

    Returns:
        The positions of each part.
    """
    is_known = true.isfinite().all(dim=-1)
    is_dynamic = ((true - true[:, :1]).norm(dim=-1).nan_to_num(0).amax(dim=1) > MIN_DISPLACEMENT)[:, None]
    is_later = (torch.arange(true.shape[1]) >= count).expand(is_known.shape)
    return {
        "hidden": is_known & is_dynamic & ~visibility & ~is_later,
        "later": is_known & is_dynamic & is_later,
        "static": is_known & ~is_dynamic,
    }
