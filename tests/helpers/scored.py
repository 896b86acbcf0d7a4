"""What tests of metrics share: scores by name, and a similarity that is not a special one."""

import torch

from recon4d import geometry as g
from recon4d.eval.metrics.score import Score
from recon4d.records import Scene, Tracks

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.3, -0.5, 0.2])), torch.tensor([1.0, -2.0, 0.5])
)


def by_name(scores: tuple[Score, ...]) -> dict[str, Score]:
    """No metric twice."""
    assert len({score.metric for score in scores}) == len(scores)
    return {score.metric: score for score in scores}


def tracks_of(scene: Scene) -> Tracks:
    assert scene.tracks is not None
    return scene.tracks
