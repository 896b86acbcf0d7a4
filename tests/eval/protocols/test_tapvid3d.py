"""TAPVid-3D: scores on paper and the published formulas."""

import numpy as np
import pytest
import torch
from camera_scenes import without_frames
from protocol_scenes import protocol_scenes
from scenes import HEIGHT, WIDTH, make_scene
from scored import SIM3, scores_by_name, tracks_of, with_tracks

from recon4d import geometry as g
from recon4d.eval.metrics.track_pairs import points_in_cameras, track_pairs
from recon4d.eval.protocols.tapvid3d import apd_and_aj, depth_scales, median_scale, pixel_widths, tapvid3d_scores
from recon4d.records import Scene


def published_tapvid3d(
    p: np.ndarray, t: np.ndarray, predicted_visibility: np.ndarray, true_visibility: np.ndarray, taus: list[np.ndarray]
) -> tuple[float, float]:
    shares, jaccards = [], []
    for tau in taus:
        near = ((p - t) ** 2).sum(-1) < tau**2
        shares.append((near & true_visibility).sum() / true_visibility.sum())
        false_positives = (predicted_visibility & (~true_visibility | ~near)).sum()
        jaccards.append(
            (near & true_visibility & predicted_visibility).sum() / (true_visibility.sum() + false_positives)
        )
    return float(np.mean(shares)), float(np.mean(jaccards))


@pytest.mark.parametrize("seed", range(2))
def test_tapvid3d_equals_the_published_formulas(seed: int) -> None:
    prediction, truth = protocol_scenes(seed)
    p, t = (
        g.transform_points(scene.cameras.cam_from_world.double(), tracks_of(scene).points[0].double()).numpy()
        for scene in (prediction, truth)
    )
    predicted_visibility, true_visibility = (
        tracks_of(prediction).visibility[0].numpy() > 0.5,
        tracks_of(truth).visibility[0].numpy() > 0.5,
    )
    side = 256 / min(HEIGHT, WIDTH)
    taus = [k * t[..., 2] / np.sqrt(20 * side * 22 * side) for k in (1, 2, 4, 8, 16)]
    fixed = [np.full_like(taus[0], limit) for limit in (0.01, 0.04, 0.16, 0.64, 2.56)]
    norms = [np.where(predicted_visibility & true_visibility, np.linalg.norm(x, axis=-1), np.nan) for x in (t, p)]
    by_median = p * np.nanmedian(norms[0]) / np.nanmedian(norms[1])
    by_depth = p * (t[0, :, 2] / p[0, :, 2])[None, :, None]
    wanted = {
        ("tapvid3d_apd", "tapvid3d_aj"): (by_median, taus),
        ("tapvid3d_apd_per_trajectory", "tapvid3d_aj_per_trajectory"): (by_depth, taus),
        ("tapvid3d_apd_none", "tapvid3d_aj_none"): (p * 2, taus),  # its unit is two meters
        ("tapvid3d_apd_fixed", "tapvid3d_aj_fixed"): (by_median, fixed),
    }
    scores = scores_by_name(tapvid3d_scores(prediction, truth))
    for (share, jaccard), (scaled, limits) in wanted.items():
        apd, aj = published_tapvid3d(scaled, t, predicted_visibility, true_visibility, limits)
        assert scores[share].value == pytest.approx(apd), share
        assert scores[jaccard].value == pytest.approx(aj), jaccard
    assert scores["tapvid3d_oa"].value == pytest.approx((predicted_visibility == true_visibility).mean())
    assert scores["tapvid3d_oa"].total == 60
    assert scores["tapvid3d_apd"].total == true_visibility.sum()


def test_tapvid3d_on_paper() -> None:
    errors = torch.tensor([[0.05, 0.1, 3.0, 0.0], [torch.nan, 0.0, 0.0, 0.0]])
    predicted_visibility = torch.tensor([[True, True, True, False], [False, True, True, True]])
    true_visibility = torch.tensor([[True, True, True, True], [True, False, True, True]])
    counted = torch.tensor([[True, True, True, True], [True, True, True, False]])
    # Six counted points are visible. Errors of 0.05, 0 and 0 are below 0.1; two of these points are predicted to be
    # visible, and so are three points that are occluded or too far away.
    apd, aj = apd_and_aj(errors, (0.1,), predicted_visibility, true_visibility, counted)
    assert apd == pytest.approx(3 / 6)
    assert aj == pytest.approx(2 / (6 + 3))
    apd, aj = apd_and_aj(errors, (0.1, 5.0), predicted_visibility, true_visibility, counted)
    assert apd == pytest.approx((3 / 6 + 5 / 6) / 2)
    assert aj == pytest.approx((2 / 9 + 4 / 7) / 2)


