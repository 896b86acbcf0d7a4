"""Training: the objective falls, runs stop and resume exactly, and non-finite gradients change nothing."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_run import config
from training_states import ROOT, assert_same, final_state

import recon4d
from recon4d.cli.main import main
from recon4d.errors import UserError
from recon4d.train import loop, run_folder
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.checkpoints import (
    DamagedCheckpointError,
    keep_last_and_best,
    latest_complete,
    list_checkpoints,
)
from recon4d.train.config import (
    DataConfig,
    DataSet,
    OptimiserConfig,
    Shape,
    TrainConfig,
)
from recon4d.train.loop import DivergedError, make_trainable_model, train
from recon4d.train.objective import TrainModule, objective
from recon4d.train.optimizers import make_optimizers
from recon4d.train.run_folder import begin_run, read_config
from recon4d.zoo import head_kind, load_model, model_config


@pytest.mark.end_to_end
def test_resuming_a_killed_run_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = replace(config(steps=8), validate_every=4)
    train(training, tmp_path / "straight")
    with monkeypatch.context() as patched:
        original_step = loop._TrainingRun._train_step

        def step_or_die(self, step, parts):
            if step == 7:
                raise SystemExit("killed")
            return original_step(self, step, parts)

        patched.setattr(loop._TrainingRun, "_train_step", step_or_die)
        with pytest.raises(SystemExit):
            train(training, tmp_path / "killed")
    left = latest_complete(tmp_path / "killed" / "checkpoints")
    assert left is not None
    assert left.step == 5
    train(training, tmp_path / "killed", left)
    straight, resumed = final_state(tmp_path / "straight"), final_state(tmp_path / "killed")
    assert straight["step"] == 8
    assert_same(straight, resumed)


def test_micro_batches_are_parts_of_the_batch() -> None:
    """Two micro-batches contain the clips of one batch."""
    whole, halves = (Batches(replace(config(), accumulate=parts), RankInfo()).from_step(3) for parts in (1, 2))
    (_, (batch,)), (_, parts) = next(whole), next(halves)
    images = torch.cat([part.sample.clip.images for part in parts])
    assert torch.equal(images, batch.sample.clip.images)
    assert torch.equal(torch.cat([part.anchors for part in parts]), batch.anchors)


def test_ranks_split_the_global_batch() -> None:
    alone = Batches(config(), RankInfo()).synthetic_batch(7, 0)
    shared = [Batches(config(), RankInfo(rank, 2)).synthetic_batch(7, 0) for rank in (0, 1)]
    images = torch.cat([one.sample.clip.images for one in shared])
    assert torch.equal(images, alone.sample.clip.images)
    with pytest.raises(ValueError, match="cannot be split evenly into 3 processes"):
        Batches(config(), RankInfo(0, 3))


@pytest.mark.end_to_end
def test_a_third_of_the_clips_has_priors_and_half_have_another_anchor() -> None:
    batches = Batches(replace(config(), data=DataConfig(shapes=("4x32x32",), batch_size=16)), RankInfo())
    parts = [batches.synthetic_batch(step, 0) for step in range(5)]
    priors = [part.sample.clip.priors for part in parts]
    has_intrinsics = torch.cat([one.intrinsics.isfinite().all(-1).all(-1).all(-1) for one in priors if one])
    has_cameras = torch.cat([one.world_from_cam.isfinite().all(-1).all(-1).all(-1) for one in priors if one])
    anchors = torch.cat([part.anchors for part in parts])
    assert 0.2 < has_intrinsics.float().mean() < 0.5
    assert 0.08 < has_cameras.float().mean() < 0.3
    assert not (has_cameras & ~has_intrinsics).any()
    assert 0.2 < (anchors > 0).float().mean() < 0.6


@pytest.mark.end_to_end
def test_one_clip_can_be_overfitted() -> None:
    """The objective falls by nine tenths within 60 steps."""
    data = DataConfig(shapes=("3x64x96",), batch_size=1, known_share=0, other_anchor_share=0)
    training = TrainConfig(model="recon4d_tiny", data=data)
    batch = Batches(training, RankInfo()).synthetic_batch(5000, 0)
    model = make_trainable_model(training)
    train_module = TrainModule(model)
    optimizers = make_optimizers(model, OptimiserConfig(muon_rate=2e-2, adamw_rate=7e-3))
    history = []
    for step in range(60):
        loss, _ = objective(*train_module(batch), training.losses)
        history.append(loss.item())
        optimizers.zero_grad()
        loss.backward()
        optimizers.step(min(1, (step + 1) / 5, (60 - step) / 30))
    assert history[0] > 8
    assert history[-1] < 0.1 * history[0]


def test_non_finite_steps_change_nothing_and_too_many_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_forward = TrainModule.forward

    def broken_forward(self, batch):
        totals, counts = original_forward(self, batch)
        is_broken = broken_forward.calls in broken_forward.broken
        broken_forward.calls += 1
        return (totals * torch.nan if is_broken else totals), counts

    broken_forward.calls, broken_forward.broken = 0, {2}
    monkeypatch.setattr(TrainModule, "forward", broken_forward)
    train(replace(config(1, steps=3), save_every=1, validate_every=9, log_every=1), tmp_path / "a")
    before, after = (one.load_state() for one in list_checkpoints(tmp_path / "a" / "checkpoints")[-2:])
    assert (before["step"], after["step"]) == (2, 3)
    assert (before["skipped"], after["skipped"]) == (0, 1)
    assert_same(before["model"], after["model"])
    for one, other in zip(before["optimisers"]["optimisers"], after["optimisers"]["optimisers"], strict=True):
        assert_same(one["state"], other["state"])

    broken_forward.calls, broken_forward.broken = 0, set(range(6, 100))
    with pytest.raises(DivergedError, match="3 steps had gradients that are not finite, more than 2"):
        train(replace(config(1, steps=20), most_skipped=2, log_every=1), tmp_path / "b")
    kept = latest_complete(tmp_path / "b" / "checkpoints")
    assert kept is not None
    assert kept.step == 5


@pytest.mark.end_to_end
def test_sigterm_saves_a_checkpoint_from_which_the_run_resumes(tmp_path: Path) -> None:
    def terminate_soon() -> None:
        while not (tmp_path / "run" / "log.jsonl").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate_soon, daemon=True).start()
    outcome = train(replace(config(steps=400), log_every=2), tmp_path / "run")
    assert not outcome.is_finished
    assert 2 <= outcome.step < 400
    assert outcome.checkpoint.step == outcome.step
    resumed = train(
        replace(config(steps=outcome.step + 2), log_every=2),
        tmp_path / "run",
        latest_complete(tmp_path / "run/checkpoints"),
    )
    assert resumed.is_finished
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_truncated_checkpoint_is_rejected_and_the_one_before_is_used(tmp_path: Path) -> None:
    train(replace(config(1, steps=4), save_every=2, validate_every=99), tmp_path)
    first, last = list_checkpoints(tmp_path / "checkpoints")
    state = (last.folder / "state.pt").read_bytes()
    (last.folder / "state.pt").write_bytes(state[:-100])
    with pytest.raises(DamagedCheckpointError, match=f"the latest complete one before it is {first.folder}"):
        last.load_state()
    assert latest_complete(tmp_path / "checkpoints") == first
    (first.folder / "complete.json").unlink()
    assert latest_complete(tmp_path / "checkpoints") is None
    with pytest.raises(DamagedCheckpointError, match="there is no earlier one"):
        first.load_state()


def test_the_next_start_removes_partial_checkpoints(tmp_path: Path) -> None:
    partial = tmp_path / "checkpoints" / ".step_00000001.partial-0123abcd"
    partial.mkdir(parents=True)
    with pytest.warns(UserWarning, match=f"removed partial checkpoints of a stopped run in .*: {partial.name}$"):
        train(config(steps=1), tmp_path)
    assert not partial.exists()


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    from recon4d.train.checkpoints import write_checkpoint

    model = make_trainable_model(config())
    for step, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)):
        write_checkpoint(tmp_path, step, model, {"step": step}, score)
        keep_last_and_best(tmp_path, keep=2)
    assert [one.step for one in list_checkpoints(tmp_path)] == [2, 4, 5]
    assert {path.name for path in tmp_path.iterdir()} == {f"step_{step:08d}" for step in (2, 4, 5)}


def test_a_score_is_stored_with_the_checkpoint_of_its_step(tmp_path: Path) -> None:
    train(replace(config(1, steps=5), validate_every=2, save_every=1, keep=20), tmp_path)
    scores = {one.step: one.score() for one in list_checkpoints(tmp_path / "checkpoints")}
    # The last one is always validated.
    assert {step: math.isfinite(score) for step, score in scores.items()} == {
        **dict.fromkeys((1, 3), False),
        **dict.fromkeys((2, 4, 5), True),
    }
    assert len({scores[step] for step in (2, 4, 5)}) == 3


def test_the_saved_model_has_the_averaged_weights_and_loads_like_any_other(tmp_path: Path) -> None:
    outcome = train(replace(config(1, steps=3), validate_every=99), tmp_path)
    model = load_model(outcome.checkpoint.model_file)
    assert (model.name, model.trained) == ("recon4d_tiny", True)
    state = outcome.checkpoint.load_state()
    averaged = state["average"]["average"]
    weights = dict(model.named_parameters())
    assert any(not torch.equal(state["model"][name], averaged[name]) for name in averaged)
    for name, value in averaged.items():
        assert torch.equal(weights[name], value)


def test_models_with_frozen_and_lora_layers_are_saved_as_plain_models(tmp_path: Path) -> None:
    training = replace(config(1, steps=3), freeze=("*",), lora=("aggregator.*.qkv",), lora_rank=2, validate_every=99)
    outcome = train(training, tmp_path)
    start, trained = make_trainable_model(config()), load_model(outcome.checkpoint.model_file)
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, start.state_dict()[name])}
    assert changed
    assert all(name.startswith("aggregator.") and name.endswith("qkv.weight") for name in changed)


def test_a_run_with_dpt_heads_resumes_and_its_checkpoints_start_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run folder and the checkpoints contain the kind of heads; it cannot be changed afterwards."""
    run = tmp_path / "run"
    begin_run(run, replace(config(1, steps=2), heads="dpt", save_every=1))
    train(replace(read_config(run), steps=1), run)
    assert main(["train", "--resume", str(run)]) == 0
    (*_, last) = list_checkpoints(run / "checkpoints")
    assert last.step == 2
    trained = load_model(last.model_file)
    assert head_kind(trained.config) == "dpt"
    assert trained.config == model_config("recon4d_tiny", "dpt")

    from_checkpoint = replace(config(), init=str(last.model_file))
    for heads in ("auto", "dpt"):
        started = make_trainable_model(replace(from_checkpoint, heads=heads))
        assert_same(dict(started.named_parameters()), dict(trained.named_parameters()))
    options = ["--config.heads", "linear", "--config.init", str(last.model_file), "--out", str(tmp_path / "other")]
    assert main(["train", "--config.model", "recon4d_tiny", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "heads = 'linear', but checkpoint" in line
    assert "keeps its own dpt heads" in line
    assert "(give --config.heads auto)" in line


def test_published_models_keep_their_heads() -> None:
    """They are not created for the error, which would allocate gigabytes."""
    for model, heads, own in (("vggt_1b", "linear", "dpt"), ("vggt_omega_1b", "dpt", "shuffle")):
        with pytest.raises(UserError, match=f"published model {model} keeps its own {own} heads"):
            make_trainable_model(TrainConfig(model=model, heads=heads))


@pytest.mark.end_to_end
def test_data_sets_and_synthetic_scenes_alternate(tmp_path: Path) -> None:
    """Two data sets, one of them without tracks; and resuming is exact."""
    for layout, frames in (("point-odyssey", 6), ("kubric", 6)):
        command = ["render", "--format", layout, "--clips", "2", "--num-frames", str(frames), "--size", "48", "64"]
        assert main([*command, "--tracks", "32", "--out", str(tmp_path / layout)]) == 0
    sets = tuple(f"{layout}={tmp_path / layout}" for layout in ("point-odyssey", "kubric"))
    data = DataConfig(sets=sets, shapes=("2x48x64", "3x32x48"), batch_size=2)
    training = replace(config(steps=6), data=data, save_every=3, validate_every=99)
    batches = Batches(training, RankInfo())
    kinds = [batches.is_synthetic(step) for step in range(200)]
    assert 0.2 < sum(kinds) / 200 < 0.5
    assert len(set(kinds[:3])) == len(set(kinds[3:6])) == 2
    train(training, tmp_path / "straight")
    middle = list_checkpoints(tmp_path / "straight" / "checkpoints")[0]
    assert middle.step == 3
    (tmp_path / "again" / "checkpoints").mkdir(parents=True)
    middle.folder.rename(tmp_path / "again" / "checkpoints" / middle.folder.name)
    train(training, tmp_path / "again", latest_complete(tmp_path / "again" / "checkpoints"))
    assert_same(final_state(tmp_path / "straight"), final_state(tmp_path / "again"))


def test_a_run_folder_holds_configuration_and_environment(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", config())
    assert read_config(tmp_path / "run") == config()
    about = json.loads((tmp_path / "run" / "about.json").read_text())
    assert (about["torch"], about["recon4d"]) == (torch.__version__, recon4d.__version__)
    assert set(about) == {"recon4d", "torch", "python", "device", "attention", "commit"}
    with pytest.raises(UserError, match="is not empty; choose a new folder, or resume"):
        begin_run(tmp_path / "run", config())
    with pytest.raises(UserError, match=r"is not a training run: it has no config\.json"):
        read_config(tmp_path)


def test_a_run_can_begin_in_a_new_or_empty_folder(tmp_path: Path) -> None:
    begin_run(tmp_path / "deep" / "run", config())
    (tmp_path / "empty").mkdir()
    begin_run(tmp_path / "empty", config())
    assert read_config(tmp_path / "deep" / "run") == read_config(tmp_path / "empty")


def test_a_run_stores_its_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source" / "run_folder.py"
    source.parent.mkdir()
    source.write_text("1")
    monkeypatch.setattr(run_folder, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=somebody", "-c", "user.email=some@body", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *arguments], cwd=source.parent, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit_of(run: str) -> str:
        begin_run(tmp_path / run, config())
        return json.loads((tmp_path / run / "about.json").read_text())["commit"]

    assert commit_of("outside") == ""
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    (source.parent / "note.txt").write_text("an untracked file")
    assert commit_of("clean") == git("rev-parse", "HEAD")
    source.write_text("2")
    assert commit_of("changed") == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", "")
    assert commit_of("without git") == ""


def test_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config.model", "recon4d_tiny", "--config.steps", "2", "--config.data.batch-size", "2"]
    options += ["--config.validation-clips", "1", "--config.data.shapes", "2x32x32"]
    run = tmp_path / "run"
    assert main(["train", *options, "--out", str(run)]) == 0
    assert "finished after step 2" in capsys.readouterr().out
    assert main(["train", *options, "--out", str(run)]) == 2
    assert (
        "is not empty; choose a new folder, or resume the run in it (give another --out, or --resume)"
        in capsys.readouterr().err
    )
    assert main(["train", "--resume", str(run)]) == 2
    assert "was at step 2 already" in capsys.readouterr().err
    assert main(["train", *options]) == 2
    assert "either --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps = 0; wanted at least 1"),
        ({"freeze": ("nothing.*",)}, "matches no parameter"),
        ({"init": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"data": DataConfig(sets=("nonsense=x",))}, "unknown data set 'nonsense'"),
        ({"data": DataConfig(batch_size=3), "accumulate": 2}, "cannot be split evenly"),
        ({"data": DataConfig(shapes=("2x40x48",))}, "shape '2x40x48'; recon4d_tiny needs .* multiples of 16"),
    ],
)
def test_unsuitable_configurations_are_rejected(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises((UserError, OSError), match=message):
        train(replace(config(steps=1), **change), tmp_path)


def test_shapes_and_data_sets_are_parsed() -> None:
    assert Shape.parse("8x192x256") == Shape(8, 192, 256)
    assert Shape.parse("2x448x336*0.5@2") == Shape(2, 448, 336, weight=0.5, batch_factor=2.0)
    assert DataSet.parse("kubric=/data/movi") == DataSet("kubric", "/data/movi")
    assert DataSet.parse("point-odyssey=/d/po@val*2.5") == DataSet("point-odyssey", "/d/po", "val", 2.5)
    for text in ("8x192", "0x64x64", "8x16x64", "8x64x64*0", "8x64x64*1.2.3"):
        with pytest.raises(ValueError, match=f"shape '{re.escape(text)}'"):
            DataConfig(shapes=(text,))
    with pytest.raises(UserError, match=r"data set 'kubric=x\*0' has weight 0"):
        DataConfig(sets=("kubric=x*0",))
    with pytest.raises(UserError, match="data set 'kubric'"):
        DataConfig(sets=("kubric",))
    with pytest.raises(ValueError, match="nothing to train on"):
        DataConfig(worlds_weight=0)
    with pytest.raises(ValueError, match="at least one shape"):
        DataConfig(shapes=())


@pytest.mark.end_to_end
def test_training_on_synthetic_scenes_needs_no_heavy_package(tmp_path: Path) -> None:
    """One step runs without av, kornia, open3d, xformers and the like."""
    script = f"""
import sys
for name in ("av", "kornia", "open3d", "xformers", "pycolmap", "trimesh", "matplotlib", "scipy", "h5py"):
    sys.modules[name] = None
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from pathlib import Path
from training_run import config
from recon4d.train.loop import train
print(train(config(steps=1), Path({str(tmp_path)!r})).step)
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert printed.strip().endswith("1")
