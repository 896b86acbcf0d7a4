"""Tests of the readers and the writer of Kubric: distances, camera axes, dynamic instances, tracks, pickles."""

import json
import math
import os
import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from malicious import Malicious
from PIL import Image
from turned_cameras import refused

from recon4d import geometry as g
from recon4d.datasets import Sample
from recon4d.datasets.readers.kubric import Kubric
from recon4d.datasets.readers.kubric_tracks import KubricTracks
from recon4d.errors import DataError, UserError

HEIGHT, WIDTH, COUNT = 6, 8, 3

FOCAL = 35.0 / 32.0 * WIDTH

TURNED = [math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]
"""Blender's camera looks down; rotated by 90 degrees about x it looks along the world's y axis with z up."""

CENTERS = [[1.0, 2.0, 3.0], [1.5, 2.0, 3.0], [2.0, 2.0, 3.0]]

POINT = np.array([1.25, 7.0, 3.5])
"""In the first frame 0.25 to the right, 0.5 above and 5 in front of the camera; in the next frame 0.25 to the left."""


def instance(positions: list, quaternions: list | None = None) -> dict:
    return {"positions": positions, "quaternions": quaternions or [[1.0, 0.0, 0.0, 0.0]] * COUNT}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a scene of three instances: one is static, one moves in the last step, one rotates in the first."""
    folder = tmp_path / "movi" / "scene"
    folder.mkdir(parents=True)
    turn = [math.cos(0.1), 0.0, 0.0, math.sin(0.1)]
    metadata = {
        "metadata": {"frame_rate": 24},
        "camera": {
            "focal_length": 35.0,
            "sensor_width": 32.0,
            "positions": CENTERS,
            "quaternions": [TURNED] * COUNT,
        },
        "instances": [
            instance([[5.0, 5.0, 5.0]] * COUNT),
            instance([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]),
            instance([[9.0, 0.0, 0.0]] * COUNT, [[1.0, 0.0, 0.0, 0.0], turn, turn]),
        ],
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    distances = np.full((HEIGHT, WIDTH), 10.0, dtype=np.float32)
    distances[0, 0], distances[0, 1] = 1e10, np.inf
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ids[3, 1:4] = [1, 2, 3]
    for frame in range(COUNT):
        colors = np.full((HEIGHT, WIDTH, 4), 40 * frame, dtype=np.uint8)
        Image.fromarray(colors, "RGBA").save(folder / f"rgba_{frame:05d}.png")
        Image.fromarray(distances).save(folder / f"depth_{frame:05d}.tiff")
        Image.fromarray(ids).save(folder / f"segmentation_{frame:05d}.png")
    return tmp_path / "movi"


def test_distances_become_z(root: Path) -> None:
    depths = Kubric(root).read("scene", [0]).scene.depths[0]
    # The center of pixel (6, 4) is 2.5 to the right of the image center and 1.5 below it.
    assert float(depths[4, 6]) == pytest.approx(10 / math.sqrt(1 + (2.5 / FOCAL) ** 2 + (1.5 / FOCAL) ** 2), rel=1e-6)


def test_a_point_projects_to_the_pixel_computed_by_hand(root: Path) -> None:
    sample = Kubric(root).read("scene", [0, 1])
    in_first = torch.tensor([0.25, -0.5, 5.0])  # OpenCV: y down
    in_second = g.transform_points(sample.scene.cameras.cam_from_world[1], in_first[None])[0]
    torch.testing.assert_close(in_second, torch.tensor([-0.25, -0.5, 5.0]))
    pixel = g.project(in_second[None], sample.scene.cameras.intrinsics[1])[0]
    torch.testing.assert_close(pixel, torch.tensor([WIDTH / 2 - 0.05 * FOCAL, HEIGHT / 2 - 0.1 * FOCAL]))


def test_a_rotating_camera_rotates_in_the_right_direction(root: Path) -> None:
    file = root / "scene" / "metadata.json"
    metadata = json.loads(file.read_text())
    level = [[1.0, 0.0, 0.0, 0.0]] * 2  # looking down the world's -z with y up
    half = math.radians(5)
    metadata["camera"]["positions"] = [[0.0, 0.0, 0.0]] * COUNT
    metadata["camera"]["quaternions"] = [*level, [math.cos(half), 0.0, math.sin(half), 0.0]]  # 10 degrees to the left
    file.write_text(json.dumps(metadata))
    first_from_cam = Kubric(root).read("scene", [0, 2]).scene.cameras.world_from_cam[1]
    forward = first_from_cam[:3, 2]
    torch.testing.assert_close(forward, torch.tensor([-math.sin(2 * half), 0.0, math.cos(2 * half)]), rtol=0, atol=1e-6)


def test_sky_is_unknown(root: Path) -> None:
    scene = Kubric(root).read("scene", [0]).scene
    assert scene.depth_confidence[0, 0, :3].tolist() == [0, 0, 1]
    assert scene.depths[0, 0, :2].tolist() == [0, 0]
    assert float(scene.metres_per_unit) == 1


def test_instances_are_dynamic_only_while_their_pose_changes(root: Path) -> None:
    dynamic = Kubric(root).read("scene", [0, 1, 2]).scene.dynamic[:, 3, :5]
    assert dynamic.tolist() == [[0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_ids_are_palette_indices(root: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ids[3, 1:4] = [1, 2, 3]
    picture = Image.fromarray(ids, "P")
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10, 10, 10, 200, 0, 0, 0])
    picture.save(root / "scene" / "segmentation_00001.png")
    assert Kubric(root).read("scene", [1]).scene.dynamic[0, 3, :5].tolist() == [0, 0, 1, 1, 0]


def test_times_follow_the_frame_rate_and_the_frame_numbers(root: Path) -> None:
    data = Kubric(root)
    assert data.names() == ["scene"]
    assert data.num_frames("scene") == COUNT
    clip = data.read("scene", [2, 0]).clip
    torch.testing.assert_close(clip.times, torch.tensor([2 / 24, 0.0]))
    assert clip.images[:, 0, 0, 0].tolist() == [80, 0]
    file = root / "scene" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["metadata"]
    file.write_text(json.dumps(metadata))
    torch.testing.assert_close(data.read("scene", [0, 1]).clip.times, torch.tensor([0.0, 1 / 12]))


def break_metadata(key: str, value: object):
    def damage(folder: Path) -> None:
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata["camera"][key] = value
        (folder / "metadata.json").write_text(json.dumps(metadata))

    return damage


def cut(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:45])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "depth_00001.tiff").unlink(), "depth_00001.tiff"),
        (lambda folder: (folder / "rgba_00002.png").unlink(), "metadata.json"),
        (cut("rgba_00001.png"), "rgba_00001.png"),
        (cut("metadata.json"), "metadata.json"),
        (break_metadata("positions", CENTERS[:2]), "metadata.json"),
        (break_metadata("quaternions", [[0.0] * 4] * COUNT), "metadata.json"),
        (break_metadata("focal_length", float("nan")), "metadata.json"),
        (break_metadata("focal_length", -1.0), "metadata.json"),
        (
            lambda folder: Image.fromarray(np.zeros((2, 2), np.float32)).save(folder / "depth_00001.tiff"),
            "depth_00001.tiff",
        ),
        (
            lambda folder: Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(
                folder / "segmentation_00001.png"
            ),
            "shows instance 9, but the metadata have 3",
        ),
    ],
)
def test_damage_is_reported_in_one_line(root: Path, damage, named: str) -> None:
    damage(root / "scene")
    with refused("scene", named):
        Kubric(root).read("scene", [0, 1])


def test_missing_data_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        Kubric(root / "nowhere")
    with pytest.raises(UserError, match=r"metadata\.json"):
        Kubric(root.parent)
    with pytest.raises(ValueError, match="frames 0 to 2"):
        Kubric(root).read("scene", [3])
    with pytest.raises(DataError, match="no such sequence"):
        Kubric(root).read("other", [0])


# Tests of the readers of tracks.

SIGNED = np.array([[35 / 32, 0, -0.5], [0, -35 / 32 * WIDTH / HEIGHT, -0.5], [0, 0, -1]])

MATRIX = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""The rotation `TURNED` as a matrix."""


