"""TUM, camera folders, TAPVid-3D, 7-Scenes, Sintel and COLMAP models, from bytes written here by hand."""

import io
import json
import math
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d import geometry as g
from recon4d.datasets import DataError, Sample
from recon4d.datasets.camera_folder import CameraFolder
from recon4d.datasets.colmap_model import ColmapModels
from recon4d.datasets.seven_scenes import SevenScenes
from recon4d.datasets.sintel import Sintel
from recon4d.datasets.tapvid3d import TapVid3D
from recon4d.datasets.tum import Tum

SHARED = Path(__file__).parents[2] / "shared" / "multiview"
HEIGHT, WIDTH = 4, 6
ROOT_HALF = math.sqrt(0.5)
RIGHT = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
"""world_from_cam of a camera that has turned right by 90 degrees: its forward is the world's x."""


def picture(path: Path, level: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path)


def depth_picture(path: Path, values: list[int]) -> None:
    """The first row's first pixels are `values`, all others 1."""
    pixels = np.ones((HEIGHT, WIDTH), np.uint16)
    pixels[0, : len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def matrix(rotation: np.ndarray, centre: list[float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, centre
    return result


def check_turned_right(sample: Sample) -> None:
    """The second camera stands 2 to the right of the first and looks to the right of it."""
    expected = torch.from_numpy(matrix(RIGHT, [2.0, 0.0, 0.0])).float()
    torch.testing.assert_close(sample.scene.cameras.world_from_cam[1], expected, rtol=0, atol=1e-5)
    assert torch.equal(sample.scene.cameras.world_from_cam[0], torch.eye(4))


def one_line(caught: pytest.ExceptionInfo[DataError], sequence: str, named: str) -> None:
    message = str(caught.value)
    assert message.startswith(f"{sequence}: ")
    assert named in message
    assert "\n" not in message


# TUM.


@pytest.fixture
def tum(tmp_path: Path) -> Path:
    """Three pictures; the last has no camera near. The second turned right; its depth is 15 ms late."""
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    for number, seconds in enumerate(("1311868164.10", "1311868164.20", "1311868164.30")):
        picture(folder / "rgb" / f"{seconds}.png", 50 * number)
    depth_picture(folder / "depth" / "1311868164.215.png", [5000, 0, 65535])
    (folder / "rgb.txt").write_text(
        "# color images\n1311868164.10 rgb/1311868164.10.png\n1311868164.20 rgb/1311868164.20.png\n"
        "1311868164.30 rgb/1311868164.30.png\n"
    )
    (folder / "depth.txt").write_text("# depth\n1311868164.215 depth/1311868164.215.png\n")
    (folder / "groundtruth.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n"
        "1311868164.085 9 9 9 0 0 0 1\n"
        "1311868164.101 1 2 3 0 0 0 1\n"
        f"1311868164.192 3 2 3 0 {ROOT_HALF} 0 {ROOT_HALF}\n"
        "1311868164.33 9 9 9 0 0 0 1\n"
    )
    return tmp_path


def test_tum_cameras_have_their_w_last_and_the_nearest_time(tum: Path) -> None:
    data = Tum(tum)
    assert data.names() == ["rgbd_dataset_freiburg2_desk"]
    assert data.num_frames(data.names()[0]) == 2
    sample = data.read(data.names()[0], [0, 1])
    check_turned_right(sample)
    assert sample.clip.images[:, 0, 0, 0].tolist() == [0, 50]
    torch.testing.assert_close(sample.clip.times, torch.tensor([0.0, 0.1]), rtol=0, atol=1e-6)


def test_tum_intrinsics_move_by_half_a_pixel(tum: Path) -> None:
    name = "rgbd_dataset_freiburg2_desk"
    by_name = Tum(tum).read(name, [0]).scene.cameras.intrinsics[0]
    torch.testing.assert_close(by_name, torch.tensor([[520.9, 0, 325.6], [0, 521.0, 250.2], [0, 0, 1]]))
    given = Tum(tum, intrinsics=(5.0, 6.0, 2.0, 1.0)).read(name, [0]).scene.cameras.intrinsics[0]
    torch.testing.assert_close(given, torch.tensor([[5.0, 0, 2.5], [0, 6.0, 1.5], [0, 0, 1]]))


def test_tum_depth_is_in_fivethousandths_and_zero_is_unknown(tum: Path) -> None:
    scene = Tum(tum).read("rgbd_dataset_freiburg2_desk", [0, 1]).scene
    assert not scene.depth_confidence[0].any()
    torch.testing.assert_close(scene.depths[1, 0, :3], torch.tensor([1.0, 0.0, 13.107]))
    assert scene.depth_confidence[1, 0, :3].tolist() == [1, 0, 1]


def test_tum_without_lists_takes_pictures_named_by_their_times(tmp_path: Path) -> None:
    picture(tmp_path / "1311868169.16.jpg")
    picture(tmp_path / "1311868169.26.jpg")
    (tmp_path / "groundtruth.txt").write_text(
        f"1311868169.16.jpg 0 0 0 0 0 0 1\n1311868169.26.jpg 2 0 0 0 {ROOT_HALF} 0 {ROOT_HALF}\n"
    )
    data = Tum(tmp_path, intrinsics=(5.0, 5.0, 2.5, 1.5))
    sample = data.read(tmp_path.name, [0, 1])
    check_turned_right(sample)
    assert not sample.scene.depth_confidence.any()
    with pytest.raises(DataError, match="neither freiburg1, 2 nor 3"):
        Tum(tmp_path).read(tmp_path.name, [0])


def test_tum_calibrations_go_by_the_name() -> None:
    data = Tum.__new__(Tum)
    data.intrinsics = None
    found = {name: data._calibration(name)[0, 0].item() for name in ("freiburg1_xyz", "fr2_desk", "freiburg3_walking")}
    assert found == {"freiburg1_xyz": 517.3, "fr2_desk": 520.9, "freiburg3_walking": 535.4}


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("groundtruth.txt", "1311868164.10 1 2 3 0 0 0\n", "shape (6,), wanted (7)"),
        ("groundtruth.txt", "noon 1 2 3 0 0 0 1\n", "does not begin with a time"),
        ("groundtruth.txt", "1311868164.10 1 2 nan 0 0 0 1\n", "not finite"),
        ("groundtruth.txt", "1311868164.10 1 2 3 0 0 0 0\n", "quaternion"),
        ("groundtruth.txt", "5 1 2 3 0 0 0 1\n", "no camera within 0.02 s"),
        ("rgb.txt", "1311868164.10\n", "rgb.txt"),
        ("rgb/1311868164.10.png", "", "1311868164.10.png"),
        ("depth/1311868164.215.png", "\x89PNG", "1311868164.215.png"),
    ],
)
def test_damaged_tum_is_named_in_one_line(tum: Path, file: str, content: str, named: str) -> None:
    name = "rgbd_dataset_freiburg2_desk"
    (tum / name / file).write_text(content)
    with pytest.raises(DataError) as caught:
        Tum(tum).read(name, [0, 1])
    one_line(caught, name, named)


@pytest.mark.skipif(not (SHARED / "tum_desk").is_dir(), reason="the real pictures are not here")
def test_real_tum_cameras_see_the_desk_they_turn_about() -> None:
    sample = Tum(SHARED / "tum_desk", intrinsics=(520.9, 521.0, 325.1, 249.7)).read("tum_desk", range(20))
    assert sample.clip.images.shape == (20, 3, 480, 640)
    assert sample.clip.times[-1].item() == pytest.approx(1.9, abs=0.01)
    # A hand that holds the camera moves at less than a metre a second and turns by less than a radian.
    steps = sample.scene.cameras.centres.diff(dim=0).norm(dim=-1)
    assert 0 < float(steps.min()) <= float(steps.max()) < 0.1
    rotations = sample.scene.cameras.world_from_cam[:, :3, :3]
    assert float(g.rotation_angle(rotations[:-1].mT @ rotations[1:]).max()) < 0.1
    # The cameras circle the desk and keep looking at it: of OpenCV's axes only the third points to one place.
    centres, forward = sample.scene.cameras.centres.double(), rotations[:, :, 2].double()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    meeting = torch.linalg.solve(across.sum(0), (across @ centres[..., None]).sum(0))[:, 0]
    assert float((meeting - centres[0]) @ forward[0]) > 0.5


# Folders with cameras.json.


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "lego"
    frames = []
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        picture(folder / f"{number:02d}.png", 10 * number)
        frames.append({"image": f"{number:02d}.png", "world_from_cam": pose.tolist()})
    stored = {"width": WIDTH, "height": HEIGHT, "intrinsics": [[7, 0, 3], [0, 7, 2], [0, 0, 1]], "frames": frames}
    (folder / "cameras.json").write_text(json.dumps(stored))
    return tmp_path


def test_a_camera_folder_is_read_as_it_stands(photos: Path) -> None:
    for data in (CameraFolder(photos), CameraFolder(photos / "lego")):
        assert data.names() == ["lego"]
        sample = data.read("lego", [0, 1])
        check_turned_right(sample)
        torch.testing.assert_close(
            sample.scene.cameras.intrinsics[1], torch.tensor([[7.0, 0, 3], [0, 7, 2], [0, 0, 1]])
        )
        assert sample.clip.times.isnan().all()
        assert sample.scene.metres_per_unit.isnan()
        assert not sample.scene.depth_confidence.any()
        assert not sample.scene.point_confidence.any()


def test_a_world_far_from_its_origin_costs_no_digits(photos: Path) -> None:
    file = photos / "lego" / "cameras.json"
    stored = json.loads(file.read_text())
    for frame in stored["frames"]:
        frame["world_from_cam"][0][3] += 1e8
    file.write_text(json.dumps(stored))
    check_turned_right(CameraFolder(photos).read("lego", [0, 1]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frames": []}, "frames"),
        ({"width": 5}, "00.png"),
        ({"intrinsics": [[7, 0], [0, 7]]}, "shape (2, 2), wanted (3, 3)"),
        ({"intrinsics": [[0, 0, 3], [0, 7, 2], [0, 0, 1]]}, "pinhole"),
        ({"frames": [{"image": "00.png"}] * 2}, "has no world_from_cam"),
        ({"frames": [{"image": "00.png", "world_from_cam": (-np.eye(4)).tolist()}] * 2}, "no rotation"),
        ({"frames": [{"image": "09.png", "world_from_cam": np.eye(4).tolist()}] * 2}, "09.png: is missing"),
    ],
)
def test_a_wrong_cameras_json_is_named_in_one_line(photos: Path, change: dict, named: str) -> None:
    file = photos / "lego" / "cameras.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError) as caught:
        CameraFolder(photos).read("lego", [0, 1])
    one_line(caught, "lego", named)


def test_pictures_of_different_sizes_are_named(photos: Path) -> None:
    picture(photos / "lego" / "01.png", size=(HEIGHT, WIDTH + 1))
    with pytest.raises(DataError, match=r"01\.png"):
        CameraFolder(photos).read("lego", [0, 1])


@pytest.mark.skipif(not (SHARED / "lego").is_dir(), reason="the real pictures are not here")
def test_real_lego_cameras_look_at_the_origin() -> None:
    sample = CameraFolder(SHARED / "lego").read("lego", [0, 1, 2])
    stored = json.loads((SHARED / "lego" / "cameras.json").read_text())
    first = torch.tensor(stored["frames"][0]["world_from_cam"])
    origin = -first[:3, :3].T @ first[:3, 3]
    for camera in sample.scene.cameras.cam_from_world:
        in_camera = g.transform_points(camera, origin[None])[0]
        assert in_camera[2] > 3
        assert in_camera[:2].norm() < 0.2 * in_camera[2]


# TAPVid-3D.


def tap_arrays() -> dict[str, np.ndarray]:
    """A point 5 before the first camera stands still; one is unknown at first; one is always behind the camera."""
    jpegs = np.empty(2, dtype=object)
    for frame in range(2):
        stream = io.BytesIO()
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 100 * frame, np.uint8)).save(stream, "JPEG")
        jpegs[frame] = stream.getvalue()
    second_from_world = np.linalg.inv(matrix(RIGHT, [2.0, 0.0, 0.0]))
    still = (second_from_world @ [1.0, 0.5, 5.0, 1.0])[:3]
    return {
        "images_jpeg_bytes": jpegs,
        "tracks_XYZ": np.array(
            [[[1.0, 0.5, 5.0], [np.nan] * 3, [0, 0, -1]], [still, [0, 0, 1], [0, 0, -1]]], dtype=np.float32
        ),
        "visibility": np.array([[True, True, True], [False, True, True]]),
        "fx_fy_cx_cy": np.array([10.0, 12.0, 3.0, 2.0]),
        "extrinsics_w2c": np.stack([np.eye(4), second_from_world]),
    }


