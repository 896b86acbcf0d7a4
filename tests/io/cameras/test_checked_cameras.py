"""Cameras that cannot be are refused, in archives and exports too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scenes import make_scene
from torch import Tensor

from recon4d.errors import DataError, UserError
from recon4d.io import SceneInfo, load_scene, open_frames, read_results, save_scene
from recon4d.io.checked_cameras import camera_problem, checked_cameras, principal_point_outside
from recon4d.io.checked_values import parse_numbers, read_json
from recon4d.records import Cameras

PINHOLE = torch.tensor([[50.0, 0, 30], [0, 52, 20], [0, 0, 1]])


def set_pose(row: int, column: int, value: float) -> Callable[[Tensor, Tensor], None]:
    return lambda poses, intrinsics: poses[1, row].__setitem__(column, value)


def set_lens(row: int, column: int, value: float) -> Callable[[Tensor, Tensor], None]:
    return lambda poses, intrinsics: intrinsics[1, row].__setitem__(column, value)


DAMAGES = {
    "NaN in a pose": (set_pose(0, 1, torch.nan), "pose is not finite"),
    "infinite position": (set_pose(0, 3, torch.inf), "pose is not finite"),
    "far position": (set_pose(2, 3, 1e30), "1e\\+30 units from the origin"),
    "last row": (set_pose(3, 0, 0.5), "not a rotation and a translation"),
    "last entry": (set_pose(3, 3, 2.0), "not a rotation and a translation"),
    "scaled": (lambda poses, _: poses[1, :3, :3].mul_(2), "not a rotation and a translation"),
    "mirrored": (lambda poses, _: poses[1, 0].mul_(-1), "not a rotation and a translation"),
    "singular": (lambda poses, _: poses[1, :3, :3].zero_(), "not a rotation and a translation"),
    "NaN in intrinsics": (set_lens(0, 2, torch.nan), "intrinsics are not finite"),
    "negative focal length": (set_lens(0, 0, -50.0), "focal lengths are -50 and 52 pixels"),
    "zero focal length": (set_lens(1, 1, 0.0), "focal lengths are 50 and 0 pixels"),
    "last row of intrinsics": (set_lens(2, 2, 2.0), "not those of a pinhole camera"),
    "lower skew": (set_lens(1, 0, 1.0), "not those of a pinhole camera"),
    "far principal point": (set_lens(0, 2, 1e20), "not those of a pinhole camera"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_impossible_cameras_have_a_problem(name: str) -> None:
    poses, intrinsics = torch.eye(4).repeat(3, 1, 1), PINHOLE.repeat(3, 1, 1)
    assert camera_problem(poses, intrinsics) is None
    damage, message = DAMAGES[name]
    damage(poses, intrinsics)
    for allow_unknown in (False, True):
        problem = camera_problem(poses, intrinsics, allow_unknown)
        assert problem is not None
        with pytest.raises(UserError, match=f"a file: holds a camera .*{message}"):
            checked_cameras("a file", poses, intrinsics, allow_unknown)


def test_unknown_cameras_are_allowed_where_they_have_a_meaning() -> None:
    poses, intrinsics = torch.eye(4).repeat(3, 1, 1), PINHOLE.repeat(3, 1, 1)
    poses[1, :3], intrinsics[2] = torch.nan, torch.nan
    assert camera_problem(poses, intrinsics) is not None
    assert camera_problem(poses, intrinsics, allow_unknown=True) is None
    assert checked_cameras("", poses, allow_unknown=True)[1].isnan().all()


def test_rounded_rotations_become_exact() -> None:
    poses = make_scene(4).cameras.world_from_cam
    rounded = poses.clone()
    rounded[:, :3, :3] = rounded[:, :3, :3].half().float()
    exact = checked_cameras("", rounded)[:, :3, :3]
    torch.testing.assert_close(exact @ exact.mT, torch.eye(3).double().expand(4, 3, 3))
    torch.testing.assert_close(exact.float(), poses[:, :3, :3], atol=1e-3, rtol=0)


def test_a_principal_point_outside_of_the_picture_is_found() -> None:
    intrinsics = PINHOLE.repeat(3, 1, 1)
    intrinsics[0] = torch.nan
    assert principal_point_outside(intrinsics, (40, 60)) is None
    assert principal_point_outside(intrinsics, (19, 60)) == (30, 20)
    assert principal_point_outside(intrinsics, (40, 29)) == (30, 20)


@pytest.mark.parametrize("name", ["NaN in a pose", "mirrored", "zero focal length"])
def test_archives_with_impossible_cameras_are_refused(tmp_path: Path, name: str) -> None:
    """Everything that reads results and exports them goes through `load_scene`."""
    scene = make_scene(3)
    poses, intrinsics = scene.cameras.world_from_cam.clone(), PINHOLE.repeat(3, 1, 1)
    DAMAGES[name][0](poses, intrinsics)
    broken = scene.map(lambda tensor: tensor)
    object.__setattr__(broken, "cameras", Cameras(poses, intrinsics))
    save_scene(tmp_path, broken, torch.arange(3.0), SceneInfo("m", True, "0", None, scene.size, {}))
    for read in (load_scene, read_results, open_frames):
        with pytest.raises(UserError, match=r"scene\.npz as a scene: it holds a camera"):
            read(tmp_path)


@pytest.mark.parametrize("value", [10**400, 1e39, float("inf"), None, "x", [1]])
def test_numbers_that_float32_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"s: f\.json: holds"):
        parse_numbers("s", "f.json", value, ())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", "", "\x00", "{"])
def test_json_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DataError, match=r"f\.json"):
        read_json("s", tmp_path / "f.json")


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json("s", tmp_path / "f.json") == {"a": 1}


def test_a_baseline_tells_the_unit() -> None:
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[1, :3, 3], poses[2] = torch.tensor([3.0, 0, 4]), torch.nan
    cameras = Cameras(poses, PINHOLE.repeat(3, 1, 1))
    assert cameras.metres_per_unit(0, 1, 0.5) == pytest.approx(0.1)
    for first, second, meters, message in (
        (0, 3, 1.0, "wanted two of 0 to 2"),
        (0, 0, 1.0, "wanted two of 0 to 2"),
        (0, 1, 0.0, "0 m long"),
        (0, 2, 1.0, "nan units"),
    ):
        with pytest.raises(UserError, match=message):
            cameras.metres_per_unit(first, second, meters)
