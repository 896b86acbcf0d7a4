"""Reader of COLMAP's sparse models in text or binary format.

The formats are described at https://colmap.github.io/format.html.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.io.checked_values import parse_numbers
from recon4d.io.file_errors import data_errors

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""COLMAP's first camera models; their indices are the model ids in binary files."""
PARAMETER_COUNTS = {"SIMPLE_PINHOLE": (1, 0), "PINHOLE": (2, 0), "SIMPLE_RADIAL": (1, 1), "OPENCV": (2, 4)}
"""Number of focal lengths (before the two coordinates of the principal point) and of distortion coefficients (after
them) by camera model."""
MODEL_FOLDERS = (".", "sparse/0", "sparse")
"""Locations of a model in the folder of a sequence, in order of precedence."""

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class StoredCamera:
    """A camera of a model."""

    model: str
    """COLMAP's name of the camera model."""
    width: int
    """Width of its images in pixels."""
    height: int
    """Height of its images in pixels."""
    parameters: tuple[float, ...]
    """Parameters in the order that `model` defines."""


@dataclass(frozen=True)
class StoredImage:
    """A registered image of a model."""

    name: str
    """File name relative to the folder of the images."""
    camera_id: int
    """Key of its camera in `StoredModel.cameras`."""
    pose: Float64[Tensor, "7"]
    """Camera from world as qw qx qy qz tx ty tz."""
    pixels: Float64[Tensor, "observation 2"]
    """(x, y) of its keypoints, of shape (observation, 2)."""
    point_ids: Int64[Tensor, "observation"]
    """Key of each keypoint's 3D point in `StoredModel.points`, of shape (observation,); -1 if it has none."""


@dataclass(frozen=True)
class StoredModel:
    """The contents of a model's files."""

    cameras: dict[int, StoredCamera]
    """Cameras by id."""
    images: list[StoredImage]
    """Registered images, sorted by name."""
    points: dict[int, tuple[float, float, float]]
    """3D points in the world by id."""


