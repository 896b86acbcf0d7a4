"""The threshold of the dynamic mask maximizes the overlap with the truth, and becomes one half after calibration."""

from dataclasses import replace

import pytest
import torch
from walls import make_scene

from recon4d.eval.calibration import best_threshold, dynamic_mask_ious, mean_iou_at
from recon4d.eval.calibration.mask_threshold import THRESHOLDS, DynamicMaskIous
from recon4d.models import Model
from recon4d.records import Scene
from recon4d.zoo import create_model, model_config
from recon4d.zoo.registry import HeadKind


def scene_with(dynamic: torch.Tensor) -> Scene:
    """Return the wall with a map of dynamic probabilities and known depth everywhere."""
    scene = make_scene()
    return replace(scene, dynamic=dynamic, depth_confidence=torch.ones_like(scene.depths))


def underconfident() -> tuple[Scene, Scene]:
    """Return prediction and truth: a tenth of the pixels is dynamic, most with a probability of .3, others of .1."""
    truth = torch.zeros_like(make_scene().depths)
    truth.flatten()[::10] = 1
    predicted = torch.where(truth > 0, 0.3, 0.1)
    predicted.flatten()[::50] = 0.1
    return scene_with(predicted), scene_with(truth)


def test_the_threshold_with_the_best_iou_is_found() -> None:
    prediction, truth = underconfident()
    clip = dynamic_mask_ious(prediction, truth)
    threshold = best_threshold([clip])
    assert 0.1 < threshold < 0.3
    assert mean_iou_at([clip], 0.5) == 0
    assert mean_iou_at([clip], threshold) == pytest.approx(0.8, abs=0.02)
    mask, true_mask = prediction.dynamic > threshold, truth.dynamic > 0.5
    iou = float((mask & true_mask).sum() / (mask | true_mask).sum())
    assert mean_iou_at([clip], threshold) == pytest.approx(iou)


def test_every_clip_has_the_same_weight() -> None:
    low, high = torch.zeros_like(THRESHOLDS), torch.zeros_like(THRESHOLDS)
    low[5], high[30] = 0.9, 0.4
    assert best_threshold([DynamicMaskIous(low), DynamicMaskIous(high)]) == pytest.approx(float(THRESHOLDS[5]))
    assert best_threshold([DynamicMaskIous(low)] + 3 * [DynamicMaskIous(high)]) == pytest.approx(float(THRESHOLDS[30]))
    assert best_threshold([]) is None


def test_clips_without_dynamic_pixels_or_probabilities_are_skipped() -> None:
    prediction, truth = underconfident()
    assert dynamic_mask_ious(prediction, scene_with(torch.zeros_like(truth.dynamic))) is None
    assert dynamic_mask_ious(scene_with(torch.full_like(truth.dynamic, torch.nan)), truth) is None
    assert dynamic_mask_ious(prediction, replace(truth, depth_confidence=torch.zeros_like(truth.depths))) is None


@pytest.mark.parametrize("heads", ["linear", "dpt"])
def test_a_shift_changes_only_the_dynamic_map(heads: HeadKind) -> None:
    model = create_model("recon4d_tiny", pretrained=False, heads=heads)
    images = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(images)
        model.shift_dynamic_logits(1.5)
        after = model(images)
    torch.testing.assert_close(after.dynamic.logit(), before.dynamic.logit() + 1.5, atol=1e-3, rtol=1e-3)
    assert torch.equal(after.depths, before.depths)
    assert torch.equal(after.depth_confidence, before.depth_confidence)
    assert torch.equal(after.points, before.points)


def test_a_model_without_a_dynamic_map_cannot_be_shifted() -> None:
    config = replace(model_config("recon4d_tiny"), dense_groups=(("depth", "points"),))
    with pytest.raises(ValueError, match="does not predict the dynamic probability"):
        Model(config).shift_dynamic_logits(1.0)
