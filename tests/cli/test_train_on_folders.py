"""`recon4d train` on folders that other programs write, through the command line."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run

from recon4d.datasets import NerfstudioFolders
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.io import PointSelection, export_results, read_results, write_results
from recon4d.io.scene_info import SceneInfo
from recon4d.records import ClipSource


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Export a synthetic clip as a folder of nerfstudio, with depth."""
    sample = SyntheticScenes(SyntheticConfig(num_frames=4, height=48, width=64)).sample(0)
    source = ClipSource("clip", tuple(f"{number}.jpg" for number in range(4)), tuple(range(4)))
    (tmp_path / "results").mkdir()
    info = SceneInfo("exact", True, "0", source, sample.clip.size, {})
    write_results(tmp_path / "results", replace(sample.clip, source=source), sample.scene, info)
    selection = PointSelection(max_points=100)
    export_results(tmp_path / "data" / "scene", read_results(tmp_path / "results"), ["nerfstudio"], selection)
    (tmp_path / "data" / "scene" / "nerfstudio").rename(tmp_path / "data" / "one")
    return tmp_path


def test_training_on_a_folder_of_nerfstudio(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert NerfstudioFolders(folders / "data").names() == ["one"]
    options = ["--config.model", "recon4d_tiny", "--config.steps", "2", "--config.data.batch-size", "1"]
    options += ["--config.data.shapes", "2x32x48", "--config.validation-clips", "1", "--config.log-every", "1"]
    options += ["--config.validate-every", "2"]
    options += ["--config.data.worlds-weight", "0", "--config.data.sets", f"nerfstudio={folders / 'data'}"]
    assert run("train", "--out", folders / "run", *options) == 0
    assert "finished after step 2" in capsys.readouterr().out
    log = [json.loads(line) for line in (folders / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    # Depth and cameras are supervised.
    steps = [line for line in log if "loss" in line]
    assert all(line["depth"] > 0 and line["rotation"] > 0 for line in steps)
