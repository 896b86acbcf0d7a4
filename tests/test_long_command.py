"""`recon4d reconstruct --window` and `--anchored`: a clip in parts, gone on with by the same command."""

from pathlib import Path

import pytest

from recon4d.cli import main
from recon4d.export import load_scene
from recon4d.export.long_archive import load_frames, load_index

DOG = Path(__file__).parents[1] / "examples" / "dog.mp4"
COMMON = ["reconstruct", str(DOG), "--model", "recon4d_tiny", "--fps", "4", "--processing-size", "64"]


@pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")
@pytest.mark.parametrize("how", [["--window", "6", "--overlap", "2"], ["--anchored"]])
def test_every_frame_is_written_and_the_same_command_goes_on(
    how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*COMMON, *how, "--out", str(out)]) == 0
    index = load_index(out)
    assert index.cameras.world_from_cam.shape == (12, 4, 4)
    assert len(list((out / "frames").iterdir())) == 12
    assert f"12 frames of {index.size[1]} x {index.size[0]} pixels" in capsys.readouterr().out
    scene = load_frames(out, range(2, 5))
    assert scene.num_frames == 3
    assert load_scene(out / "frames" / "000002.npz").depths.equal(scene.depths[:1])

    assert main(["info", str(out)]) == 0
    assert "frames: 12, over" in capsys.readouterr().out
    assert main(["export", str(out), "--to", "tum", "depth-png", "--out", str(tmp_path / "exported")]) == 0
    assert len((tmp_path / "exported" / "tum" / "trajectory.txt").read_text().splitlines()) >= 12

    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert main([*COMMON, *how, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == written


@pytest.mark.parametrize("what", [["--refine"], ["--intrinsics", "300,300,320,180"], ["--overwrite"]])
def test_what_needs_one_pass_is_refused(what: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "--window", "6", *what, "--out", str(tmp_path / "out")]) == 2
    assert "not for --window and --anchored" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_windows_that_share_everything_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "--window", "4", "--overlap", "4", "--out", str(tmp_path / "out")]) == 2
    assert "windows of 4 frames cannot share 4" in capsys.readouterr().err
