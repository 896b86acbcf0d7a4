"""The moving mask is cut where it overlaps best with the truth, and one half stands for that place afterwards."""

from dataclasses import replace

import pytest
import torch
from walls import make_scene

from recon4d.cli.main import main
from recon4d.eval.calibration import (
    best_threshold,
    dynamic_mask_counts,
    overlap_at,
    shift_to_half,
)
from recon4d.eval.calibration.mask_threshold import CUTS, DynamicMaskCounts
from recon4d.models import Model
from recon4d.records import Scene
from recon4d.zoo import (
    create_model,
    load_model,
    model_config,
    save_model,
)
from recon4d.zoo.registry import HeadKind


def saying(moving: torch.Tensor) -> Scene:
    scene = make_scene()
    return replace(scene, dynamic=moving, depth_confidence=torch.ones_like(scene.depths))


def shy() -> tuple[Scene, Scene]:
    """A tenth moves; the network is .3 sure of most of it, and .1 sure of everything else."""
    truth = torch.zeros_like(make_scene().depths)
    truth.flatten()[::10] = 1
    said = torch.where(truth > 0, 0.3, 0.1)
    said.flatten()[::50] = 0.1
    return saying(said), saying(truth)


def test_the_cut_with_the_best_overlap_is_found() -> None:
    prediction, truth = shy()
    evidence = dynamic_mask_counts(prediction, truth)
    assert evidence is not None
    cut = best_threshold([evidence])
    assert cut is not None
    assert 0.1 < cut < 0.3
    assert overlap_at([evidence], 0.5) == 0
    assert overlap_at([evidence], cut) == pytest.approx(0.8, abs=0.02)
    mask, moves = prediction.dynamic > cut, truth.dynamic > 0.5
    assert overlap_at([evidence], cut) == pytest.approx(float((mask & moves).sum() / (mask | moves).sum()))


def test_every_clip_counts_the_same() -> None:
    low, high = torch.zeros_like(CUTS), torch.zeros_like(CUTS)
    low[5], high[30] = 0.9, 0.4
    assert best_threshold([DynamicMaskCounts(low), DynamicMaskCounts(high)]) == pytest.approx(float(CUTS[5]))
    assert best_threshold([DynamicMaskCounts(low)] + 3 * [DynamicMaskCounts(high)]) == pytest.approx(float(CUTS[30]))
    assert best_threshold([]) is None


def test_where_nothing_moves_or_is_said_there_is_no_evidence() -> None:
    prediction, truth = shy()
    assert dynamic_mask_counts(prediction, saying(torch.zeros_like(truth.dynamic))) is None
    assert dynamic_mask_counts(saying(torch.full_like(truth.dynamic, torch.nan)), truth) is None
    assert dynamic_mask_counts(prediction, replace(truth, depth_confidence=torch.zeros_like(truth.depths))) is None


@pytest.mark.parametrize("heads", ["linear", "dpt"])
def test_a_shift_moves_that_map_alone(heads: HeadKind) -> None:
    model = create_model("recon4d_tiny", weights=None, heads=heads)
    images = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(images)
        model.shift_dynamic_logits(1.5)
        after = model(images)
    torch.testing.assert_close(after.dynamic.logit(), before.dynamic.logit() + 1.5, atol=1e-3, rtol=1e-3)
    assert torch.equal(after.depths, before.depths)
    assert torch.equal(after.depth_confidence, before.depth_confidence)
    assert torch.equal(after.points, before.points)


def test_a_model_without_a_moving_map_has_none_to_shift() -> None:
    silent = replace(model_config("recon4d_tiny"), dense_groups=(("depth", "points"),))
    with pytest.raises(ValueError, match="does not say what moves"):
        Model(silent).shift_dynamic_logits(1.0)


def test_calibrate_writes_the_cut_into_the_weights(tmp_path, capsys) -> None:
    model = create_model("recon4d_tiny", weights=None)
    model.trained = True
    model.shift_dynamic_logits(-shift_to_half(0.2))
    save_model(model, tmp_path / "shy.safetensors")
    options = ["--clips", "3", "--held-out", "2", "--num-frames", "3", "--size", "64", "96", "--device", "cpu"]
    arguments = ["calibrate", str(tmp_path / "shy.safetensors"), "--out", str(tmp_path / "cut.safetensors"), *options]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "probable is above one half from now on" in printed
    images = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shy_answer, cut_answer = (load_model(tmp_path / f"{one}.safetensors")(images) for one in ("shy", "cut"))
    shift = cut_answer.dynamic.logit() - shy_answer.dynamic.logit()
    cut = float(printed.split("what was at least ")[1].split()[0])
    torch.testing.assert_close(shift.mean(), torch.tensor(shift_to_half(cut)), atol=0.05, rtol=0)
    assert torch.equal(cut_answer.depths, shy_answer.depths)
