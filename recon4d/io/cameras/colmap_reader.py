"""Reader of COLMAP's sparse models with pycolmap, in text or binary format.

pycolmap reads some damaged files without an error, allocates any memory that damaged binary files ask for, and splits
names at blanks. Binary files are therefore checked to end where their counts say (`_check_binary`), and text files are
written in a canonical form first (`_canonical_images`): without comments, blank lines that an editor added or removed,
a byte order mark or names.
"""

import struct
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from recon4d.errors import DataError, one_line
from recon4d.io.checked_cameras import camera_problem
from recon4d.io.checked_values import parse_floats
from recon4d.io.file_errors import data_errors

if TYPE_CHECKING:
    import pycolmap

MODEL_FOLDERS = (
    ".",
    "sparse/0",
    "sparse",
    "colmap/sparse/0",
    "colmap/sparse",
    "0",
    "dense/sparse",
    "distorted/sparse/0",
)
"""Locations of a model in the folder of a sequence, in order of precedence: those of COLMAP, nerfstudio (colmap/) and
Gaussian splatting (distorted/)."""
MAX_POINT = 1e30
"""Largest coordinate of a point, so that float32 represents its square."""


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
    cam_from_world: Float64[Tensor, "4 4"]
    """Rigid transform to its camera."""
    pixels: Float64[Tensor, "observation 2"]
    """(x, y) of its keypoints, of shape (observation, 2). Empty unless they were requested."""
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
    """3D points in the world by id: those that the requested keypoints show."""


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


def read_model(name: str, folder: Path, frames: Collection[int] = ()) -> StoredModel:
    """Read a model; binary files take precedence over text files. The file of the points may be missing.

    Args:
        name: Name of the sequence, for the message.
        folder: The folder of the sequence or of the model.
        frames: Positions in `StoredModel.images` of the images whose keypoints are requested.

    Returns:
        The model.

    Raises:
        DataError: If a file is missing or damaged, if a pose is invalid, or if there is no registered image.
    """
    place = find_model_folder(folder) or folder
    suffix = "bin" if (place / "cameras.bin").is_file() else "txt"
    names: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as canonical:
        for part in ("cameras", "images", "points3D", "rigs", "frames"):
            source, target = place / f"{part}.{suffix}", Path(canonical) / f"{part}.{suffix}"
            if part == "points3D" and not source.is_file():
                target.write_bytes(struct.pack("<Q", 0) if suffix == "bin" else b"")
            elif source.is_file() or part in ("cameras", "images"):
                with data_errors(name, source):
                    data = source.read_bytes()
                if suffix == "bin":
                    _check_binary(name, source, part, data)
                else:
                    data = _canonical_text(name, source, data, names)
                target.write_bytes(data)
        model = _convert(name, place / f"images.{suffix}", _load(name, place, Path(canonical)), names, frames)
    if not model.images:
        raise DataError(name, place / f"images.{suffix}", "has no registered picture")
    return model


def _load(name: str, place: Path, canonical: Path) -> "pycolmap.Reconstruction":
    import pycolmap

    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    try:
        return pycolmap.Reconstruction(canonical)
    except (ValueError, IndexError, RuntimeError, MemoryError) as error:  # the checks of COLMAP's reader
        reason = one_line(error).replace(str(canonical), str(place))
        raise DataError(name, place, f"is no valid COLMAP model: {reason}") from error
    finally:
        pycolmap.logging.minloglevel = level


def _convert(
    name: str, file: Path, model: "pycolmap.Reconstruction", names: dict[int, str], frames: Collection[int]
) -> StoredModel:
    cameras = {
        key: StoredCamera(camera.model.name, camera.width, camera.height, tuple(map(float, camera.params)))
        for key, camera in model.cameras.items()
    }
    try:
        registered = [(names.get(key, str(image.name)), image) for key, image in model.images.items() if image.has_pose]
    except UnicodeDecodeError as error:
        raise DataError(name, file, f"has a name of a picture that is not UTF-8 ({error})") from error
    images, points = [], {}
    for frame, (image_name, image) in enumerate(sorted(registered, key=lambda named: named[0])):
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.from_numpy(np.array(image.cam_from_world().matrix()))
        if problem := camera_problem(pose[None]):
            raise DataError(name, file, f"{problem} ({image_name})")
        keypoints = image.points2D if frame in frames else []
        pixels = np.array([keypoint.xy for keypoint in keypoints], dtype=np.float64).reshape(-1, 2)
        ids = [keypoint.point3D_id if keypoint.has_point3D() else -1 for keypoint in keypoints]
        if not (file.with_stem("points3D")).is_file():
            ids = [-1] * len(ids)
        if missing := [key for key in ids if key >= 0 and key not in model.points3D]:
            raise DataError(name, file.with_stem("points3D"), f"has no point {missing[0]}, which {image_name} observes")
        points |= {key: tuple(map(float, model.points3D[key].xyz)) for key in ids if key >= 0}
        if not (np.abs(pixels) < MAX_POINT).all():
            raise DataError(name, file, f"has a keypoint that is not finite ({image_name})")
        stored = StoredImage(image_name, image.camera_id, pose, torch.from_numpy(pixels), torch.tensor(ids).long())
        images.append(stored)
    if not (np.abs(np.array(list(points.values()))) < MAX_POINT).all():
        raise DataError(name, file.with_stem("points3D"), "holds a point that is not finite")
    return StoredModel(cameras, images, points)