def matrices() -> np.ndarray:
    poses = np.repeat(MATRIX[None], COUNT, axis=0)
    poses[:, :3, 3] = CENTERS
    return poses.astype(np.float32)


def annotation() -> dict:
    """Create tracks of two static points, at `POINT` and one meter above it; the second is occluded in frame 1."""
    points = np.stack([POINT, POINT + np.array([0, 0, 1.0])])
    return {
        "coords": np.arange(2 * COUNT * 2, dtype=np.float32).reshape(2, COUNT, 2),
        "traj_3d": np.repeat(points[:, None], COUNT, axis=1).astype(np.float32),
        "occluded": np.array([[False, False, False], [False, True, False]]),
        "depth_range": np.array([2.0, 12.0], dtype=np.float32),
        "intrinsics": np.repeat(SIGNED[None], COUNT, axis=0).astype(np.float32),
        "matrix_world": matrices(),
    }


def dump(root: Path, name: str, stored: object) -> Path:
    frames = root / name / "frames"
    frames.mkdir(parents=True)
    for frame in range(COUNT):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), frame, np.uint8)).save(frames / f"{frame:03d}.png")
        Image.fromarray(np.full((HEIGHT, WIDTH), 13107, np.uint16)).save(frames / f"{frame:03d}_depth.png")
    file = root / name / f"{name}.npy"
    np.save(file, np.array(stored, dtype=object), allow_pickle=True)
    return file


