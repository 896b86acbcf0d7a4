"""Panoramas and rigs on the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, run
from PIL import Image

from recon4d.io import load_scene, load_scene_info

TINY = ("--model", "recon4d_tiny", "--processing-size", "64", "--refine", "off")


def noise(width: int, height: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def test_panoramas_become_views_that_stay_fixed_to_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(2):
        noise(256, 128, number).save(tmp_path / "clip" / f"{number}.png")
    out = tmp_path / "out"
    assert run("reconstruct", tmp_path / "clip", "--panorama", "4", "--out", out, *TINY) == 0
    printed = capsys.readouterr().out
    assert "2 panoramas are split into 4 views of 80 x 80 pixels and 90 degrees each" in printed
    assert "rig: 4 cameras at 2 moments are fixed to each other, with known relative poses" in printed
    scene, info = load_scene(out), load_scene_info(out)
    assert len(info.camera_report) == 2
    assert info.settings["panorama"] == 4
    poses = scene.cameras.world_from_cam
    # The views of a moment share their center, and look 90 degrees apart.
    torch.testing.assert_close(poses[::2, :3, 3], poses[:1, :3, 3].expand(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(poses[1::2, :3, 3], poses[1:2, :3, 3].expand(4, 3), atol=1e-5, rtol=0)
    for moment in range(2):
        relative = poses[moment, :3, :3].T @ poses[2 + moment, :3, :3]
        torch.testing.assert_close(relative[:, 2], torch.tensor([1.0, 0, 0]), atol=1e-5, rtol=0)
    assert (scene.cameras.intrinsics[:, 0, 0] == scene.size[1] / 2).all()


def test_a_rig_of_folders_is_one_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for camera in ("left", "right"):
        (tmp_path / "rig" / camera).mkdir(parents=True)
        for number in range(3):
            noise(80, 64, number).save(tmp_path / "rig" / camera / f"{number:04d}.png")
    out = tmp_path / "out"
    assert run("reconstruct", tmp_path / "rig", "--rig", "--out", out, *TINY) == 0
    printed = capsys.readouterr().out
    assert "rig: 2 cameras (left, right), 3 of 3 moments, paired by name" in printed
    assert "with estimated relative poses, each with one set of intrinsics; the predicted ones differ by" in printed
    poses, intrinsics = load_scene(out).cameras.world_from_cam.double(), load_scene(out).cameras.intrinsics
    relative = torch.linalg.inv(poses[:3]) @ poses[3:]
    torch.testing.assert_close(relative, relative[:1].expand(3, 4, 4), atol=1e-5, rtol=0)
    assert torch.equal(intrinsics[:3], intrinsics[:1].expand(3, 3, 3))
    assert (out / "frames" / "right_0002.jpg").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--panorama", "-1"), "--panorama is -1"),
        (("--panorama", "--window", "4"), "--panorama: cannot be combined with --window"),
        (("--panorama-fov", "80"), "need --panorama"),
        (("--panorama", "8", "--panorama-fov", "170"), "170 degrees"),
        (("--rig", "--panorama"), "exclude each other"),
        (("--rig", "--start", "1"), "--start: cannot be combined with --rig"),
        (("--rig", "--window", "4"), "--rig: cannot be combined with --window"),
        (("--rig",), "has 0 sub-folders with pictures"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    noise(64, 32, 0).save(tmp_path / "a.png")
    (tmp_path / "pictures").mkdir()
    assert message in fails(capsys, "reconstruct", tmp_path / "pictures", "--out", tmp_path / "out", *options, *TINY)


def test_a_tagged_panorama_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(64, 32, 0).save(tmp_path / "a.jpg", xmp=b'<a GPano:ProjectionType="equirectangular"/>')
    assert "(give --panorama, or --panorama 0" in fails(capsys, "reconstruct", tmp_path / "a.jpg", "--out", "o", *TINY)
    assert run("reconstruct", tmp_path / "a.jpg", "--panorama", "0", "--out", tmp_path / "out", *TINY) == 0
    assert load_scene(tmp_path / "out").num_frames == 1


def test_the_unit_follows_from_a_known_distance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(3):
        noise(80, 64, number).save(tmp_path / "clip" / f"{number:04d}.png")
    given = ("reconstruct", tmp_path / "clip", "--out", tmp_path / "out", *TINY)
    assert "no frame has this name" in fails(capsys, *given, "--baseline", "0000", "x", "2")
    assert "has no GPS positions" in fails(capsys, *given, "--gps")
    assert "--gps and --baseline both give the unit" in fails(capsys, *given, "--gps", "--baseline", "0", "1", "2")
    assert run(*given, "--baseline", "0000", "0002", "2") == 0
    assert "the length of the unit stays unknown: the distance between the cameras" in capsys.readouterr().out
    (tmp_path / "poses.txt").write_text("".join(f"1 0 0 {x} 0 1 0 0 0 0 1 0\n" for x in range(3)))
    given += ("--cameras", tmp_path / "poses.txt", "--overwrite")
    assert run(*given, "--baseline", "0000", "0002", "5") == 0
    assert "baseline from 0000 to 0002: the unit is" in capsys.readouterr().out
    scene = load_scene(tmp_path / "out")
    distance = (scene.cameras.centers[0] - scene.cameras.centers[2]).norm()
    assert float(scene.metres_per_unit * distance) == pytest.approx(5, rel=1e-4)
    assert load_scene_info(tmp_path / "out").settings["baseline"] == ["0000", "0002", 5.0]
