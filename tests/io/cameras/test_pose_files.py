"""Trajectories without intrinsics: TUM, EuRoC, KITTI, 4x4 text, arrays, LLFF; hand-written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from named_clips import named_clip
from scenes import make_scene

from recon4d.errors import UserError
from recon4d.geometry import quaternion_from_rotation
from recon4d.io import read_camera_file
from recon4d.io.cameras.camera_file import CameraFile

POSES = make_scene(4).cameras.world_from_cam.double()
W, X, Y, Z = quaternion_from_rotation(POSES[:, :3, :3]).T.tolist()
PX, PY, PZ = POSES[:, :3, 3].T.tolist()


def lines(*columns: list, separator: str = " ") -> str:
    return "\n".join(separator.join(repr(value) for value in row) for row in zip(*columns, strict=True)) + "\n"


def write(folder: Path, text: str, name: str = "poses.txt") -> CameraFile:
    (folder / name).write_text(text)
    return read_camera_file(folder / name)


SECONDS = [0.0, 0.1, 0.2, 0.3]
NANOSECONDS = [1403636579763555584, 1403636579863555584, 1403636579963555584, 1403636580063555584]
EUROC = "#timestamp [ns],p_RS_R_x [m],p_RS_R_y [m],p_RS_R_z [m],q_RS_w [],q_RS_x [],q_RS_y [],q_RS_z []"
VELOCITIES = [[0.5] * 4] * 9


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("# timestamp tx ty tz qx qy qz qw\n" + lines(SECONDS, PX, PY, PZ, X, Y, Z, W), "TUM, seconds"),
        ("\ufeff" + lines(SECONDS, PX, PY, PZ, X, Y, Z, W, separator=", "), "TUM, seconds"),
        ("time,tx,ty,tz,qx,qy,qz,qw\n" + lines(SECONDS, PX, PY, PZ, X, Y, Z, W, separator=","), "TUM, seconds"),
        ("t;x;y;z;qw;qx;qy;qz\n" + lines(SECONDS, PX, PY, PZ, W, X, Y, Z, separator=";"), "CSV, seconds"),
        (
            "qw,qx,qy,qz,px,py,pz,timestamp_ms\n" + lines(W, X, Y, Z, PX, PY, PZ, [0, 100, 200, 300], separator=","),
            "CSV",
        ),
        (EUROC + "\n" + lines(NANOSECONDS, PX, PY, PZ, W, X, Y, Z, separator=","), "EuRoC"),
        (
            EUROC
            + ", v".join([""] * 10)
            + "\n"
            + lines(NANOSECONDS, PX, PY, PZ, W, X, Y, Z, *VELOCITIES, separator=","),
            "EuRoC",
        ),
        (lines(NANOSECONDS, PX, PY, PZ, W, X, Y, Z, *VELOCITIES, separator=","), "EuRoC"),
        (lines(NANOSECONDS, PX, PY, PZ, X, Y, Z, W), "TUM, nanoseconds"),
        (
            "#timestamp [ns],tx,ty,tz,qx,qy,qz,qw\n" + lines([0, 10**8, 2 * 10**8, 3 * 10**8], PX, PY, PZ, X, Y, Z, W),
            "TUM, nano",
        ),
    ],
)
def test_stamped_poses(tmp_path: Path, text: str, kind: str) -> None:
    file = write(tmp_path, text)
    torch.testing.assert_close(file.world_from_cam, POSES, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        file.seconds - file.seconds[0], torch.tensor(SECONDS, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert file.format.startswith(kind)


MATRICES = POSES.tolist()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (lines(*np.array(MATRICES)[:, :3].reshape(4, 12).T.tolist()), "KITTI"),
        (lines(*np.array(MATRICES).reshape(4, 16).T.tolist()), "rows of 4x4"),
        ("\n".join(lines(*np.array(one).T.tolist()) for one in MATRICES), "blocks of 4x4"),
        ("\n".join(lines(*np.array(one)[:3].T.tolist()) for one in MATRICES), "blocks of 3x4"),
        (lines([0, 1, 2, 3], *np.array(MATRICES)[:, :3].reshape(4, 12).T.tolist()), "numbered 3x4"),
    ],
)
def test_matrices_in_text(tmp_path: Path, text: str, kind: str) -> None:
    file = write(tmp_path, text)
    torch.testing.assert_close(file.world_from_cam, POSES, atol=1e-6, rtol=0)
    assert file.format == kind
    assert file.seconds is None


@pytest.mark.parametrize(
    "values",
    [
        POSES.numpy(),
        POSES.numpy().astype(np.float32),
        POSES[:, :3].numpy(),
        POSES.reshape(4, 16).numpy(),
        POSES[:, :3].reshape(4, 12).numpy(),
        np.array([PX, PY, PZ, X, Y, Z, W]).T,
        np.array([SECONDS, PX, PY, PZ, X, Y, Z, W]).T,
    ],
)
def test_arrays(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "poses.npy", values)
    for path in (tmp_path / "poses.npy", tmp_path):
        torch.testing.assert_close(read_camera_file(path).world_from_cam, POSES, atol=1e-6, rtol=0)


def test_llff(tmp_path: Path) -> None:
    """The columns are down, right, backward, center, and (height, width, focal length)."""
    blocks = np.stack([POSES[:, :3, 1], POSES[:, :3, 0], -POSES[:, :3, 2], POSES[:, :3, 3]], axis=2)
    sizes = np.tile(np.array([40.0, 60.0, 55.0])[:, None], (4, 1, 1))
    np.save(
        tmp_path / "poses_bounds.npy",
        np.concatenate([np.concatenate([blocks, sizes], 2).reshape(4, 15), np.ones((4, 2))], 1),
    )
    file = read_camera_file(tmp_path)
    torch.testing.assert_close(file.world_from_cam, POSES, atol=1e-6, rtol=0)
    assert file.intrinsics[0].matrix((40, 60)).tolist() == [[55, 0, 30], [0, 55, 20], [0, 0, 1]]


def test_a_folder_of_matrices_with_a_lost_camera(tmp_path: Path) -> None:
    """ScanNet's layout: one file for each picture, infinite if the camera was lost."""
    (tmp_path / "pose").mkdir()
    for number in (10, 2, 1):
        np.savetxt(
            tmp_path / "pose" / f"{number}.txt", np.full((4, 4), np.inf) if number == 2 else MATRICES[number % 4]
        )
    file = read_camera_file(tmp_path)
    assert file.names == ("1", "2", "10")
    assert file.world_from_cam[1].isnan().all()
    found = file.for_clip(named_clip("c", ("1.jpg", "2.jpg", "10.jpg")))
    assert found.world_from_cam[1].isnan().all()
    wanted = torch.linalg.inv(POSES[1]) @ POSES[2]
    torch.testing.assert_close(found.world_from_cam[2], wanted.float(), atol=1e-6, rtol=1e-5)
    assert "2 of 3 pictures paired by name" in found.report[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "wanted rows of time"),
        ("", "wanted rows of time"),
        ("1 2 3\n", "rows of 3 numbers"),
        ("1 2 3 4\n1 2 3\n", "wanted rows of time"),
        ("0 0 0 0 0 0 0 0\n", "quaternion that is not of length 1"),
        ("0 0 0 0 0 0 0 5\n", "quaternion that is not of length 1"),
        ("0 nan 0 0 0 0 0 1\n", "not finite"),
        ("nan 0 0 0 0 0 0 1\n", "not finite"),
        ("0 1e30 0 0 0 0 0 1\n", "1e\\+30 units"),
        ("0 1e400 0 0 0 0 0 1\n", "not finite"),
        (lines(*np.zeros((12, 2)).tolist()), "not a rotation"),
        (lines(*np.full((12, 2), np.nan).tolist()), "none of its poses is finite"),
        (lines(*(2 * np.eye(4)).tolist()), "not a rotation"),
    ],
)
def test_other_text_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        write(tmp_path, text)
    assert "poses.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "poses.npy"
    for values, message in (
        (np.zeros((3, 5, 5)), "shape"),
        (np.zeros((2, 4, 4)), "not a rotation"),
        (np.array([{}], dtype=object), "cannot read"),
        (np.array(["x"]), "cannot read"),
    ):
        np.save(path, values, allow_pickle=True)
        with pytest.raises(UserError, match=message):
            read_camera_file(path)
    np.save(path, POSES.numpy())
    data = path.read_bytes()
    for damaged in (
        data[:50],
        data[:-9],
        data.replace(b"(4, 4, 4)", b"(4**9,4,)"),
        data.replace(b"(4, 4, 4)", b"(9999999,"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"poses\.npy"):
            read_camera_file(path)