def check_full_sample(sample: Sample) -> None:
    expected = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[0], expected)
    slant = math.sqrt(1 + (2.5 / FOCAL) ** 2 + (1.5 / FOCAL) ** 2)
    assert float(sample.scene.depths[0, 4, 6]) == pytest.approx(4.0 / slant, rel=1e-5)  # 2 + 10 * 13107 / 65535
    tracks = sample.scene.tracks
    in_first = torch.tensor([[0.25, -0.5, 5.0], [0.25, -1.5, 5.0]])
    torch.testing.assert_close(tracks.points[0], in_first.expand(COUNT, 2, 3))
    assert tracks.visibility[0].tolist() == [[1, 1], [1, 0], [1, 1]]
    assert tracks.confidence[0].tolist() == [[1, 1]] * COUNT
    assert tracks.pixels[0].tolist() == [[0, 1], [6, 7]]
    pixel = torch.tensor([WIDTH / 2 - 0.05 * FOCAL, HEIGHT / 2 - 0.1 * FOCAL])
    torch.testing.assert_close(sample.scene.track_pixels[0, 1, 0], pixel)


def test_3d_tracks_give_a_complete_sample(tmp_path: Path) -> None:
    dump(tmp_path, "0007", annotation())
    data = KubricTracks(tmp_path)
    assert data.names() == ["0007"]
    assert data.num_frames("0007") == COUNT
    check_full_sample(data.read("0007", [0, 1, 2]))


def h5_dump() -> dict[str, np.ndarray]:
    stored = annotation()
    stored["target_points"] = stored.pop("coords")
    colors = np.linspace(-1, 1, COUNT, dtype=np.float32)[:, None, None, None]
    stored["video"] = colors * np.ones((HEIGHT, WIDTH, 3), np.float32)
    stored["depth_16bit"] = np.full((COUNT, HEIGHT, WIDTH, 1), 13107, np.uint16)
    return stored


def test_an_h5_file_gives_the_same_sample(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "0008.h5", "w") as file:
        for key, value in h5_dump().items():
            file[key] = value
    sample = KubricTracks(tmp_path).read("0008", [0, 1, 2])
    check_full_sample(sample)
    assert sample.clip.images[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_a_missing_h5py_is_a_user_error_and_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0008.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[h5\]'") as caught:
        KubricTracks(tmp_path).num_frames("0008")
    assert not isinstance(caught.value, DataError)


def test_visibility_means_occluded_and_2d_tracks_have_no_scene(tmp_path: Path) -> None:
    stored = {"coords": annotation()["coords"], "visibility": annotation()["occluded"]}
    dump(tmp_path, "0001", stored)
    data = KubricTracks(tmp_path)
    trajectories = data.trajectories("0001")
    assert trajectories.visibility.tolist() == [[True, True], [True, False], [True, True]]
    assert trajectories.pixels[2].tolist() == [[4, 5], [10, 11]]
    assert trajectories.points.isnan().all()
    with pytest.raises(DataError, match="no cameras and depth"):
        data.read("0001", [0])


@pytest.mark.parametrize(
    "call",
    [(os.mkdir, "harm"), (eval, "1 + 1"), (getattr, "text", "upper"), (np.load, "x.npy")],
    ids=["mkdir", "eval", "getattr", "load"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_would_execute_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    file = dump(tmp_path, "0002", {})
    header = file.read_bytes()[: 10 + int.from_bytes(file.read_bytes()[8:10], "little")]
    file.write_bytes(header + pickle.dumps(np.array({"coords": Malicious(*call)}, dtype=object), protocol=protocol))
    with pytest.raises(DataError, match="is not part of an array"):
        KubricTracks(tmp_path).num_frames("0002")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_arrays_are_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    file = dump(tmp_path, "0003", {})
    header = file.read_bytes()[: 10 + int.from_bytes(file.read_bytes()[8:10], "little")]
    stored = annotation() | {"extra": [np.float32(1), b"bytes", {"a": (1, 2)}]}
    file.write_bytes(header + pickle.dumps(np.array(stored, dtype=object), protocol=protocol))
    check_full_sample(KubricTracks(tmp_path).read("0003", [0, 1, 2]))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("traj_3d", np.zeros((2, COUNT, 2)), "shape"),
        ("traj_3d", np.full((2, COUNT, 3), np.nan), "not finite"),
        ("matrix_world", 2 * matrices(), "not a rotation"),
        ("intrinsics", np.zeros((COUNT, 3, 3)), "pinhole"),
        ("coords", np.zeros((3, COUNT, 2), np.float32), "coords"),
        ("coords", [[1.0], [1.0, 2.0]], r"0004\.npy"),
    ],
)
def test_wrong_arrays_are_reported(tmp_path: Path, key: str, value: object, named: str) -> None:
    dump(tmp_path, "0004", annotation() | {key: value})
    with pytest.raises(DataError, match=named):
        KubricTracks(tmp_path).read("0004", [0])


def test_truncated_and_missing_files_are_reported(tmp_path: Path) -> None:
    file = dump(tmp_path, "0005", annotation())
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"0005: .*0005\.npy"):
        KubricTracks(tmp_path).read("0005", [0])
    file = dump(tmp_path, "0006", annotation())
    (file.parent / "frames" / "001_depth.png").unlink()
    with pytest.raises(DataError, match=r"001_depth\.png: is missing"):
        KubricTracks(tmp_path).read("0006", [0, 1])
