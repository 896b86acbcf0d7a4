"""Tests of the reader of TAPVid-3D: tracks, images, and pickles that are not executed."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from malicious import Malicious
from PIL import Image
from turned_cameras import HEIGHT, RIGHT, WIDTH, check_turned_right, matrix, refused

from recon4d.datasets.readers.tapvid3d import TapVid3D


def tap_arrays() -> dict[str, np.ndarray]:
    """Create tracks of a static point 5 in front of the first camera, of one unknown at first, and of one behind."""
    jpegs = np.empty(2, dtype=object)
    for frame in range(2):
        stream = io.BytesIO()
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 100 * frame, np.uint8)).save(stream, "JPEG")
        jpegs[frame] = stream.getvalue()
    second_from_world = np.linalg.inv(matrix(RIGHT, [2.0, 0.0, 0.0]))
    static = (second_from_world @ [1.0, 0.5, 5.0, 1.0])[:3]
    return {
        "images_jpeg_bytes": jpegs,
        "tracks_XYZ": np.array(
            [[[1.0, 0.5, 5.0], [np.nan] * 3, [0, 0, -1]], [static, [0, 0, 1], [0, 0, -1]]], dtype=np.float32
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


def test_tracks_are_converted_from_camera_to_world_coordinates(tmp_path: Path) -> None:
    tap_file(tmp_path, tap_arrays())
    data = TapVid3D(tmp_path)
    assert data.names() == ["adt/clip_1"]
    sample = data.read("adt/clip_1", [0, 1], anchors=(0, 1))
    check_turned_right(sample)
    assert sample.clip.images[:, 0, 0, 0].tolist() == pytest.approx([0, 100], abs=2)
    tracks = sample.scene.tracks
    torch.testing.assert_close(tracks.points[0, :, 0], torch.tensor([[1.0, 0.5, 5.0]] * 2))
    assert tracks.visibility[0, :, 0].tolist() == [1, 0]
    torch.testing.assert_close(tracks.pixels[0, 0], torch.tensor([10 / 5 + 3, 12 * 0.5 / 5 + 2]))
    # NaN is invalid, and points behind the camera are not visible.
    assert tracks.confidence[:, :, 1].tolist() == [[0, 0], [0, 1]]
    assert tracks.confidence[:, :, 2].tolist() == [[0, 0], [0, 0]]
    assert torch.isfinite(tracks.points).all()
    assert not sample.scene.depth_confidence.any()


def test_a_clip_without_cameras_is_static_and_depth_maps_are_read(tmp_path: Path) -> None:
    arrays = tap_arrays()
    del arrays["extrinsics_w2c"]
    depth = np.full((2, HEIGHT, WIDTH), 3.0, dtype=np.float32)
    depth[0, 0, :2] = [0.0, np.nan]
    tap_file(tmp_path, arrays | {"depth_map": depth})
    scene = TapVid3D(tmp_path).read("adt/clip_1", [0, 1]).scene
    assert torch.equal(scene.cameras.world_from_cam[1], torch.eye(4))
    assert scene.depth_confidence[0, 0, :3].tolist() == [0, 0, 1]
    assert float(scene.depths[0, 0, 2]) == 3


def test_images_that_would_execute_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = tap_arrays()
    arrays["images_jpeg_bytes"][0] = Malicious(os.mkdir, "harm")
    tap_file(tmp_path, arrays)
    with refused("adt/clip_1", "is not part of an array"):
        TapVid3D(tmp_path).read("adt/clip_1", [0])
    assert not (tmp_path / "harm").exists()


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
def test_a_wrong_file_is_reported_in_one_line(tmp_path: Path, change: dict, named: str) -> None:
    arrays = {key: value for key, value in (tap_arrays() | change).items() if value is not None}
    tap_file(tmp_path, arrays)
    with refused("adt/clip_1", named):
        TapVid3D(tmp_path).read("adt/clip_1", [0])


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    path = tap_file(tmp_path, tap_arrays())
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:300])
    with refused("adt/clip_1", "clip_1.npz"):
        TapVid3D(tmp_path).num_frames("adt/clip_1")
