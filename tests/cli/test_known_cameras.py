"""The command line with known cameras: what it prints, keeps in the result and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import make_clip

from recon4d.cli.main import main
from recon4d.io import load_scene, load_scene_info, write_jpeg, write_video

QUICK = ("--model", "recon4d_tiny", "--processing-size", "32", "--refine", "off")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Create three pictures of 60 x 40 pixels."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(make_clip(3, 40, 60).images):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", image)
    return tmp_path / "photos"


def write_cameras(path: Path, names: list[str], **lens: object) -> Path:
    frames = []
    for number, name in enumerate(names):
        pose = np.eye(4)
        pose[0, 3] = number
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    path.write_text(json.dumps({**lens, "frames": frames}))
    return path


def run(tmp_path: Path, *arguments: object) -> int:
    return main(["reconstruct", *map(str, arguments), "--out", str(tmp_path / "out"), *QUICK])


def test_pairing_and_lens_are_printed_and_kept(photos: Path, tmp_path: Path, capsys) -> None:
    cameras = write_cameras(tmp_path / "transforms.json", ["a/1.png", "a/2.png"], fl_x=100, w=120, k1=0.1)
    assert run(tmp_path, photos, "--cameras", cameras) == 0
    printed = capsys.readouterr().out
    line = "cameras: 2 of 3 pictures paired by name with transforms.json (nerfstudio), lens OPENCV with k1, undistorted"
    assert line in printed
    assert "cameras: intrinsics of 120 x 80 pixels are scaled to the pictures' 60 x 40 (2 of 3 frames)" in printed
    assert load_scene_info(tmp_path / "out").camera_report[0] == line
    # The first frame has no camera; the other two hold relative to each other, and one lens is that of all frames.
    scene = load_scene(tmp_path / "out")
    assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))
    step = torch.linalg.inv(scene.cameras.world_from_cam[1]) @ scene.cameras.world_from_cam[2]
    torch.testing.assert_close(step[:3, 3], torch.tensor([1.0, 0, 0]), atol=1e-4, rtol=0)
    assert main(["info", str(tmp_path / "out")]) == 0
    assert line in capsys.readouterr().out


def test_intrinsics_of_larger_pictures(photos: Path, tmp_path: Path, capsys) -> None:
    assert (
        run(tmp_path, photos, "--intrinsics", "200,200,120,80", "--intrinsics-size", "240x160", "--full-resolution")
        == 0
    )
    intrinsics = load_scene(tmp_path / "out").cameras.intrinsics[0]
    torch.testing.assert_close(intrinsics, torch.tensor([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]]))
    capsys.readouterr()
    assert run(tmp_path, photos, "--intrinsics", "200,200,120,80", "--overwrite") == 0
    assert "warning: intrinsics: the principal point (120.0, 80.0) lies outside" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "  - intrinsics: the principal point (120.0, 80.0) lies outside" in capsys.readouterr().out


def test_every_frame_of_a_short_video_is_taken_with_cameras(tmp_path: Path) -> None:
    images = make_clip(6, 32, 48).images.permute(0, 2, 3, 1)
    write_video(tmp_path / "v.mp4", images, 10.0)
    cameras = write_cameras(tmp_path / "transforms.json", [f"frame_{number}.png" for number in range(1, 7)])
    assert run(tmp_path, tmp_path / "v.mp4", "--cameras", cameras) == 0
    centers = load_scene(tmp_path / "out").cameras.centers[:, 0]
    torch.testing.assert_close(centers, torch.arange(6.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--intrinsics-size", "60x40"), "--intrinsics-size is the size of the pictures of --intrinsics"),
        (("--intrinsics", "1,1,1,1", "--intrinsics-size", "60"), "wanted WIDTHxHEIGHT"),
        (("--intrinsics", "1,1,1,1", "--intrinsics-size", "0x9"), "wanted WIDTHxHEIGHT"),
        (("--cameras-by", "time"), "need --cameras"),
        (("--cameras-offset", "3"), "need --cameras"),
        (("--cameras-of", "upright"), "need --cameras"),
    ],
)
def test_options_that_do_not_fit(
    photos: Path, tmp_path: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    assert run(tmp_path, photos, *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_rule_can_be_told(photos: Path, tmp_path: Path, capsys) -> None:
    cameras = write_cameras(tmp_path / "transforms.json", ["f1.png", "f2.png", "f3.png", "f4.png"])
    assert run(tmp_path, photos, "--cameras", cameras) == 2
    assert "give --cameras-by name, time, number, number-from-1 or order" in capsys.readouterr().err
    assert run(tmp_path, photos, "--cameras", cameras, "--cameras-by", "number-from-1") == 0
    assert "3 of 3 pictures paired by frame number, from 1" in capsys.readouterr().out
