"""Camera paths are drawn in meters, in the order of time and at one scale."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from camera_scenes import without_frames
from matplotlib.figure import Figure
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.path_pictures import aligned_camera_centers, draw_paths
from recon4d.geometry import rotation_from_axis_angle, similarity


def predicted(scene) -> Prediction:
    return Prediction.from_scene(scene, 1.0)


def test_paths_agree_after_a_similarity_and_unregistered_frames_are_unknown():
    truth = make_scene(6, metres_per_unit=2.0)
    turn = rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2]))
    moved = truth.transformed(similarity(torch.tensor(3.0), turn, torch.tensor([1.0, 2.0, -5.0])))
    true, predicted = aligned_camera_centers(truth, without_frames(moved, 2))
    assert torch.equal(true, truth.cameras.centers.double())
    placed = torch.tensor([0, 1, 3, 4, 5])
    assert torch.allclose(predicted[placed], true[placed], atol=1e-5)
    assert predicted[2].isnan().all()
    assert aligned_camera_centers(truth, None)[1].isnan().all()
    assert aligned_camera_centers(truth, without_frames(moved, *range(6)))[1].isnan().all()


def lines_of(sample: Sample, scene) -> list[dict[str, tuple[np.ndarray, str]]]:
    """Return positions and line style of each drawn path by its label, for both views."""
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, sample, scene, 0.4)
    return [
        {str(line.get_label()): (line.get_xydata(), line.get_linestyle()) for line in axes.lines}
        for axes in figure.axes
    ]


def test_paths_are_drawn_in_meters_with_crosses_for_missing_frames():
    sample = Sample(make_clip(6), make_scene(6, metres_per_unit=2.0))
    scene = without_frames(sample.scene, 0, 4)
    above, side = lines_of(sample, scene)
    centers = 2 * sample.scene.cameras.centers.numpy()
    assert above["true"][0] == pytest.approx(centers[:, [0, 2]])
    assert side["true"][0] == pytest.approx(centers[:, [2, 1]])
    assert above["not registered (2 of 6)"][0] == pytest.approx(centers[[0, 4]][:, [0, 2]])
    assert above["predicted, aligned"][0][[1, 2, 3, 5]] == pytest.approx(centers[[1, 2, 3, 5]][:, [0, 2]], abs=1e-5)
    assert np.isnan(above["predicted, aligned"][0][[0, 4]]).all()
    assert above["first frame"][0] == pytest.approx(centers[:1, [0, 2]])
    assert above["true"][1] == "-"
    assert not [label for label in lines_of(sample, sample.scene)[0] if label.startswith("not registered")]
    failed = lines_of(sample, None)[0]
    assert "true" in failed
    assert not [label for label in failed if label.startswith(("predicted", "not registered"))]


def test_paths_are_in_the_order_of_time_and_photos_are_not_connected():
    sample = Sample(make_clip(4), make_scene(4))
    shuffled = replace(sample, clip=replace(sample.clip, times=torch.tensor([0.2, 0.0, 0.3, 0.1])))
    centers = sample.scene.cameras.centers.numpy()
    above = lines_of(shuffled, sample.scene)[0]
    assert above["true"][0] == pytest.approx(centers[[1, 3, 0, 2]][:, [0, 2]])
    assert above["first frame"][0] == pytest.approx(centers[:1, [0, 2]])
    photos = replace(sample, clip=replace(sample.clip, times=torch.full((4,), math.nan)))
    above = lines_of(photos, sample.scene)[0]
    assert above["true"][1] == "None"
    assert above["true"][0] == pytest.approx(centers[:, [0, 2]])


def test_both_views_share_one_scale_and_the_side_view_is_upright():
    sample = Sample(make_clip(6), make_scene(6))
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, sample, sample.scene, 0.4)
    above, side = figure.axes
    # The world's y axis points down, and so does that of the side view.
    assert (above.yaxis_inverted(), side.yaxis_inverted()) == (False, True)
    for axes in (above, side):
        low, high = np.sort([axes.get_xlim(), axes.get_ylim()], axis=1).T
        for line in axes.lines:
            assert ((line.get_xydata() >= low) & (line.get_xydata() <= high)).all()
        assert high - low == pytest.approx(1.15 * np.ptp(sample.scene.cameras.centers.numpy(), axis=0).max(), rel=1e-4)
    static = replace(sample.scene.cameras, world_from_cam=torch.eye(4).expand(6, 4, 4))
    without_motion = replace(sample, scene=replace(sample.scene, cameras=static))
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, without_motion, None, 0.4)
    assert figure.axes[0].get_xlim() == (-0.5, 0.5)
