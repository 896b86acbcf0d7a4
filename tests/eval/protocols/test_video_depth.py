"""The video depth protocol: the published formulas, and the largest depth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from depth_scenes import noisy, partly_known, values, with_depths
from scenes import make_scene
from scored import scores_by_name

from recon4d.eval.protocols.video_depth import video_depth_scores
from recon4d.records import Scene


def published(prediction: Scene, truth: Scene, max_depth: float | None) -> dict[str, float]:
    """Compute the published protocol in NumPy: masks, Weiszfeld, Adam, clipping and means."""
    g = truth.depths.numpy().astype(float)
    mask = (truth.depth_confidence.numpy() > 0) & (g > 0) & (prediction.depth_confidence.numpy() > 0)
    if max_depth is not None:
        mask &= g < max_depth
    p, g = prediction.depths.numpy().astype(float)[mask], g[mask]
    s = np.mean(g) / np.mean(p)
    for _ in range(10):
        w = 1 / (np.abs(s * p - g) + 1e-8)
        s = np.sum(w * p * g) / np.sum(w * p * p)
    by_scale = max(s, 1e-3) * p
    lower = (len(p) - 1) // 2
    x, m, v, last = np.array([np.sort(g)[lower] / np.sort(p)[lower], 0.0]), np.zeros(2), np.zeros(2), None
    for step in range(1, 1001):
        r = x[0] * p + x[1] - g
        loss, gradient = np.abs(r).sum(), np.array([np.sum(np.sign(r) * p), np.sum(np.sign(r))])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x = x - 1e-4 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if last is not None and abs(last - loss) < 1e-6:
            break
        last = loss
    results = {}
    for name, aligned in (("scale", by_scale), ("scale_shift", x[0] * p + x[1])):
        clipped = aligned if max_depth is None else np.minimum(aligned, max_depth)
        results[f"video_depth_abs_rel_{name}"] = np.mean(abs(clipped - g) / g)
        if name == "scale":
            results["video_depth_rmse_scale"] = np.sqrt(np.mean((clipped - g) ** 2))
        floored = np.maximum(clipped, 1e-5)
        results[f"video_depth_delta_1_{name}"] = np.mean(np.maximum(floored / g, g / floored) < 1.25)
    return results


@pytest.mark.parametrize("max_depth", [None, 4.5, 70.0])
def test_video_depth_is_the_published_protocol(max_depth: float | None) -> None:
    truth, prediction = partly_known(make_scene()), noisy(make_scene(), 3)
    scores = video_depth_scores(prediction, truth, max_depth)
    assert values(scores) == pytest.approx(published(prediction, truth, max_depth), rel=1e-9)
    assert [score.alignment for score in scores] == ["L1 scale by Weiszfeld"] * 3 + ["L1 scale and shift by Adam"] * 2


def test_distant_pixels_are_skipped_and_distant_predictions_clipped() -> None:
    """Of the depths 1, 2, 4 and 8, three are below the bound of 8; the third is predicted at 40."""
    truth, prediction = with_depths([1.0, 2.0, 4.0, 8.0]), with_depths([1.0, 2.0, 40.0, 1.0])
    found = scores_by_name(video_depth_scores(prediction, truth, 8.0))
    scale = found["video_depth_abs_rel_scale"]
    assert (scale.count, scale.total) == (3, 3)
    # The L1 scale is 0.1 because of the weight of the distant pixel: the predictions become 0.1, 0.2 and 4.
    assert scale.value == pytest.approx((0.9 + 0.9 + 0) / 3, abs=1e-3)
    # Adam starts at a scale of 2 / 2 and changes it by about 0.1 at most: the third prediction stays above 8 and is
    # clipped.
    shift = found["video_depth_abs_rel_scale_shift"]
    assert shift.value == pytest.approx(published(prediction, truth, 8.0)["video_depth_abs_rel_scale_shift"])
    assert 1.0 / 3 < shift.value < 1.5 / 3


def test_max_depth_is_in_meters_and_the_prediction_keeps_its_unit() -> None:
    """The result of Adam depends on the unit of the prediction, which must not depend on the unit of the truth."""
    truth, prediction = make_scene(), noisy(make_scene())
    in_feet = replace(truth, depths=truth.depths / 0.25, metres_per_unit=torch.tensor(0.25))
    in_meters = replace(truth, metres_per_unit=torch.tensor(1.0))
    assert video_depth_scores(prediction, in_feet, 4.0) == video_depth_scores(prediction, in_meters, 4.0)
    unknown = scores_by_name(video_depth_scores(prediction, truth, 4.0))
    assert values(tuple(unknown.values())) == values(video_depth_scores(prediction, in_meters, 4.0))
    for name, score in unknown.items():
        assert ("not known in meters" in score.note) == ("rmse" in name)


def test_a_truth_beyond_max_depth_has_no_scores() -> None:
    assert video_depth_scores(make_scene(), make_scene(), 0.5) == ()


@pytest.mark.parametrize("max_depth", [0.0, -1.0, float("nan")])
def test_max_depth_must_be_positive(max_depth: float) -> None:
    with pytest.raises(ValueError, match="max_depth must be above 0"):
        video_depth_scores(make_scene(), make_scene(), max_depth)