def _canonical_text(name: str, path: Path, data: bytes, names: dict[int, str]) -> bytes:
    """Return the text of a file as pycolmap reads it; names of images are collected by their ids."""
    with data_errors(name, path):
        text = data.decode("utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if path.stem == "cameras":
        for line in lines:
            _check_camera(name, path, line.split())
    if path.stem == "images":
        lines = list(_canonical_images(name, path, lines, names))
    return ("\n".join(lines) + "\n").encode()


def _check_camera(name: str, path: Path, words: list[str]) -> None:
    """Check model and number of parameters of a camera, which COLMAP refuses without naming them."""
    import pycolmap

    model = words[1] if len(words) > 1 else ""
    known = pycolmap.CameraModelId.__members__
    if model not in known or model == "INVALID":
        raise DataError(name, path, f"has a camera of the unknown model {model[:40]!r}")
    count = _num_parameters(name, path, int(known[model]))
    if len(words) != 4 + count or parse_floats(words[4:]) is None:
        raise DataError(name, path, f"has a {model} camera with {len(words) - 4} parameters; wanted {count}")


def _canonical_images(name: str, path: Path, lines: list[str], names: dict[int, str]) -> Iterator[str]:
    """Yield two lines for each image: its head with its id in place of its name, and its keypoints."""
    lines = list(lines)
    while lines:
        words = lines.pop(0).split(maxsplit=9)
        if len(words) < 10 or not words[0].lstrip("+").isdecimal():
            raise DataError(name, path, f"has a line that is no picture: {' '.join(words)[:60]}")
        numbers = parse_floats(words[1:8])
        if numbers is None or not np.isfinite(numbers).all():
            raise DataError(name, path, f"has a line whose pose is no seven numbers: {' '.join(words)[:60]}")
        if not 0.5 < np.linalg.norm(numbers[:4]) < 2:
            raise DataError(name, path, f"holds a quaternion that is not of length 1 ({words[9].strip()})")
        key = int(words[0])
        if key in names:
            raise DataError(name, path, f"has two pictures of the number {key}")
        names[key] = words[9].strip()
        yield " ".join([*words[:9], str(key)])
        # The line of an image without keypoints is empty, and an editor may have removed it.
        body = parse_floats(lines[0].split()) if lines else None
        yield lines.pop(0) if body is not None and len(body) % 3 == 0 else ""


def _check_binary(name: str, path: Path, part: str, data: bytes) -> None:
    """Check that a binary file ends where its counts say, and that quaternions have length 1."""
    position = 0

    def take(layout: str) -> tuple:
        nonlocal position
        size = struct.calcsize(layout)
        if position + size > len(data):
            raise DataError(name, path, f"ends after {len(data)} bytes, in the middle of a record")
        values = struct.unpack_from(layout, data, position)
        position += size
        return values

    def skip(count: int) -> None:
        nonlocal position
        if position + count > len(data):
            raise DataError(name, path, f"ends after {len(data)} bytes, in the middle of a record")
        position += count

    if part in ("rigs", "frames"):
        return  # short, and their references are checked by COLMAP
    (count,) = take("<Q")
    for _ in range(count):
        if part == "cameras":
            _, number, _, _ = take("<iiQQ")
            skip(8 * _num_parameters(name, path, number))
        elif part == "points3D":
            skip(8 * 4 + 3 + 8)
            skip(8 * take("<Q")[0])
        else:
            _, *quaternion = take("<i4d")
            if not 0.5 < np.linalg.norm(quaternion) < 2:
                raise DataError(name, path, "holds a quaternion that is not of length 1")
            skip(3 * 8 + 4)
            end = data.find(b"\0", position)
            skip((end if end >= 0 else len(data)) + 1 - position)
            skip(24 * take("<Q")[0])
    if position != len(data):
        raise DataError(name, path, f"has {len(data) - position} bytes after its last record")


def _num_parameters(name: str, path: Path, number: int) -> int:
    import pycolmap

    known = {int(model): model for model in pycolmap.CameraModelId.__members__.values() if int(model) >= 0}
    if number not in known:
        raise DataError(name, path, f"has a camera of the unknown model number {number}")
    return len(pycolmap.Camera.create_from_model_id(1, known[number], 1.0, 2, 2).params)
