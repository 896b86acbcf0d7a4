"""What the documentation shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recon4d
from recon4d.datasets import DATASETS, Sample
from recon4d.eval import METRICS
from recon4d.eval.methods import COLMAP_METHODS
from recon4d.zoo import list_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # Twelve times quicker with the tiny model, and the scene of a command that was not run here is left out.
    monkeypatch.chdir(ROOT)
    block = block.replace('"recon4d_small"', '"recon4d_tiny", weights=None')
    names: dict[str, object] = {}
    exec(block.rpartition("again =")[0], names)
    scene = names["scene"]
    assert isinstance(scene, recon4d.Scene)
    assert scene.size == (360, 640)
    assert scene.tracks is not None
    assert scene.tracks.anchors.tolist() == [0, 8]
    torch.testing.assert_close(scene.cameras.world_from_cam[8], torch.eye(4))


def test_the_python_block_of_the_page_on_data_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    sample = names["sample"]
    assert isinstance(sample, Sample)
    assert sample.clip.images.shape == (4, 3, 96, 128)
    assert sample.scene.tracks is not None
    assert sample.scene.tracks.points.shape == (2, 4, 12288, 3)


def test_the_python_block_of_the_page_on_evaluation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    scores = names["scores"]
    assert isinstance(scores, dict)
    assert scores["registered"] == 1.0
    assert scores["auc_5"] < 0.1


def test_the_page_on_evaluation_names_metrics_and_methods_that_there_are() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    table = page.split("| metric | what it is |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    named = [name.replace("_N", "_30") for cell in cells for name in cell.split("`")[1::2]]
    assert len(named) > 15
    assert set(named) <= set(METRICS)
    for method in COLMAP_METHODS:
        assert f"`{method}`" in page


def test_the_page_on_data_names_every_data_set() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    for name, reader in DATASETS.items():
        assert f"| `{name}` | `{reader.__name__}(root" in page


def test_the_statistics_of_worlds_v1_are_those_printed() -> None:
    command = [sys.executable, "-m", "benchmarks.worlds_v1", "--split", "32"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.strip() in (ROOT / "docs" / "datasets.md").read_text()


def test_the_readme_names_every_model() -> None:
    for name in list_models():
        family, _, size = name.rpartition("_")
        assert f"`{name}`" in README or (f"`{family}_{{small,base,large}}`" in README and size in "small base large")


def test_the_exact_scene_is_exact(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "exact_scene.py", "--out", tmp_path / "exact", "--frames", "2"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    scene = recon4d.load_scene(tmp_path / "exact")
    known = scene.depth_confidence > 0
    assert 0.3 < known.float().mean() < 0.8
    torch.testing.assert_close(scene.points_from_depth[known], scene.points[known], atol=1e-3, rtol=1e-4)
    # What stands still is at the same place in both frames: most floor points of one are near some of the other.
    one, two = (scene.points[i][known[i] & (scene.moving[i] == 0)][::50] for i in (0, 1))
    near = one[:, 2] < 8
    assert torch.cdist(one[near], two).amin(dim=1).median() < 0.2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("benchmarks.reconstruct", ["--model", "recon4d_tiny", "--num-frames", "2", "--runs", "1"]),
        ("benchmarks.precision", ["--model", "recon4d_tiny", "--num-frames", "2"]),
        ("benchmarks.inference", ["--model", "recon4d_tiny", "--frames", "2", "--size", "64", "96", "--repeats", "1"]),
        ("benchmarks.adapt", ["--model", "recon4d_tiny", "--clips", "1", "--config.steps", "1"]),
        ("benchmarks.worlds", ["--frames", "2", "--height", "32", "--width", "32", "--batches", "1"]),
    ],
)
def test_benchmarks_run(name: str, options: list[str]) -> None:
    command = [sys.executable, "-m", name, *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert re.search(r"2 +\d+\.\d|relative error \d|\d clips a second|plain +\d|mean +\d", printed)


def test_the_example_clip_is_what_its_page_says() -> None:
    clip = recon4d.read_clip(ROOT / "examples" / "dog.mp4", num_frames=None)
    assert clip.num_frames == 90
    assert clip.size == (360, 640)
    assert 2.9 < clip.times[-1] < 3.0
    assert np.all(np.diff(clip.times.numpy()) > 0)
    page = (ROOT / "examples" / "README.md").read_text()
    assert "Apache-2.0" in page
    assert "90 frames" in page
