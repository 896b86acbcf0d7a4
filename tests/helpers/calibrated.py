"""A known calibration, and predictions whose errors are a known function of their confidence."""

from dataclasses import replace

import torch

from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.records import Calibration, ErrorCurve, Scene

CURVE = ErrorCurve((1.0, 10.0, 100.0), (0.4, 0.1, 0.1), (0.45, 1.0, 1.9))


CALIBRATION = Calibration("3 worlds", depth=CURVE, points=ErrorCurve((2.0,), (0.3,)))


def disturbed(truth: Scene) -> Scene:
    """Return a prediction in another unit whose nearest 30 % of depths are 25 % too far, with tracks of every pixel."""
    config = SyntheticConfig(num_frames=3, height=32, width=48, attempts=1)
    dense = render_scenes(make_scenes(config, 5, [1]), config, (0,))[0].scene
    tracks = dense.tracks
    assert tracks is not None
    is_known = truth.depth_confidence > 0
    is_near = is_known & (truth.depths < truth.depths[is_known].quantile(0.3))
    depths = torch.where(is_near, 1.25, 1.0) * truth.depths
    points = dense.points + 0.1 * truth.depths[..., None] * torch.tensor([0.6, 0.0, 0.8])
    confidence = torch.where(is_near, 2.0, 5.0)
    moved = replace(tracks, points=tracks.points + torch.tensor([0.0, 0.3, 0.0]), confidence=tracks.confidence + 6)
    prediction = replace(
        dense, depths=depths, points=points, depth_confidence=confidence, point_confidence=confidence, tracks=moved
    )
    unit = torch.eye(4)
    unit[:3, :3] *= 3
    return prediction.transformed(unit)
