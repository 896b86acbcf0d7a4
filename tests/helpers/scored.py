"""Helpers of tests of metrics: scores by name, and a similarity transform in general position."""

from dataclasses import replace

import torch

from recon4d import geometry as g
from recon4d.eval.metrics.score import Score
from recon4d.records import Scene, Tracks

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.3, -0.5, 0.2])), torch.tensor([1.0, -2.0, 0.5])
)


def scores_by_name(scores: tuple[Score, ...]) -> dict[str, Score]:
    """Return scores by the names of their metrics, and check that no metric occurs twice."""
    assert len({score.metric for score in scores}) == len(scores)
    return {score.metric: score for score in scores}


def tracks_of(scene: Scene) -> Tracks:
    """Return the tracks of a scene that has tracks."""
    assert scene.tracks is not None
    return scene.tracks


def with_tracks(scene: Scene, **changes: torch.Tensor) -> Scene:
    return replace(scene, tracks=replace(tracks_of(scene), **changes))
