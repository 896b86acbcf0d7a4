"""Checks tables and figures of the documentation; `test_documented_blocks` runs its code blocks."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recon4d
from benchmarks import kinds, windows
from recon4d.cli.main import main
from recon4d.datasets import DATASETS
from recon4d.eval import METRICS
from recon4d.eval.methods import COLMAP_METHODS
from recon4d.zoo import list_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_page_on_evaluation_names_metrics_and_methods_that_there_are() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    table = page.split("| metric | definition |")[1].split("\n\n")[0]
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


@pytest.mark.end_to_end
def test_the_statistics_of_worlds_v1_are_those_printed() -> None:
    command = [sys.executable, "-m", "benchmarks.worlds_v1", "--split", "32"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.strip() in (ROOT / "docs" / "datasets.md").read_text()


def test_the_readme_names_every_model() -> None:
    for name in list_models():
        family, _, size = name.rpartition("_")
        assert f"`{name}`" in README or (f"`{family}_{{small,base,large}}`" in README and size in "small base large")


@pytest.mark.end_to_end
def test_the_exact_scene_is_exact(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "exact_scene.py", "--out", tmp_path / "exact", "--frames", "2"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    scene = recon4d.load_scene(tmp_path / "exact")
    known = scene.depth_confidence > 0
    assert 0.3 < known.float().mean() < 0.8
    torch.testing.assert_close(scene.points_from_depth[known], scene.points[known], atol=1e-3, rtol=1e-4)
    # Static points have the same position in both frames: most ground points of one are close to points of the other.
    one, two = (scene.points[i][known[i] & (scene.dynamic[i] == 0)][::50] for i in (0, 1))
    near = one[:, 2] < 8
    assert torch.cdist(one[near], two).amin(dim=1).median() < 0.2


def slow(name: str, options: list[str]) -> Any:
    """Return the parameters of a benchmark that takes long; ``pytest -m slow`` checks that it still runs."""
    return pytest.param(name, options, marks=pytest.mark.slow)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("benchmarks.reconstruct", ["--model", "recon4d_tiny", "--num-frames", "2", "--runs", "1"]),
        ("benchmarks.precision", ["--model", "recon4d_tiny", "--num-frames", "2"]),
        ("benchmarks.inference", ["--model", "recon4d_tiny", "--frames", "2", "--size", "64", "96", "--repeats", "1"]),
        slow("benchmarks.adapt", ["--model", "recon4d_tiny", "--clips", "1", "--config.steps", "1"]),
        slow("benchmarks.inputs", ["--model", "recon4d_tiny", "--clips", "1"]),
        slow("benchmarks.inputs", ["--model", "recon4d_tiny", "--clips", "1", "--told", "copies", "--refine"]),
        slow("benchmarks.corner_tracking", ["--model", "recon4d_mini", "--clips", "1"]),
        slow("benchmarks.joining", ["--num-frames", "4", "--clips", "1", "--window", "3", "--overlap", "1"]),
        ("benchmarks.worlds", ["--frames", "2", "--height", "32", "--width", "32", "--batches", "1"]),
        slow("benchmarks.parity", []),
    ],
)
def test_benchmarks_run(name: str, options: list[str]) -> None:
    command = [sys.executable, "-m", name, *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert re.search(
        r"2 +\d+\.\d|relative error \d|\d clips a second|plain +\d|mean +\d|pairs +\d|the clip +\d|corners +\d|"
        r"depth +\d",
        printed,
    )


def test_scores_are_taken_apart_by_kind_of_clip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Clips 0 (static camera), 2 (dynamic), and 4 and 8 (calm)."""
    rows = ["method,clip,auc_30,auc_5,abs_rel,point_epe"]
    for method, gain in (("net", 0.0), ("net+refine", 0.2)):
        rows += [f"{method},world_00,0.5,0.1,0.3,", f"{method},world_02,{0.4 - gain},0.1,0.3,1"]
        rows += [f"{method},world_04,{0.3 + gain},0.1,0.3,1", f"{method},world_08,{0.5 + gain},0.1,0.3,3"]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    kinds.main(kinds.Arguments(tmp_path / "clips.csv"))
    printed = capsys.readouterr().out
    assert re.search(r"net +calm +2 +0\.400 +0\.100 +0\.300 +2\.000", printed)
    assert re.search(r"net\+refine +calm +2 +0\.600", printed)
    assert re.search(r"net +still +1 +0\.500 +0\.100 +0\.300 +nan", printed)
    assert re.search(r"net\+refine +dynamic +1 +0\.200", printed)
    assert "net+refine: auc_30 of a clip changes by -0.200 to +0.200 (4 clips)" in printed


@pytest.mark.end_to_end
def test_the_benchmark_of_windows_compares_ways(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Run the variants in this process, which is faster than one process each; seconds and memory are made up."""

    def run(model: str, pictures: Path, out: Path, variant: windows.Variant) -> tuple[float, float]:
        arguments = ["reconstruct", pictures, "--out", out, "--fps", 30, "--model", model, *variant.options]
        assert main([*map(str, arguments), "--processing-size", "64"]) == 0
        return 1.0, 0.5

    monkeypatch.setattr(windows, "run", run)
    windows.main(windows.Arguments(model="recon4d_tiny", frames=(4,), window=3, overlap=1))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("     4  ")]
    assert [row[8:30].strip() for row in rows] == ["one pass", "windows 3/1", "windows 3/1, loops", "pairs"]
    assert all(re.search(r"\d\.\d{3} +1\.0 +0\.50$", row) for row in rows)


def test_memory_of_a_process_is_its_own() -> None:
    command = [sys.executable, "-c", "print('here', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.001 < windows.peak_gib(process.pid) < 0.2
        process.communicate(b"\n")
    assert windows.peak_gib(process.pid) == 0


def test_the_example_clip_is_what_its_page_says() -> None:
    clip = recon4d.read_clip(ROOT / "examples" / "dog.mp4", num_frames=None)
    assert clip.num_frames == 90
    assert clip.size == (360, 640)
    assert 2.9 < clip.times[-1] < 3.0
    assert np.all(np.diff(clip.times.numpy()) > 0)
    page = (ROOT / "examples" / "README.md").read_text()
    assert "Apache-2.0" in page
    assert "90 frames" in page