def tap_file(root: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = root / "adt" / "clip_1.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_tap_tracks_move_from_their_cameras_to_the_world(tmp_path: Path) -> None:
    tap_file(tmp_path, tap_arrays())
    data = TapVid3D(tmp_path)
    assert data.names() == ["adt/clip_1"]
    sample = data.read("adt/clip_1", [0, 1], anchors=(0, 1))
    check_turned_right(sample)
    assert sample.clip.images[:, 0, 0, 0].tolist() == pytest.approx([0, 100], abs=2)
    tracks = sample.scene.tracks
    assert tracks is not None
    torch.testing.assert_close(tracks.points[0, :, 0], torch.tensor([[1.0, 0.5, 5.0]] * 2))
    assert tracks.visible[0, :, 0].tolist() == [1, 0]
    torch.testing.assert_close(tracks.pixels[0, 0], torch.tensor([10 / 5 + 3, 12 * 0.5 / 5 + 2]))
    # NaN does not exist, and what is behind a camera is not seen by it.
    assert tracks.confidence[:, :, 1].tolist() == [[0, 0], [0, 1]]
    assert tracks.confidence[:, :, 2].tolist() == [[0, 0], [0, 0]]
    assert torch.isfinite(tracks.points).all()
    assert not sample.scene.depth_confidence.any()


def test_tap_without_cameras_stands_still_and_depth_maps_are_kept(tmp_path: Path) -> None:
    arrays = tap_arrays()
    del arrays["extrinsics_w2c"]
    depth = np.full((2, HEIGHT, WIDTH), 3.0, dtype=np.float32)
    depth[0, 0, :2] = [0.0, np.nan]
    tap_file(tmp_path, arrays | {"depth_map": depth})
    scene = TapVid3D(tmp_path).read("adt/clip_1", [0, 1]).scene
    assert torch.equal(scene.cameras.world_from_cam[1], torch.eye(4))
    assert scene.depth_confidence[0, 0, :3].tolist() == [0, 0, 1]
    assert float(scene.depths[0, 0, 2]) == 3


class Order:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm",)


def test_tap_pictures_that_run_something_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = tap_arrays()
    arrays["images_jpeg_bytes"][0] = Order()
    tap_file(tmp_path, arrays)
    with pytest.raises(DataError) as caught:
        TapVid3D(tmp_path).read("adt/clip_1", [0])
    one_line(caught, "adt/clip_1", "is no array")
    assert not (tmp_path / "harm").exists()
    assert pickle.dumps(Order())  # it could have been


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tracks_XYZ": np.zeros((2, 4, 3))}, "tracks_XYZ"),
        ({"tracks_XYZ": np.zeros((1, 3, 3))}, "tracks_XYZ"),
        ({"fx_fy_cx_cy": np.array([1.0, 2.0])}, "wanted (4)"),
        ({"extrinsics_w2c": np.zeros((1, 4, 4))}, "shape"),
        ({"images_jpeg_bytes": np.array([b"no jpeg", b"none"], dtype=object)}, "0.jpg"),
        ({"visibility": None}, "has no visibility"),
    ],
)
def test_a_wrong_tap_file_is_named_in_one_line(tmp_path: Path, change: dict, named: str) -> None:
    arrays = {key: value for key, value in (tap_arrays() | change).items() if value is not None}
    tap_file(tmp_path, arrays)
    with pytest.raises(DataError) as caught:
        TapVid3D(tmp_path).read("adt/clip_1", [0])
    one_line(caught, "adt/clip_1", named)