def test_pixel_width_is_for_an_image_with_a_shorter_side_of_256_pixels() -> None:
    points = torch.tensor([[[1.0, 2.0, 4.0]], [[1.0, 2.0, 8.0]]])
    intrinsics = torch.tensor([[90.0, 0.0, 64.0], [0.0, 160.0, 128.0], [0.0, 0.0, 1.0]]).repeat(2, 1, 1)
    intrinsics[1, 0, 0] = 360
    assert pixel_widths(points, intrinsics, (128, 512))[:, 0].tolist() == pytest.approx([4 / 240, 8 / 480])
    assert pixel_widths(points, intrinsics, (512, 128))[:, 0].tolist() == pytest.approx([4 / 240, 8 / 480])


def test_tapvid3d_scales_on_paper() -> None:
    true = torch.tensor([[[0.0, 3.0, 4.0], [0.0, 0.0, 2.0]], [[0.0, 0.0, 7.0], [0.0, 0.0, 50.0]]])
    predicted = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 8.0]], [[0.0, 0.0, 3.0], [0.0, 0.0, -1.0]]])
    both = torch.tensor([[True, False], [True, False]])
    assert float(median_scale(predicted, true, both)) == pytest.approx(6 / 2)
    assert median_scale(predicted, true, both & False).isnan()
    assert float(median_scale(predicted * 0, true, both)) == pytest.approx(6e6)
    assert depth_scales(predicted, true, torch.tensor([0, 0])).tolist() == [4, 0.25]
    assert depth_scales(predicted, true, torch.tensor([1, 1])).tolist() == pytest.approx([7 / 3, 50e12])


def test_tapvid3d_does_not_depend_on_the_world_frames_or_the_predicted_unit() -> None:
    prediction, truth = protocol_scenes(1)
    others = tapvid3d_scores(prediction.transformed(SIM3), truth.transformed(SIM3))
    for one, other in zip(tapvid3d_scores(prediction, truth), others, strict=True):
        assert one.value == pytest.approx(other.value, abs=0.02), one.metric


def test_points_of_an_unregistered_frame_are_errors_only_in_that_frame() -> None:
    truth = make_scene(4, metres_per_unit=1.0)
    scores = scores_by_name(tapvid3d_scores(without_frames(truth, 2), truth))
    for name in ("tapvid3d_apd", "tapvid3d_apd_per_trajectory", "tapvid3d_apd_none", "tapvid3d_apd_fixed"):
        assert scores[name].value == pytest.approx(3 / 4)
    assert scores["tapvid3d_oa"].value == 1
    pairs = track_pairs(truth, truth)
    assert torch.allclose(
        points_in_cameras(pairs.true, pairs.true_cameras)[3, :, 2], depth_in_frame(truth, 3), atol=1e-5
    )


def depth_in_frame(scene: Scene, frame: int) -> torch.Tensor:
    """Return the depth of the tracks in the camera of one frame, by projection on its viewing direction."""
    camera = scene.cameras.world_from_cam[frame]
    return (tracks_of(scene).points[0, frame] - camera[:3, 3]) @ camera[:3, 2]


def test_without_points_predicted_to_be_visible_there_is_no_scale_and_all_points_are_errors() -> None:
    _, truth = protocol_scenes(0)
    scores = scores_by_name(tapvid3d_scores(with_tracks(truth, visibility=torch.zeros(1, 6, 10)), truth))
    assert scores["tapvid3d_apd"].value == scores["tapvid3d_aj"].value == scores["tapvid3d_apd_fixed"].value == 0
    assert scores["tapvid3d_apd_none"].value == 1
    assert scores["tapvid3d_aj_none"].value == 0


def test_unknown_true_points_do_not_affect_the_scale_of_tapvid3d() -> None:
    _, truth = protocol_scenes(0)
    known, wild = torch.ones(1, 6, 10), tracks_of(truth).points.clone()
    known[0, 1:, :9] = 0
    wild[0, 1:, :9] = 1000
    unknown = with_tracks(truth, points=wild, confidence=known, visibility=torch.ones(1, 6, 10))
    prediction = with_tracks(truth, visibility=torch.ones(1, 6, 10))
    assert {score.value for score in tapvid3d_scores(prediction, unknown)} == {1}
