"""`recon4d reconstruct --window` and `--anchored`: clips in parts, continued by the same command after a stop."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from recon4d.cli.main import main
from recon4d.io import load_scene, read_photo, write_raster
from recon4d.io.long_archive import load_frames, load_index
from recon4d.io.long_clips import open_long_clip
from recon4d.viewer.trails import select_trails

DOG = Path(__file__).parents[2] / "examples" / "dog.mp4"
NETWORK = ["reconstruct", str(DOG), "--model", "recon4d_tiny", "--fps", "2", "--processing-size", "64"]
COMMON = [*NETWORK, "--refine", "off"]


@pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")
@pytest.mark.parametrize("how", [["--window", "4", "--overlap", "2", "--tracks", "4"], ["--anchored"]])
def test_every_frame_is_written_and_the_same_command_does_not_repeat_it(
    how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*COMMON, *how, "--out", str(out)]) == 0
    index = load_index(out)
    assert index.cameras.world_from_cam.shape == (6, 4, 4)
    assert len(list((out / "frames").glob("*.npz"))) == len(list((out / "frames").glob("*.jpg"))) == 6
    assert f"6 frames of {index.size[1]} x {index.size[0]} pixels" in capsys.readouterr().out
    scene = load_frames(out, range(2, 5))
    assert scene.num_frames == 3
    assert load_scene(out / "frames" / "000002.npz").depths.equal(scene.depths[:1])

    # --tracks 4 tracks every fourth pixel of the first frame along both axes, --anchored every pixel.
    step = 4 if "--tracks" in how else 1
    num_tracks = (scene.size[0] // step) * (scene.size[1] // step)
    assert main(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "frames: 6, over" in printed
    assert f"tracks: {num_tracks}\n" in printed
    assert any(select_trails(load_frames(out, range(6)), 400, movers_only=False))  # as `recon4d view` shows them
    assert main(["export", str(out), "--to", "tum", "colmap", "--out", str(tmp_path / "exported")]) == 0
    assert len((tmp_path / "exported" / "tum" / "trajectory.txt").read_text().splitlines()) >= 6
    frame = next(open_long_clip(DOG, fps=2).images([5]))
    picture = read_photo(tmp_path / "exported" / "colmap" / "images" / f"{index.info.source.names[5]}.jpg")
    assert picture.shape == frame.shape
    assert (picture.float() - frame).abs().mean() < 5

    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert main([*COMMON, *how, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == written


@pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")
def test_priors_hold_in_every_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Intrinsics, a mask and cameras on a circle, in windows of four frames."""
    width, height, focal = 640, 360, 500
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[: height // 2] = 255
    write_raster(tmp_path / "sky.png", mask)
    angles = torch.linspace(0, 1, 6)
    rows = [f"{i / 2} {math.cos(a)} 0 {math.sin(a)} 0 0 0 1" for i, a in enumerate(angles.tolist())]
    (tmp_path / "path.txt").write_text("\n".join(rows))
    known = ["--intrinsics", f"{focal},{focal},{width / 2},{height / 2}", "--mask", str(tmp_path / "sky.png")]
    command = [*COMMON, "--window", "4", "--overlap", "2", *known, "--cameras", str(tmp_path / "path.txt")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an untrained network predicts a static camera
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "priors: intrinsics of 6 of 6 frames, cameras of 6 of 6 frames, masks, read frame by frame" in printed
    scene = load_frames(tmp_path / "out", range(6))
    lens = scene.cameras.resized(scene.size, (height, width)).intrinsics
    torch.testing.assert_close(lens[:, 0, 0], torch.full((6,), float(focal)), rtol=1e-5, atol=0)
    path = torch.stack([angles.cos() - 1, torch.zeros(6), angles.sin()], dim=-1)
    torch.testing.assert_close(scene.cameras.centers, path, rtol=0, atol=1e-5)
    middle = scene.size[0] // 2
    assert not scene.depth_confidence[:, : middle - 1].any()
    assert (scene.depth_confidence[:, middle + 1 :] > 0).all()


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore:window:UserWarning")
def test_windows_are_refined_and_tell_what_was_solved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The camera of the example stands still: it is the same in all frames of all windows, with one lens."""
    out = tmp_path / "out"
    command = ["reconstruct", str(DOG), "--fps", "4", "--window", "4", "--overlap", "1", "--num-frames", "7"]
    command += ["--processing-size", "160"]
    assert main([*command, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "each window is refined"
    assert lines[1].startswith("lens of all windows: focal length ")
    assert [line.split(":")[0] for line in lines[2:4]] == ["window 0 (frames 0 to 3)", "window 1 (frames 3 to 6)"]
    assert any(line.startswith("refinement: 2 of 2 windows refined") for line in lines)
    index = load_index(out)
    assert index.num_frames == 7
    assert index.cameras.intrinsics.std(dim=0).max() < 1e-3
    assert index.cameras.centers.norm(dim=1).max() < 0.01 * load_scene(out / "frames" / "000000.npz").depths.median()
    assert main(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "refinement: 2 of 2 windows refined" in printed
    assert "window 1: the camera does not translate" in printed


@pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")
def test_pairs_are_not_refined_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NETWORK, "--anchored", "--num-frames", "3", "--out", str(tmp_path / "out")]) == 0
    assert "cameras are as predicted: refinement needs more frames than the pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"fps": 4.0, "num_frames": 5}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"num_frames": 3}, None),
        ({"num_frames": 1000}, None),
    ],
)
def test_a_number_of_frames_is_taken(options: dict, times: list[float] | None) -> None:
    whole, clip = open_long_clip(DOG), open_long_clip(DOG, **options)
    assert clip.num_frames == min(options["num_frames"], whole.num_frames)
    if times is None:
        numbers = torch.linspace(0, whole.num_frames - 1, clip.num_frames).round().long().tolist()
        assert [whole.times.index(time) for time in clip.times] == pytest.approx(numbers, abs=1)
        position = min(2, clip.num_frames - 1)
        same = next(whole.images([whole.times.index(clip.times[position])]))
        assert torch.equal(next(clip.images([position])), same)
        assert clip.source.numbers[position] == whole.times.index(clip.times[position])
    else:
        assert list(clip.times) == pytest.approx(times, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-frames", "0"], "num_frames = 0; wanted at least 1"),
        (["--anchored", "--refine"], "--refine: cannot be combined with --anchored"),
        (["--anchors", "3"], "--anchors: tracks of a clip in parts start at its first frame"),
        (["--depth", "README.md"], "it is one file; wanted a folder of maps"),
        (["--overwrite"], "--overwrite: cannot be combined with --window or --anchored"),
        (["--cameras", "path.txt", "--loops"], "give only one of the two"),
        (["--anchored", "--tracks", "1"], "--anchored already tracks every pixel of the first frame"),
        (["--window", "0", "--tracks", "1"], "give --window too"),
        (["--tracks", "-1"], "tracks is -1; it must be 1"),
    ],
)
def test_options_that_need_a_single_pass_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMON, "--window", "6", *options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_overlap_as_long_as_the_window_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "--window", "4", "--overlap", "4", "--out", str(tmp_path / "out")]) == 2
    assert "windows of 4 frames cannot share 4" in capsys.readouterr().err