def test_a_tap_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tap_file(tmp_path, tap_arrays())
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        TapVid3D(tmp_path).num_frames("adt/clip_1")
    one_line(caught, "adt/clip_1", "clip_1.npz")


# 7-Scenes.


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    folder = tmp_path / "chess" / "seq-01"
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        stem = f"frame-{number:06d}"
        picture(folder / f"{stem}.color.png", 10 * number)
        depth_picture(folder / f"{stem}.depth.png", [1500, 0, 65535, 65534])
        text = "\n".join("\t ".join(f"{value:.7e}" for value in row) for row in pose)
        (folder / f"{stem}.pose.txt").write_text(text + "\n")
    return tmp_path


def test_seven_scenes_depth_and_cameras(rooms: Path) -> None:
    data = SevenScenes(rooms)
    assert data.names() == ["chess/seq-01"]
    assert SevenScenes(rooms / "chess" / "seq-01").names() == ["seq-01"]
    sample = data.read("chess/seq-01", [0, 1])
    check_turned_right(sample)
    torch.testing.assert_close(sample.scene.depths[0, 0, :4], torch.tensor([1.5, 0.0, 0.0, 65.534]))
    assert sample.scene.depth_confidence[0, 0, :4].tolist() == [1, 0, 0, 1]
    expected = torch.tensor([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[0], expected)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("frame-000001.pose.txt", "1 0 0 0", "pose.txt"),
        ("frame-000001.pose.txt", "inf " * 16, "not finite"),
        ("frame-000001.depth.png", "", "depth.png"),
        ("frame-000001.color.png", "", "color.png"),
    ],
)
def test_damaged_seven_scenes_are_named_in_one_line(rooms: Path, file: str, content: str, named: str) -> None:
    (rooms / "chess" / "seq-01" / file).write_text(content)
    with pytest.raises(DataError) as caught:
        SevenScenes(rooms).read("chess/seq-01", [0, 1])
    one_line(caught, "chess/seq-01", named)


