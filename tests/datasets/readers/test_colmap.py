"""Tests of the reader of COLMAP models in text and binary format."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from turned_cameras import HEIGHT, RIGHT, ROOT_HALF, WIDTH, check_turned_right, matrix, picture, refused

from recon4d.datasets.readers.colmap import ColmapModels

SECOND_FROM_WORLD = np.linalg.inv(matrix(RIGHT, [2.0, 0.0, 0.0]))
TURNED_BACK = (ROOT_HALF, 0.0, -ROOT_HALF, 0.0)
"""The rotation of `SECOND_FROM_WORLD` as qw qx qy qz."""


def colmap_text(folder: Path, cameras: str) -> None:
    """Write a model of three images and three points; one keypoint has no point, and one image has no keypoints."""
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
    """Write the model of `colmap_text` in binary format."""
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
def test_a_model_becomes_cameras_and_static_tracks(models: Path, name: str) -> None:
    data = ColmapModels(models)
    assert data.names() == ["binary", "text"]
    assert data.num_frames(name) == 3
    sample = data.read(name, [0, 1], anchors=(0, 1))
    check_turned_right(sample)
    assert sample.clip.source.names == ("a.png", "b c.png")
    expected = torch.tensor([[10.0, 0, 3], [0, 12, 2], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[0], expected)
    tracks = sample.scene.tracks
    torch.testing.assert_close(tracks.points[0], torch.tensor([[1, 0.5, 5], [6, -1, 0.25]]).expand(2, 2, 3))
    assert tracks.visibility.tolist() == [[[1, 0], [1, 0]], [[1, 0], [1, 1]]]
    assert tracks.confidence.tolist() == [[[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    assert tracks.pixels.tolist() == [[[4.5, 2.5], [0, 0]], [[1, 1], [2.25, 1.5]]]
    assert not sample.scene.depth_confidence.any()


def test_text_and_binary_models_are_equal(models: Path) -> None:
    read = [ColmapModels(models).read(name, [2, 1, 0], anchors=(1,)).scene for name in ("text", "binary")]
    tensors: list[list[torch.Tensor]] = [[], []]
    for scene, found in zip(read, tensors, strict=True):
        scene.map(lambda tensor, found=found: (found.append(tensor), tensor)[1])
    for first, second in zip(*tensors, strict=True):
        assert torch.equal(first.nan_to_num(nan=-1), second.nan_to_num(nan=-1))


@pytest.mark.parametrize(
    ("camera", "wanted"),
    [
        ("SIMPLE_PINHOLE 6 4 10 3 2", [10, 10, 3, 2]),
        ("SIMPLE_RADIAL 6 4 10 3 2 0", [10, 10, 3, 2]),
        ("OPENCV 6 4 10 12 3 2 0 0 1e-9 0", [10, 12, 3, 2]),
    ],
)
def test_cameras_without_distortion_are_pinhole_cameras(tmp_path: Path, camera: str, wanted: list) -> None:
    picture(tmp_path / "a.png")
    colmap_text(tmp_path / "sparse", f"1 {camera}")
    intrinsics = ColmapModels(tmp_path).read(tmp_path.name, [0]).scene.cameras.intrinsics[0]
    assert intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == wanted


@pytest.mark.parametrize(
    ("camera", "named"),
    [
        ("EQUIRECTANGULAR 6 4 6 4", "360 degree panoramas"),
        ("PINHOLE 6 4 10 3 2", "a PINHOLE camera with 3 parameters; wanted 4"),
        ("PINHOLE 7 4 10 12 3 2", "a.png"),
        ("PINHOLE 6 4 0 12 3 2", "pinhole"),
    ],
)
def test_other_cameras_are_refused_in_one_line(tmp_path: Path, camera: str, named: str) -> None:
    picture(tmp_path / "a.png")
    colmap_text(tmp_path / "sparse", f"1 {camera}")
    with refused(tmp_path.name, named):
        ColmapModels(tmp_path).read(tmp_path.name, [0])


def test_image_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    colmap_text(tmp_path / "model" / "sparse", f"1 PINHOLE {WIDTH} {HEIGHT} 10 12 3 2")
    file = tmp_path / "model" / "sparse" / "images.txt"
    file.write_text(file.read_text().replace("a.png", "../a.png"))
    with refused("model", "'../a.png', which is outside of its folder"):
        ColmapModels(tmp_path / "model").read("model", [0])


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
def test_a_truncated_binary_model_is_reported(models: Path, part: str) -> None:
    path = models / "binary" / "sparse" / "0" / f"{part}.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with refused("binary", f"{part}.bin"):
        ColmapModels(models).read("binary", [0])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pictures_that_exif_turns_are_read_with_their_cameras(models: Path, orientation: int) -> None:
    """The same world is seen: tracked points project to the turned keypoints and pictures."""
    straight = ColmapModels(models).read("text", [0, 1], anchors=(0, 1))
    for number, file in enumerate(("a.png", "b c.png", "z.png")):
        exif = Image.Exif()
        exif[0x0112] = orientation
        values = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) + number
        Image.fromarray(values).convert("RGB").save(models / "text" / "images" / file, exif=exif)
    turned = ColmapModels(models).read("text", [0, 1], anchors=(0, 1))
    stored = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    wanted = {3: stored.flip((0, 1)), 6: stored.flip(0).T, 8: stored.T.flip(0)}[orientation]
    assert torch.equal(turned.clip.images[0, 0].long(), wanted)
    tracks, old = turned.scene.tracks, straight.scene.tracks
    # Keypoints: of a picture of width w and height h, (x, y) is shown at (w - x, h - y), (h - y, x) or (y, w - x).
    x, y = old.pixels.unbind(-1)
    shown = {3: (WIDTH - x, HEIGHT - y), 6: (HEIGHT - y, x), 8: (y, WIDTH - x)}[orientation]
    visible = old.visibility[torch.arange(2), torch.tensor([0, 1])] > 0
    torch.testing.assert_close(tracks.pixels[visible], torch.stack(shown, dim=-1)[visible])
    # Both describe the same points and centers, in the frames of first cameras that are turned to each other.
    distances = [
        torch.cdist(scene.tracks.points[0, 0], scene.cameras.centers) for scene in (straight.scene, turned.scene)
    ]  # pyright: ignore[reportOptionalMemberAccess]
    torch.testing.assert_close(distances[0], distances[1], atol=1e-4, rtol=0)
    projected = turned.scene.track_pixels[0, 0], straight.scene.track_pixels[0, 0]
    x, y = projected[1].unbind(-1)
    shown = {3: (WIDTH - x, HEIGHT - y), 6: (HEIGHT - y, x), 8: (y, WIDTH - x)}[orientation]
    in_front = old.points[0, 0, :, 2] > 0.5
    torch.testing.assert_close(projected[0][in_front], torch.stack(shown, dim=-1)[in_front], atol=1e-3, rtol=0)


def test_cameras_of_upright_pictures_stay_and_mirrored_ones_are_refused(models: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in ("a.png", "b c.png", "z.png"):  # stored as 4 x 6 pixels, upright 6 x 4 as the camera says
        Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(models / "text" / "images" / file, exif=exif)
    check_turned_right(ColmapModels(models).read("text", [0, 1]))
    exif[0x0112] = 2
    for file in ("a.png", "b c.png", "z.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(models / "text" / "images" / file, exif=exif)
    with refused("text", "EXIF orientation 2, a mirror image"):
        ColmapModels(models).read("text", [0])