def find_model_folder(folder: Path) -> Path | None:
    """Find the files of a model.

    Args:
        folder: The folder of a sequence.

    Returns:
        The first of `MODEL_FOLDERS` that holds a model, or None.
    """
    for name in MODEL_FOLDERS:
        if any((folder / name / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return folder / name
    return None


def read_model(name: str, folder: Path) -> StoredModel:
    """Read a model; binary files take precedence over text files.

    Args:
        name: Name of the sequence, for the message.
        folder: The folder of the sequence or of the model.

    Returns:
        The model.

    Raises:
        DataError: If a file is missing or damaged, or if there is no registered image.
    """
    place = find_model_folder(folder) or folder
    is_binary = (place / "cameras.bin").is_file()
    suffix = "bin" if is_binary else "txt"
    cameras_file, images_file, points_file = (place / f"{part}.{suffix}" for part in ("cameras", "images", "points3D"))
    if is_binary:
        cameras = _cameras_from_bytes(_ByteReader(name, cameras_file))
        images = _images_from_bytes(_ByteReader(name, images_file))
        points = _points_from_bytes(_ByteReader(name, points_file))
    else:
        cameras = _cameras_from_text(_LineReader(name, cameras_file))
        images = _images_from_text(_LineReader(name, images_file))
        points = _points_from_text(_LineReader(name, points_file))
    if not images:
        raise DataError(name, images_file, "has no registered picture")
    for image in images:
        parse_numbers(name, str(images_file), image.pose.tolist(), (7,))
    parse_numbers(name, str(points_file), list(points.values()) or np.zeros((0, 3)), (None, 3))
    return StoredModel(cameras, sorted(images, key=lambda image: image.name), points)


class _LineReader:
    """The lines of a text file without comments; `parse` raises `DataError` for a malformed line."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        with data_errors(name, path):
            text = path.read_text(encoding="utf-8")
        self.lines = [line for line in text.splitlines() if not line.startswith("#")]

    def records(self, parse: Callable[[list[str]], _Parsed]) -> list[_Parsed]:
        """Parse the words of each line that is not empty."""
        return [self.parse(line, parse) for line in self.lines if line.strip()]

    def parse(self, line: str, parse: Callable[[list[str]], _Parsed]) -> _Parsed:
        """Apply `parse`, which consists of conversions of words only, to the words of a line."""
        try:
            return parse(line.split())
        except (ValueError, IndexError) as error:
            raise DataError(self.name, self.path, f"has a line that is no record: {line[:60]}") from error


def _cameras_from_text(file: _LineReader) -> dict[int, StoredCamera]:
    return dict(
        file.records(
            lambda words: (
                int(words[0]),
                StoredCamera(words[1], int(words[2]), int(words[3]), tuple(map(float, words[4:]))),
            )
        )
    )


def _images_from_text(file: _LineReader) -> list[StoredImage]:
    """Parse two lines per image; the second one, with the keypoints, may be empty."""
    images = []
    for head, body in zip(file.lines[::2], [*file.lines[1::2], ""], strict=False):
        if len(head.split()) < 10:
            raise DataError(file.name, file.path, f"has a line that is no picture: {head[:60]}")
        name = head.split(maxsplit=9)[9].strip()  # may contain blanks
        pose, camera_id = file.parse(head, lambda words: ([float(word) for word in words[1:8]], int(words[8])))
        triples = file.parse(body, lambda words: np.array([float(word) for word in words]).reshape(-1, 3))
        images.append(_make_image(name, camera_id, pose, triples))
    return images


def _points_from_text(file: _LineReader) -> dict[int, tuple[float, float, float]]:
    return dict(file.records(lambda words: (int(words[0]), (float(words[1]), float(words[2]), float(words[3])))))


def _make_image(name: str, camera_id: int, pose: list[float], triples: np.ndarray) -> StoredImage:
    """`triples` are x, y and the id of the point, which float64 represents exactly."""
    pixels = torch.from_numpy(triples[:, :2].copy())
    point_ids = torch.from_numpy(triples[:, 2].astype(np.int64))
    return StoredImage(name, camera_id, torch.tensor(pose, dtype=torch.float64), pixels, point_ids)


class _ByteReader:
    """A binary file, read from its beginning; raises `DataError` if it ends too early."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path, self.position = name, path, 0
        with data_errors(name, path):
            self.data = path.read_bytes()

    def take(self, layout: str) -> tuple:
        """Read values of a ``struct`` layout."""
        self._require(struct.calcsize(layout))
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        """Read an array of `count` elements."""
        self._require(dtype.itemsize * count)
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += dtype.itemsize * count
        return values

    def word(self) -> str:
        """Read a string that a zero byte terminates."""
        end = self.data.find(b"\0", self.position)
        self._require((end if end >= 0 else len(self.data)) + 1 - self.position)
        encoded = self.data[self.position : end]
        self.position = end + 1
        try:
            return encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(self.name, self.path, f"has a name that is not UTF-8: {encoded!r}") from error

    def counted(self) -> Iterator[int]:
        """Read a count and iterate that many times."""
        return iter(range(self.take("<Q")[0]))

    def _require(self, size: int) -> None:
        if self.position + size > len(self.data):
            raise DataError(self.name, self.path, f"ends after {len(self.data)} bytes, in the middle of a record")


def _cameras_from_bytes(file: _ByteReader) -> dict[int, StoredCamera]:
    cameras = {}
    for _ in file.counted():
        key, number, width, height = file.take("<iiQQ")
        if not 0 <= number < len(CAMERA_MODELS):
            reason = f"has a camera of COLMAP's model number {number}; wanted {', '.join(CAMERA_MODELS)}"
            raise DataError(file.name, file.path, reason)
        # RADIAL is read here, so that users of the model can refuse it by its name.
        focals, distortions = PARAMETER_COUNTS.get(CAMERA_MODELS[number], (1, 2))
        parameters = file.take(f"<{focals + 2 + distortions}d")
        cameras[key] = StoredCamera(CAMERA_MODELS[number], width, height, parameters)
    return cameras


def _images_from_bytes(file: _ByteReader) -> list[StoredImage]:
    images = []
    for _ in file.counted():
        _, *pose, camera_id = file.take("<i7di")
        name = file.word()
        (count,) = file.take("<Q")
        keypoints = file.array(np.dtype([("pixel", "<f8", 2), ("point", "<i8")]), count)
        triples = np.concatenate([keypoints["pixel"], keypoints["point"][:, None].astype(np.float64)], axis=1)
        images.append(_make_image(name, camera_id, pose, triples))
    return images


def _points_from_bytes(file: _ByteReader) -> dict[int, tuple[float, float, float]]:
    points = {}
    for _ in file.counted():
        key, x, y, z, _, _, _, _, length = file.take("<Q3d3BdQ")
        file.array(np.dtype("<i4"), 2 * length)
        points[key] = (x, y, z)
    return points
