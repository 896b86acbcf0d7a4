"""True queries are matched to predicted ones in one world frame."""

from dataclasses import replace

import pytest
import torch
from camera_scenes import without_frames
from scenes import HEIGHT, WIDTH, make_scene
from scored import SIM3, scores_by_name, tracks_of, with_tracks
from track_scenes import by_hand, random_scenes

from recon4d import geometry as g
from recon4d.eval.metrics.track_pairs import nearest_queries, track_pairs
from recon4d.eval.metrics.tracks import track_scores


def test_the_order_of_anchors_and_queries_does_not_matter() -> None:
    prediction, truth = random_scenes(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    p = tracks_of(prediction)
    rotated = with_tracks(
        prediction,
        points=p.points[[1, 0]][:, :, order],
        visibility=p.visibility[[1, 0]][:, :, order],
        confidence=p.confidence[[1, 0]][:, :, order],
        anchors=p.anchors[[1, 0]],
        pixels=p.pixels[[1, 0]][:, order] + 0.3,
    )
    for one, other in zip(track_scores(prediction, truth), track_scores(rotated, truth), strict=True):
        assert one.value == pytest.approx(other.value, nan_ok=True), one.metric


def test_world_frame_is_the_first_camera_registered_in_both_scenes() -> None:
    truth = make_scene(4, anchors=(0, 2), metres_per_unit=1.0)
    prediction = without_frames(truth, 0, 1).transformed(SIM3)
    pairs = track_pairs(prediction, truth)
    assert torch.equal(pairs.predicted_cameras.world_from_cam[2], torch.eye(4))
    assert torch.equal(pairs.true_cameras.world_from_cam[2], torch.eye(4))
    assert torch.allclose(pairs.predicted / 2.5, pairs.true, atol=1e-4)
    assert scores_by_name(track_scores(prediction, truth))["epe"].value == pytest.approx(0, abs=1e-4)
    lost = without_frames(truth, 0, 1, 2, 3)
    assert torch.equal(track_pairs(lost, truth).predicted, track_pairs(truth, truth).predicted)


def brute_force(pixels: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    distances = (pixels[:, None].double() - predicted.double()).norm(dim=-1)
    return torch.where(distances.amin(dim=1) <= 0.75, distances.argmin(dim=1), -1)


def test_the_containing_pixel_of_a_dense_prediction_is_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(500, 2, generator=generator) * torch.tensor([WIDTH + 4.0, HEIGHT + 4.0]) - 2
    dense = g.pixel_grid(HEIGHT, WIDTH).reshape(-1, 2)
    nothing = torch.zeros(len(dense), dtype=torch.bool)
    index = nearest_queries(pixels, dense, nothing, (HEIGHT, WIDTH))
    assert torch.equal(index, brute_force(pixels, dense))
    assert (index == -1).any()
    assert nearest_queries(torch.tensor([[-0.25, 0.5], [0.5, -0.26]]), dense, nothing, (HEIGHT, WIDTH)).tolist() == [
        0,
        -1,
    ]
    inside = ((pixels >= 0) & (pixels < torch.tensor([WIDTH, HEIGHT]))).all(dim=-1)
    floored = pixels.floor().long()
    assert torch.equal(index[inside], (floored[:, 1] * WIDTH + floored[:, 0])[inside])


def test_a_dense_prediction_of_another_size_is_matched_in_its_own_pixels() -> None:
    size = (48, 64)
    resized = g.pixel_grid(HEIGHT, WIDTH).reshape(-1, 2) * 4
    pixels = torch.tensor([[0.1, 0.1], [3.9, 0.2], [4.1, 7.9], [63.9, 47.9]])
    found = torch.ones(len(resized), dtype=torch.bool)
    assert nearest_queries(pixels, resized, found, size).tolist() == [0, 0, WIDTH + 1, HEIGHT * WIDTH - 1]
    # With an additional query or on a coarse grid, the prediction is sparse: the limit is 0.75 pixels.
    more = torch.cat([resized, resized[:1]])
    assert nearest_queries(pixels, more, torch.ones(len(more), dtype=torch.bool), size).tolist() == [-1] * 4
    assert nearest_queries(pixels, resized + 0.009, found, size).tolist() == [0, 0, WIDTH + 1, HEIGHT * WIDTH - 1]
    assert nearest_queries(pixels, resized + 0.011, found, size).tolist() == [-1] * 4
    coarse = g.pixel_grid(4, 4).reshape(-1, 2)
    assert nearest_queries(pixels, coarse * 16, found[:16], (64, 64)).tolist() == [0, 0, 0, 11]
    assert nearest_queries(pixels, coarse * 16.5, found[:16], (66, 66)).tolist() == [-1] * 4


def test_sparse_queries_are_matched_to_the_nearest_one_with_a_track_within_three_quarters_of_a_pixel() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels, predicted = (torch.rand(n, 2, generator=generator) * 20 for n in (200, 150))
    everywhere = torch.ones(150, dtype=torch.bool)
    index = nearest_queries(pixels, predicted, everywhere, (20, 20))
    assert torch.equal(index, brute_force(pixels, predicted))
    assert 0 < int((index >= 0).sum()) < 200
    some = torch.rand(150, generator=generator) > 0.5
    wanted = brute_force(pixels, torch.where(some[:, None], predicted, 1e6))
    predicted[~some] = torch.nan
    assert torch.equal(nearest_queries(pixels, predicted, some, (20, 20)), wanted)
    assert torch.equal(nearest_queries(pixels, predicted, everywhere, (20, 20)), wanted)
    assert (nearest_queries(pixels, predicted, ~everywhere, (20, 20)) == -1).all()
    limit = torch.tensor([[5.0, 5.0], [5.0, 15.001], [18.0, 2.0]])
    centers = torch.tensor([[5.75, 5.0], [5.75, 15.0], [9.0, 9.0]])
    assert nearest_queries(limit, centers, everywhere[:3], (20, 20)).tolist() == [0, -1, -1]


def test_equal_queries_are_matched_in_order_even_if_they_coincide() -> None:
    pixels = torch.tensor([[3.2, 4.1], [3.2, 4.1], [0.0, 0.0]])
    assert nearest_queries(pixels, pixels.clone(), torch.ones(3, dtype=torch.bool), (20, 20)).tolist() == [0, 1, 2]


def test_dense_queries_are_matched_without_comparing_all_pairs() -> None:
    dense = g.pixel_grid(768, 1024).reshape(-1, 2)
    index = nearest_queries(dense + 0.2, dense, torch.ones(len(dense), dtype=torch.bool), (768, 1024))
    assert torch.equal(index, torch.arange(len(dense)))


def test_unsuitable_scenes_raise_value_errors() -> None:
    prediction, truth = by_hand()
    with pytest.raises(ValueError, match="has no tracks"):
        track_pairs(prediction, replace(truth, tracks=None))
    with pytest.raises(ValueError, match=r"3 frames of .* the truth 4"):
        track_pairs(prediction.frames([0, 1, 2]), truth)
    with pytest.raises(ValueError, match="apply pair_with_truth first"):
        track_pairs(prediction.resized(6, 8), truth)
    with pytest.raises(ValueError, match="no camera in 1 of 4 frames"):
        track_pairs(prediction, without_frames(truth, 1))
    points = tracks_of(truth).points.clone()
    points[0, 2, 1, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite at 1 places"):
        track_pairs(prediction, with_tracks(truth, points=points))
    confidence = torch.ones(1, 4, 3)
    confidence[0, 2, 1] = 0
    assert track_scores(prediction, with_tracks(truth, points=points, confidence=confidence))