# Sintel.


@pytest.fixture
def film(tmp_path: Path) -> Path:
    training = tmp_path / "training"
    for folder in ("depth", "camdata_left"):
        (training / folder / "alley_2").mkdir(parents=True)
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        stem = f"frame_{number + 1:04d}"
        picture(training / "final" / "alley_2" / f"{stem}.png", 10 * number)
        depths = [1e11, 2500.0, 999.0, *([5.0] * (HEIGHT * WIDTH - 3))]
        header = struct.pack("<fii", 202021.25, WIDTH, HEIGHT)
        (training / "depth" / "alley_2" / f"{stem}.dpt").write_bytes(header + struct.pack(f"<{len(depths)}f", *depths))
        values = [8.0 + number, 0, 2.5, 0, 8.0, 1.5, 0, 0, 1, *np.linalg.inv(pose)[:3].ravel()]
        (training / "camdata_left" / "alley_2" / f"{stem}.cam").write_bytes(struct.pack("<f21d", 202021.25, *values))
    return tmp_path


def test_sintel_cameras_zoom_and_the_sky_is_unknown(film: Path) -> None:
    data = Sintel(film)
    assert data.names() == ["alley_2"]
    assert data.num_frames("alley_2") == 2
    sample = data.read("alley_2", [0, 1])
    check_turned_right(sample)
    # (w - 1) / 2 with the first centre at 0 is the middle, w / 2, with the first centre at 0.5.
    expected = torch.tensor([[9.0, 0, WIDTH / 2], [0, 8.0, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[1], expected)
    assert sample.scene.depths[0, 0, :4].tolist() == [0, 0, 999, 5]
    assert sample.scene.depth_confidence[0, 0, :4].tolist() == [0, 0, 1, 1]
    with pytest.raises(FileNotFoundError, match="clean"):
        Sintel(film, rendering="clean")


@pytest.mark.parametrize("file", ["camdata_left/alley_2/frame_0002.cam", "depth/alley_2/frame_0002.dpt"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: struct.pack("<f", 202021.0) + data[4:], "202021.25"),
        (lambda data: data[:-1], "bytes"),
        (lambda data: data[:4], "frame_0002"),
        (lambda data: b"", "202021.25"),
    ],
)
def test_damaged_sintel_is_named_in_one_line(film: Path, file: str, damage, named: str) -> None:
    path = film / "training" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        Sintel(film).read("alley_2", [0, 1])
    one_line(caught, "alley_2", named)


# COLMAP.

SECOND_FROM_WORLD = np.linalg.inv(matrix(RIGHT, [2.0, 0.0, 0.0]))
TURNED_BACK = (ROOT_HALF, 0.0, -ROOT_HALF, 0.0)
"""The rotation of `SECOND_FROM_WORLD` as qw qx qy qz."""


def colmap_text(folder: Path, cameras: str) -> None:
    """Two pictures of two points; b.png has a keypoint without a point, a.png comes last and has an empty line."""
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"# Camera list\n{cameras}\n")
    translation = " ".join(str(value) for value in SECOND_FROM_WORLD[:3, 3])
    rotation = " ".join(str(value) for value in TURNED_BACK)
    (folder / "images.txt").write_text(
        "# Image list\n"
        f"7 {rotation} {translation} 1 b c.png\n2.25 1.5 30 5.5 3.5 -1 1.0 1.0 20\n"
        "8 1 0 0 0 0 0 0 1 z.png\n\n"
        "9 1 0 0 0 0 0 0 1 a.png\n4.5 2.5 20\n"
    )
    (folder / "points3D.txt").write_text(
        "# 3D points\n20 1 0.5 5 255 0 0 0.1 9 0 7 2\n30 6 -1 0.25 1 2 3 0.5 7 0\n31 9 9 9 1 2 3 0.5\n"
    )


