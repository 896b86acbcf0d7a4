"""Reads COLMAP's sparse models, text or binary."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.io.checked_values import numbers
from recon4d.io.file_errors import blamed_on

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""The first of COLMAP's camera models, by the number that stands for each in binary files."""
FOCALS_AND_DISTORTIONS = {"SIMPLE_PINHOLE": (1, 0), "PINHOLE": (2, 0), "SIMPLE_RADIAL": (1, 1), "OPENCV": (2, 4)}
"""Of the models read here, how many focal lengths stand before the two of the principal point, and what after."""
PLACES = (".", "sparse/0", "sparse")
"""Where a model lies in the folder of a sequence."""


@dataclass(frozen=True)
class Lens:
    """How a camera of a model sees; what `parameters` mean depends on COLMAP's `model`."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    """A registered picture; `pose` is cam_from_world as qw qx qy qz tx ty tz, `point_ids` -1 where there is none."""

    name: str
    lens: int
    pose: Float64[Tensor, "7"]
    pixels: Float64[Tensor, "seen 2"]
    point_ids: Int64[Tensor, "seen"]


@dataclass(frozen=True)
class StoredModel:
    """What a model's files hold; `images` are in order of their names; `points` are by id."""

    lenses: dict[int, Lens]
    images: list[_Image]
    points: dict[int, tuple[float, float, float]]


def model_folder(folder: Path) -> Path | None:
    """Where in `folder` a model's files lie; None where there are none."""
    for place in PLACES:
        if any((folder / place / f"cameras.{ending}").is_file() for ending in ("bin", "txt")):
            return folder / place
    return None


def read_model(name: str, folder: Path) -> StoredModel:
    """The model of a folder, binary where there is one; `name` is what errors call it.

    Raises ``ValueError`` or ``FileNotFoundError`` where files are missing or damaged.
    """
    place = model_folder(folder) or folder
    ending, readers = ".txt", (_lenses_from_text, _images_from_text, _points_from_text)
    if (place / "cameras.bin").is_file():
        ending, readers = ".bin", (_lenses_from_bytes, _images_from_bytes, _points_from_bytes)
    paths = [place / f"{part}{ending}" for part in ("cameras", "images", "points3D")]
    with blamed_on(name, paths[0]):
        lenses = readers[0](paths[0])
    with blamed_on(name, paths[1]):
        images = readers[1](paths[1])
    with blamed_on(name, paths[2]):
        points = readers[2](paths[2])
    if not images:
        raise DataError(name, paths[1], "has no registered picture")
    for image in images:
        numbers(name, str(paths[1]), image.pose.tolist(), (7,))
    numbers(name, str(paths[2]), list(points.values()) or np.zeros((0, 3)), (None, 3))
    return StoredModel(lenses, sorted(images, key=lambda image: image.name), points)


def _rows(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _lenses_from_text(path: Path) -> dict[int, Lens]:
    rows = [line.split() for line in _rows(path) if line.strip()]
    return {int(row[0]): Lens(row[1], int(row[2]), int(row[3]), tuple(map(float, row[4:]))) for row in rows}


def _images_from_text(path: Path) -> list[_Image]:
    """Two lines a picture; the second, of its pixels, may be empty."""
    rows = _rows(path)
    images = []
    for head, body in zip(rows[::2], [*rows[1::2], ""], strict=False):
        words = head.split(maxsplit=9)
        if len(words) < 10:
            raise ValueError(f"has a line that is no picture: {head[:60]}")
        triples = np.array([float(word) for word in body.split()], dtype=np.float64).reshape(-1, 3)
        pose = torch.tensor([float(word) for word in words[1:8]], dtype=torch.float64)
        images.append(_image(words[9].strip(), int(words[8]), pose, triples))
    return images


def _points_from_text(path: Path) -> dict[int, tuple[float, float, float]]:
    rows = [line.split() for line in _rows(path) if line.strip()]
    return {int(row[0]): (float(row[1]), float(row[2]), float(row[3])) for row in rows}


def _image(name: str, lens: int, pose: Tensor, triples: np.ndarray) -> _Image:
    """`triples` are x, y and the point's id, which fits a float64."""
    pixels = torch.from_numpy(triples[:, :2].copy())
    return _Image(name, lens, pose, pixels, torch.from_numpy(triples[:, 2].astype(np.int64)))


def _lenses_from_bytes(path: Path) -> dict[int, Lens]:
    data, lenses = _Bytes(path), {}
    for _ in data.counted():
        key, number, width, height = data.take("<iiQQ")
        if not 0 <= number < len(MODELS):
            raise ValueError(f"has a camera of COLMAP's model number {number}; wanted {', '.join(MODELS)}")
        focals, distortions = FOCALS_AND_DISTORTIONS.get(MODELS[number], (1, 2))  # RADIAL, to be refused by its name
        lenses[key] = Lens(MODELS[number], width, height, data.take(f"<{focals + 2 + distortions}d"))
    return lenses


def _images_from_bytes(path: Path) -> list[_Image]:
    data, images = _Bytes(path), []
    for _ in data.counted():
        _, *pose, lens = data.take("<i7di")
        name = data.word()
        (count,) = data.take("<Q")
        seen = data.array(np.dtype([("pixel", "<f8", 2), ("point", "<i8")]), count)
        triples = np.concatenate([seen["pixel"], seen["point"][:, None].astype(np.float64)], axis=1)
        images.append(_image(name, lens, torch.tensor(pose, dtype=torch.float64), triples))
    return images


def _points_from_bytes(path: Path) -> dict[int, tuple[float, float, float]]:
    data, points = _Bytes(path), {}
    for _ in data.counted():
        key, x, y, z, _, _, _, _, length = data.take("<Q3d3BdQ")
        data.array(np.dtype("<i4"), 2 * length)
        points[key] = (x, y, z)
    return points


class _Bytes:
    """A binary file read from its beginning; ``ValueError`` where it ends too soon."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        self._need(struct.calcsize(layout))
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        self._need(dtype.itemsize * count)
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += dtype.itemsize * count
        return values

    def word(self) -> str:
        end = self.data.find(b"\0", self.at)
        self._need((end if end >= 0 else len(self.data)) + 1 - self.at)
        word = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return word

    def counted(self) -> Iterator[int]:
        """As many steps as the number that comes next."""
        return iter(range(self.take("<Q")[0]))

    def _need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise ValueError(f"ends after {len(self.data)} bytes, in the middle of a record")
