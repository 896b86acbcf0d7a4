"""Sampled motion on the command line: reconstruct, export, view, evaluate, train-motions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from commands import fails, run

import recon4d.eval
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.eval import Benchmark
from recon4d.io import load_scene, load_times, write_video
from recon4d.zoo import load_motion_flow

QUICK = ["--num-frames", "4", "--refine", "off", "--output-size", "160"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip in which much moves."""
    sample = SyntheticScenes(SyntheticConfig(4, 96, 128, static_scene_share=0)).sample(1)
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    write_video(path, sample.clip.images.permute(0, 2, 3, 1).numpy(), 5.0)
    return path


@pytest.fixture(scope="module")
def out(video: Path) -> Path:
    """Its reconstruction with two sampled motions."""
    folder = video.with_name("out")
    assert run("reconstruct", video, "--out", folder, "--motions", 2, *QUICK) == 0
    return folder


def test_samples_are_stored_with_the_scene(out: Path) -> None:
    curves = load_scene(out).trajectories
    assert curves is not None
    assert curves.samples is not None
    assert curves.samples.num_samples == 2
    assert curves.samples.control_points.shape[1] == curves.num_curves > 100
    times = load_times(out)
    assert curves.samples.interval[0] < times[0]
    assert curves.samples.interval[1] > times[-1]
    assert (curves.samples.standard_deviations(times) > 0).any()


def clouds_of(file: Path) -> dict[str, Any]:
    return trimesh.load_scene(file).geometry  # pyright: ignore[reportAttributeAccessIssue]


def test_an_animation_takes_one_sample(out: Path, tmp_path: Path) -> None:
    for name, options in (("curves", []), ("sample", ["--motion-sample", 1])):
        command = ["export", out, "--to", "animation", "--interpolated-frames", 1, *options]
        assert run(*command, "--out", tmp_path / name) == 0
    files = [tmp_path / name / "animation" / "animation.glb" for name in ("curves", "sample")]
    ours, theirs = (
        {name: cloud.vertices for name, cloud in clouds_of(file).items() if name.startswith("moving_")}
        for file in files
    )
    assert ours.keys() == theirs.keys()
    assert len(ours) > 3
    assert max(abs(ours[name] - theirs[name]).max() for name in ours) > 0.01


def test_a_recording_has_the_samples(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the viewer is the extra 'view'")
    from recordings import read_recording  # pyright: ignore[reportMissingImports]

    assert run("view", out, "--save", tmp_path / "a.rrd", "--interpolated-frames", 1) == 0
    assert {"world/motions/sample_0", "world/motions/sample_1", "world/points/curves"} <= set(
        read_recording(tmp_path / "a.rrd")
    )


def test_mistakes_are_one_line(out: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    assert "--motion-weights are those of --motions" in fails(
        capsys, "reconstruct", video, "--out", new, "--motion-weights", "a.safetensors"
    )
    assert "cannot be combined with --window" in fails(
        capsys, "reconstruct", video, "--out", new, "--motions", 2, "--window", 4
    )
    assert "wanted the number of samples" in fails(capsys, "reconstruct", video, "--out", new, "--motions", -1)
    export = ["export", out, "--out", new, "--to"]
    assert "is for the formats animation and usd" in fails(capsys, *export, "ply", "--interpolated-frames", 2)
    assert "give their number too" in fails(capsys, *export, "animation", "--motion-sample", 0)
    assert "motion sample 7 does not exist; the scene has 2" in fails(
        capsys, *export, "animation", "--interpolated-frames", 1, "--motion-sample", 7
    )
    train = ["train-motions", "--out"]
    assert "ends in .safetensors" in fails(capsys, *train, tmp_path / "a.pt")
    assert "must be above 0" in fails(capsys, *train, tmp_path / "a.safetensors", "--steps", 0)
    assert not new.exists()


def test_a_head_is_trained_and_used(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recon4d.train.motion_flow import loop

    make_track_scenes = loop.make_track_scenes
    monkeypatch.setattr(loop, "make_track_scenes", lambda count: make_track_scenes(8))
    weights = tmp_path / "flow.safetensors"
    assert run("train-motions", "--out", weights, "--clips", 0, "--steps", 2, "--batch", 2) == 0
    assert "million parameters" in capsys.readouterr().out
    assert load_motion_flow(weights).token_model == ""
    assert "exists; give --overwrite" in fails(capsys, "train-motions", "--out", weights)
    options = ["--motions", 1, "--motion-weights", weights]
    assert run("reconstruct", video, "--out", tmp_path / "out", *options, *QUICK) == 0


def test_evaluation_prints_and_stores_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = SyntheticScenes(SyntheticConfig(8, 96, 128, static_scene_share=0)).sample(1)
    benchmark = Benchmark("one world", "", ("world",), lambda name: sample)
    monkeypatch.setattr(recon4d.eval, "load_benchmark", lambda name, config: benchmark)
    command = ["evaluate", "--motions", 4, "--out", tmp_path]
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "true observations, dynamic points after the observed frames: 1 clips, meters, 4 samples" in printed
    assert "samples over" in printed
    rows = json.loads((tmp_path / "motions" / "recon4d_mini" / "motions.json").read_text())
    by_name = {row["prediction"]: row for row in rows if (row["observations"], row["part"]) == ("true", "later")}
    assert set(by_name) == {
        "samples",
        "samples without tokens",
        "hold still",
        "constant velocity",
        "spline",
    }
    ours, still = by_name["samples"], by_name["hold still"]
    assert ours["best"] <= ours["best_together"]
    assert ours["best"] < still["mean"] == pytest.approx(still["energy"])
    assert torch.isfinite(torch.tensor([ours["within_50"], ours["within_90"]])).all()
    assert ours["tracks"] == still["tracks"]