def colmap_bytes(folder: Path) -> None:
    folder.mkdir(parents=True)
    camera = struct.pack("<iiQQ4d", 1, 1, WIDTH, HEIGHT, 10.0, 12.0, 3.0, 2.0)
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", 1) + camera)
    second = struct.pack("<i7di", 7, *TURNED_BACK, *SECOND_FROM_WORLD[:3, 3], 1) + b"b c.png\0"
    second += struct.pack("<Q", 3) + struct.pack("<ddqddqddq", 2.25, 1.5, 30, 5.5, 3.5, -1, 1.0, 1.0, 20)
    empty = struct.pack("<i7di", 8, 1, 0, 0, 0, 0, 0, 0, 1) + b"z.png\0" + struct.pack("<Q", 0)
    first = struct.pack("<i7di", 9, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.png\0"
    first += struct.pack("<Qddq", 1, 4.5, 2.5, 20)
    (folder / "images.bin").write_bytes(struct.pack("<Q", 3) + second + empty + first)
    points = struct.pack("<Q3d3BdQ4i", 20, 1, 0.5, 5, 255, 0, 0, 0.1, 2, 9, 0, 7, 2)
    points += struct.pack("<Q3d3BdQ2i", 30, 6, -1, 0.25, 1, 2, 3, 0.5, 1, 7, 0)
    points += struct.pack("<Q3d3BdQ", 31, 9, 9, 9, 1, 2, 3, 0.5, 0)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 3) + points)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("text", "binary"):
        for number, file in enumerate(("a.png", "b c.png", "z.png")):
            picture(tmp_path / name / "images" / file, 10 * number)
    colmap_text(tmp_path / "text" / "sparse", f"1 PINHOLE {WIDTH} {HEIGHT} 10 12 3 2")
    colmap_bytes(tmp_path / "binary" / "sparse" / "0")
    return tmp_path


