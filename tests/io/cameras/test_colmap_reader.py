"""COLMAP's models: text that editors changed, binary files that are damaged, and the places where models are found."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from recon4d.errors import DataError, UserError
from recon4d.io import read_camera_file
from recon4d.io.cameras.colmap_reader import MODEL_FOLDERS, read_model

CAMERAS = "1 PINHOLE 60 40 50 52 31 19\n"
IMAGES = (
    "7 1 0 0 0 0 0 0 1 b c.png\n2.25 1.5 30 5.5 3.5 -1\n"
    "8 1 0 0 0 1 2 3 1 left/z 1.png\n\n"
    "9 1 0 0 0 0 0 0 1 a.png\n4.5 2.5 30\n"
)
POINTS = "30 6 -1 0.25 1 2 3 0.5 7 0 9 0\n"


def write(folder: Path, cameras: str = CAMERAS, images: str = IMAGES, points: str | None = POINTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(cameras)
    (folder / "images.txt").write_text(images)
    if points is not None:
        (folder / "points3D.txt").write_text(points)
    return folder


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        lambda text: text.replace("\n\n", "\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: "# Image list\n# more\n\n" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("2.25", "# a comment between\n2.25"),
        str.rstrip,
    ],
)
def test_text_that_an_editor_changed(tmp_path: Path, edit) -> None:
    model = read_model("m", write(tmp_path, images=edit(IMAGES)), range(3))
    assert [image.name for image in model.images] == ["a.png", "b c.png", "left/z 1.png"]
    assert model.images[1].pixels.tolist() == [[2.25, 1.5], [5.5, 3.5]]
    assert model.images[1].point_ids.tolist() == [30, -1]
    assert model.images[2].pixels.shape == (0, 2)
    assert model.images[2].cam_from_world[:3, 3].tolist() == [1, 2, 3]
    assert model.points == {30: (6, -1, 0.25)}
    assert model.cameras[1].parameters == (50, 52, 31, 19)


def test_points_may_be_missing(tmp_path: Path) -> None:
    """Their keypoints then show no points."""
    images = IMAGES.replace(" c.png", ".png")
    model = read_model("m", write(tmp_path / "text", images=images, points=None), range(3))
    assert [image.name for image in model.images] == ["a.png", "b.png", "left/z 1.png"]
    write(tmp_path / "both", images=images.replace("z 1", "z"))
    pycolmap.Reconstruction(tmp_path / "both").write_binary(tmp_path / "both")
    (tmp_path / "both" / "points3D.bin").unlink()
    assert [image.name for image in read_model("m", tmp_path / "both").images] == ["a.png", "b.png", "left/z.png"]


@pytest.mark.parametrize("place", MODEL_FOLDERS)
def test_the_folder_of_a_model_is_found(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    file = read_camera_file(tmp_path)
    assert file.names == ("a.png", "b c.png", "left/z 1.png")
    # A file of the model stands for it.
    assert read_camera_file(tmp_path / place / "images.txt").names == file.names
    torch.testing.assert_close(file.world_from_cam[2, :3, 3], torch.tensor([-1.0, -2, -3]).double())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cameras": "1 SPHERE 60 40 50\n"}, "unknown model 'SPHERE'"),
        ({"cameras": "1 PINHOLE 60 40 50 52 31\n"}, "PINHOLE camera with 3 parameters; wanted 4"),
        ({"cameras": "1 PINHOLE 60 40 50 52 31 x\n"}, "PINHOLE camera with 4 parameters"),
        ({"cameras": ""}, "no valid COLMAP model"),
        ({"cameras": "hello\n"}, "unknown model"),
        ({"images": ""}, "has no registered picture"),
        ({"images": "7 1 0 0 0 0 0 0 1\n"}, "line that is no picture"),
        ({"images": "7 0 0 0 0 0 0 0 1 b.png\n\n"}, "quaternion that is not of length 1 \\(b.png\\)"),
        ({"images": "7 5 0 0 0 0 0 0 1 b.png\n\n"}, "quaternion that is not of length 1"),
        ({"images": "7 nan 0 0 0 0 0 0 1 b.png\n\n"}, "pose is no seven numbers"),
        ({"images": "7 1 0 0 0 1e30 0 0 1 b.png\n\n"}, "1e\\+30 units from the origin; at most 1e\\+10 \\(b.png\\)"),
        ({"images": "7 1 0 0 0 0 0 0 3 b.png\n\n"}, "no valid COLMAP model"),
        ({"images": "7 1 0 0 0 0 0 0 1 b.png\n\n7 1 0 0 0 0 0 0 1 c.png\n\n"}, "two pictures of the number 7"),
        ({"images": "7 1 0 0 0 0 0 0 1 b.png\n1 2 55\n"}, "has no point 55, which b.png observes"),
        ({"points": "30 6 -1\n"}, "no valid COLMAP model"),
        ({"points": "30 6 -1 0.25 1 2 3 0.5 8 0\n"}, "no valid COLMAP model"),
    ],
)
def test_damaged_text_is_refused_in_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **({"points": ""} if "images" in files else {}), **files)
    with pytest.raises(DataError, match=message) as caught:
        read_model("m", tmp_path, range(3))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Return a binary model of three images with blanks in their names, written by pycolmap."""
    folder = write(tmp_path / "model", images=IMAGES.replace(" c.png", ".png").replace("z 1", "z"))
    pycolmap.Reconstruction(folder).write_binary(folder)
    for file in folder.glob("*.txt"):
        file.unlink()
    return folder


def test_binary_models_equal_text(tmp_path: Path, binary: Path) -> None:
    model = read_model("m", binary, range(3))
    assert [image.name for image in model.images] == ["a.png", "b.png", "left/z.png"]
    assert model.images[1].point_ids.tolist() == [30, -1]
    assert model.points == {30: (6, -1, 0.25)}
    # Only the requested keypoints are converted.
    assert read_model("m", binary).images[1].pixels.shape == (0, 2)


def test_names_that_are_no_text_are_refused(binary: Path) -> None:
    path = binary / "images.bin"
    path.write_bytes(path.read_bytes().replace(b"a.png", b"\xf9.png"))
    with pytest.raises(DataError, match=r"images\.bin: has a name of a picture that is not UTF-8"):
        read_model("m", binary)


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: b"",
        lambda data: struct.pack("<Q", 2**60) + data[8:],
        lambda data: struct.pack("<Q", struct.unpack("<Q", data[:8])[0] + 1) + data[8:],
        lambda data: data + b"xx",
    ],
)
def test_binary_files_end_where_their_counts_say(binary: Path, part: str, damage) -> None:
    path = binary / f"{part}.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{part}\.bin: (ends after|has \d+ bytes after)"):
        read_model("m", binary)


def test_mutated_binary_files_are_read_or_refused(binary: Path) -> None:
    """Single bytes change: every outcome is a model of valid cameras or an error that names a file of the model."""
    generator, refused = np.random.default_rng(0), 0
    original = {path: path.read_bytes() for path in sorted(binary.glob("*.bin"))}
    for _ in range(80):
        path = list(original)[generator.integers(len(original))]
        data = bytearray(original[path])
        data[generator.integers(len(data))] = generator.integers(256)
        path.write_bytes(data)
        try:
            file = read_camera_file(binary)
            assert file.world_from_cam.isfinite().all()
        except UserError as error:
            assert "model" in str(error)  # noqa: PT017
            refused += 1
        path.write_bytes(original[path])
    assert refused > 10
    shutil.rmtree(binary)
