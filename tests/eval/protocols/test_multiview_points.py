"""The multi-view point protocol: cases by hand and the published formulas."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from camera_scenes import without_frames
from optional_packages import needs_open3d
from point_scenes import curved, with_known, with_noise
from scored import scores_by_name

from recon4d import geometry as g
from recon4d.eval.protocols import multiview_points
from recon4d.eval.protocols.multiview_points import is_in_center, multiview_point_scores, shift_and_scale
from recon4d.records import Scene
from recon4d.refine.no_solution import NoSolution

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.4, -1.0, 0.3])), torch.tensor([3.0, -1.0, 7.0])
)


def test_shift_and_scale_computed_by_hand() -> None:
    true = torch.tensor([[0.0, 0, 4], [2, 0, 5], [0, 4, 6], [0, 0, 20], [0, 0, 5]])
    # The medians are 0, 0 and 5; the distances from them are 1, 2, sqrt(17), 15 and 0.
    predicted = true / 4
    fit = shift_and_scale(predicted, true)
    assert (fit.predicted_z, fit.true_z) == (1.25, 5)
    assert fit.scale == pytest.approx(4)
    torch.testing.assert_close(fit.apply(predicted), true)
    torch.testing.assert_close(fit.apply(predicted + torch.tensor([0.0, 0, 9])), true + torch.tensor([0.0, 0, 36]))
    again = shift_and_scale(predicted + torch.tensor([1.0, 0, 9]), true)
    assert again.scale == pytest.approx(4)
    # A shift along z is removed, a shift along x is not.
    torch.testing.assert_close(again.apply(predicted + torch.tensor([1.0, 0, 9])), true + torch.tensor([4.0, 0, 0]))
    # The median of an even number of values is the lower of the two middle ones, as in torch.
    assert shift_and_scale(predicted[:4], true[:4]).true_z == 5
    with pytest.raises(NoSolution, match="both must be above 0"):
        shift_and_scale(torch.ones(3, 3), torch.eye(3))
    with pytest.raises(NoSolution, match="both must be above 0"):
        shift_and_scale(torch.tensor([[0.0, 0, 1], [5, 0, 1], [0, 7, 1]]), torch.ones(3, 3))
    with pytest.raises(ValueError, match="0 predicted and 0 true"):
        shift_and_scale(torch.ones(0, 3), torch.ones(0, 3))


def test_the_central_crop_has_224_pixels_or_the_whole_axis() -> None:
    inside = is_in_center(384, 513)
    assert inside.sum() == 224 * 224
    assert inside[80:304, 144:368].all()
    assert is_in_center(12, 16).all()
    assert is_in_center(225, 100)[:224].all()
    assert not is_in_center(225, 100)[224].any()
    assert is_in_center(300, 100)[38:262].all()


@needs_open3d
def test_the_published_protocol_is_reproduced_on_random_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    import open3d as o3d

    monkeypatch.setattr(multiview_points, "CROP", 10)
    truth = curved(frames=2)
    known = torch.rand(truth.depths.shape, generator=torch.Generator().manual_seed(3)) > 0.2
    truth = dataclasses.replace(with_known(truth, known), metres_per_unit=torch.tensor(0.5)).transformed(SIM3)
    prediction = with_noise(curved(frames=2, seed=1), 0.03, seed=4)
    scores = multiview_point_scores(prediction, truth, icp_distance=0.5)

    def in_first_camera(scene: Scene) -> np.ndarray:
        first = np.linalg.inv(scene.cameras.world_from_cam[0].double().numpy())
        return scene.points.double().numpy() @ first[:3, :3].T + first[:3, 3]

    def lower_median(values: np.ndarray) -> np.ndarray:
        return np.sort(values, axis=0)[(len(values) - 1) // 2]

    valid = known.numpy()
    p, q = in_first_camera(prediction), in_first_camera(truth)
    p[..., 2] -= lower_median(p[valid][:, 2])
    shift = lower_median(q[valid][:, 2])
    q[..., 2] -= shift
    norms = [np.linalg.norm(cloud[valid] - lower_median(cloud[valid]), axis=1) for cloud in (q, p)]
    p *= lower_median(norms[0]) / lower_median(norms[1])
    p, q, valid = p[:, 1:11, 3:13], q[:, 1:11, 3:13], valid[:, 1:11, 3:13]
    p[..., 2] += shift
    q[..., 2] += shift
    clouds = []
    for cloud in (p[valid], q[valid]):
        clouds.append(o3d.geometry.PointCloud())
        clouds[-1].points = o3d.utility.Vector3dVector(cloud)
    found = o3d.pipelines.registration.registration_icp(
        clouds[0], clouds[1], 0.5, np.eye(4), o3d.pipelines.registration.TransformationEstimationPointToPoint()
    )
    assert np.abs(found.transformation - np.eye(4)).max() > 1e-3
    clouds[0].transform(found.transformation)
    for cloud in clouds:
        cloud.estimate_normals()
    (a, normal_a), (b, normal_b) = ((np.asarray(cloud.points), np.asarray(cloud.normals)) for cloud in clouds)
    every = np.linalg.norm(a[:, None] - b, axis=-1)
    nc1 = np.abs((normal_a * normal_b[every.argmin(1)]).sum(1))
    nc2 = np.abs((normal_b * normal_a[every.argmin(0)]).sum(1))
    # The unit of the truth is 0.5 / 2.5 meters long.
    expected = {
        "multiview_accuracy": 0.2 * every.min(1).mean(),
        "multiview_accuracy_median": 0.2 * np.median(every.min(1)),
        "multiview_completeness": 0.2 * every.min(0).mean(),
        "multiview_completeness_median": 0.2 * np.median(every.min(0)),
        "multiview_nc1": nc1.mean(),
        "multiview_nc1_median": np.median(nc1),
        "multiview_nc2": nc2.mean(),
        "multiview_nc2_median": np.median(nc2),
        "multiview_nc": (nc1.mean() + nc2.mean()) / 2,
        "multiview_nc_median": (np.median(nc1) + np.median(nc2)) / 2,
    }
    assert [score.metric for score in scores] == list(expected)
    for score in scores:
        assert score.value == pytest.approx(expected[score.metric], rel=2e-3)
        assert score.total == len(b)
    assert scores_by_name(scores)["multiview_nc"].count == len(b)


@needs_open3d
def test_unknown_pixels_are_missing_only_in_the_predicted_cloud() -> None:
    truth = curved()
    known = torch.ones_like(truth.depths, dtype=torch.bool)
    known[:, :, 12:] = False
    scores = scores_by_name(multiview_point_scores(with_known(truth, known), truth))
    assert scores["multiview_accuracy"].value == pytest.approx(0, abs=1e-3)
    assert scores["multiview_completeness"].value > 0.05
    assert scores["multiview_completeness"].count == scores["multiview_accuracy"].total == 384
    assert scores["multiview_accuracy"].count == 288


def test_undefined_multiview_scores_give_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = curved()
    lost = without_frames(truth, 0)
    nowhere = torch.zeros_like(truth.depths, dtype=torch.bool)
    corner = nowhere.clone()
    corner[:, :3, :3] = True
    at_one_place = dataclasses.replace(truth, points=torch.ones_like(truth.points))
    monkeypatch.setattr(multiview_points, "CROP", 4)
    for prediction, true, why in (
        (lost, truth, "the first camera is not known"),
        (truth, lost, "the first camera is not known"),
        (with_known(truth, nowhere), truth, "no point is known in both"),
        (at_one_place, truth, "both must be above 0"),
        (with_known(truth, corner), truth, "the central crop has 0 predicted and 32 true points"),
    ):
        scores = multiview_point_scores(prediction, true)
        assert [score.metric for score in scores] == [metric.name for metric in multiview_point_scores.metrics]
        for score in scores:
            assert math.isnan(score.value)
            assert why in score.note
            assert score.total == 2 * 4 * 4