@pytest.mark.parametrize("name", ["text", "binary"])
def test_a_colmap_model_is_cameras_and_still_points(models: Path, name: str) -> None:
    data = ColmapModels(models)
    assert data.names() == ["binary", "text"]
    assert data.num_frames(name) == 3
    sample = data.read(name, [0, 1], anchors=(0, 1))
    check_turned_right(sample)
    assert sample.clip.source is not None
    assert sample.clip.source.names == ("a.png", "b c.png")
    expected = torch.tensor([[10.0, 0, 3], [0, 12, 2], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[0], expected)
    tracks = sample.scene.tracks
    assert tracks is not None
    torch.testing.assert_close(tracks.points[0], torch.tensor([[1, 0.5, 5], [6, -1, 0.25]]).expand(2, 2, 3))
    assert tracks.visible.tolist() == [[[1, 0], [1, 0]], [[1, 0], [1, 1]]]
    assert tracks.confidence.tolist() == [[[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    assert tracks.pixels.tolist() == [[[4.5, 2.5], [0, 0]], [[1, 1], [2.25, 1.5]]]
    assert not sample.scene.depth_confidence.any()


def test_text_and_binary_are_the_same(models: Path) -> None:
    read = [ColmapModels(models).read(name, [2, 1, 0], anchors=(1,)).scene for name in ("text", "binary")]
    tensors: list[list[torch.Tensor]] = [[], []]
    for scene, found in zip(read, tensors, strict=True):
        scene.map(lambda tensor, found=found: (found.append(tensor), tensor)[1])
    for first, second in zip(*tensors, strict=True):
        assert torch.equal(first.nan_to_num(nan=-1), second.nan_to_num(nan=-1))


@pytest.mark.parametrize(
    ("lens", "wanted"),
    [
        ("SIMPLE_PINHOLE 6 4 10 3 2", [10, 10, 3, 2]),
        ("SIMPLE_RADIAL 6 4 10 3 2 0", [10, 10, 3, 2]),
        ("OPENCV 6 4 10 12 3 2 0 0 1e-9 0", [10, 12, 3, 2]),
    ],
)
def test_colmap_cameras_without_distortion_are_pinholes(tmp_path: Path, lens: str, wanted: list) -> None:
    picture(tmp_path / "a.png")
    colmap_text(tmp_path / "sparse", f"1 {lens}")
    intrinsics = ColmapModels(tmp_path).read(tmp_path.name, [0]).scene.cameras.intrinsics[0]
    assert intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == wanted


@pytest.mark.parametrize(
    ("lens", "named"),
    [
        ("SIMPLE_RADIAL 6 4 10 3 2 0.01", "distortion"),
        ("OPENCV 6 4 10 12 3 2 0 0 0 0.001", "distortion"),
        ("RADIAL 6 4 10 3 2 0 0", "RADIAL"),
        ("PINHOLE 6 4 10 3 2", "shape (3,), wanted (4)"),
        ("PINHOLE 7 4 10 12 3 2", "a.png"),
        ("PINHOLE 6 4 0 12 3 2", "pinhole"),
    ],
)
def test_other_colmap_cameras_are_refused_in_one_line(tmp_path: Path, lens: str, named: str) -> None:
    picture(tmp_path / "a.png")
    colmap_text(tmp_path / "sparse", f"1 {lens}")
    with pytest.raises(DataError) as caught:
        ColmapModels(tmp_path).read(tmp_path.name, [0])
    one_line(caught, tmp_path.name, named)


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
def test_a_binary_model_cut_short_is_named(models: Path, part: str) -> None:
    path = models / "binary" / "sparse" / "0" / f"{part}.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError) as caught:
        ColmapModels(models).read("binary", [0])
    one_line(caught, "binary", f"{part}.bin")


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    for data in (Tum, CameraFolder, TapVid3D, SevenScenes, ColmapModels):
        with pytest.raises(ValueError, match=str(tmp_path)):
            data(tmp_path)
        with pytest.raises(FileNotFoundError):
            data(tmp_path / "nowhere")
