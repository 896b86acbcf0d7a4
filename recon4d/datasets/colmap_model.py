"""COLMAP's sparse models, text or binary, as photos with cameras and a few thousand still points."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from recon4d.datasets.annotations import blamed_on, read_images
from recon4d.datasets.sample import Sample, Trajectories, true_scene
from recon4d.datasets.sequences import DataError, Sequences
from recon4d.datasets.stored_values import cameras_from_first, folder_of, numbers, pinhole_matrix
from recon4d.geometry import invert, project, rigid, rotation_from_quaternion, transform_points
from recon4d.records import Clip, Source

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""The first of COLMAP's camera models, by the number that stands for each in binary files."""
FOCALS_AND_DISTORTIONS = {"SIMPLE_PINHOLE": (1, 0), "PINHOLE": (2, 0), "SIMPLE_RADIAL": (1, 1), "OPENCV": (2, 4)}
"""Of the models read here, how many focal lengths stand before the two of the principal point, and what after."""
LARGEST_DISTORTION = 1e-6
PLACES = (".", "sparse/0", "sparse")
"""Where a model lies in the folder of a sequence."""


class ColmapModels(Sequences):
    """Sparse models: `root` is the folder of one, or a folder of such.

    A model is cameras, images and points3D, .bin or .txt, in the folder itself, in sparse/0 or in sparse; its pictures
    are in images/ or beside. Frames are the registered pictures by name, without times; pixels are COLMAP's, whose
    first centre is (0.5, 0.5) too; the unit is unknown. There is no depth. The 3D points are tracks that stand still,
    visible where the model has observed them. Lens distortion is refused with a `DataError`: undistort first.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder")
        folders = {root.resolve().name: root}
        if model_folder(root) is None:
            folders = {path.name: path for path in root.iterdir() if path.is_dir() and model_folder(path)}
        if not folders:
            raise ValueError(f"{root} has no COLMAP model (cameras.bin or cameras.txt), nor have its folders")
        self.folders = folders

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(read_model(name, folder_of(self.folders, name)).images)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        folder = folder_of(self.folders, name)
        model = read_model(name, folder)
        shots = [model.images[frame] for frame in frames]
        lenses = [_lens(name, model, shot) for shot in shots]
        pictures = folder / "images" if (folder / "images").is_dir() else folder
        images = read_images(name, [pictures / shot.name for shot in shots])
        for shot, lens in zip(shots, lenses, strict=True):
            if (lens.height, lens.width) != images.shape[-2:]:
                found, said = tuple(images.shape[-2:]), (lens.height, lens.width)
                raise DataError(name, shot.name, f"its height and width are {found}, those of its camera {said}")
        poses = torch.stack([shot.pose for shot in shots])
        cam_from_world = rigid(rotation_from_quaternion(poses[:, :4]), poses[:, 4:])
        intrinsics = torch.stack([_intrinsics(name, lens) for lens in lenses])
        cameras, first_from_world = cameras_from_first(name, "cameras", invert(cam_from_world), intrinsics)
        trajectories = _trajectories(name, model, shots, cam_from_world, intrinsics)
        points = transform_points(first_from_world, trajectories.points)
        trajectories = Trajectories(
            points=points.float(),
            pixels=trajectories.pixels.float(),
            exists=trajectories.exists,
            visible=trajectories.visible,
        )
        source = Source(str(folder), tuple(shot.name for shot in shots), tuple(frames))
        clip = Clip(images, torch.full((len(shots),), torch.nan), source=source)
        nothing = torch.zeros(len(shots), *clip.size)
        return Sample(clip, true_scene(cameras, nothing, nothing > 0, trajectories, anchors))


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


def _lens(name: str, model: StoredModel, image: _Image) -> Lens:
    if image.lens not in model.lenses:
        raise DataError(name, image.name, f"its camera {image.lens} is not in the model")
    return model.lenses[image.lens]


def _intrinsics(name: str, lens: Lens) -> Float64[Tensor, "3 3"]:
    """The pinhole of a camera, or a `DataError` where it is something else."""
    if lens.model not in FOCALS_AND_DISTORTIONS:
        wanted = ", ".join(FOCALS_AND_DISTORTIONS)
        raise DataError(name, "cameras", f"has a camera of the model {lens.model}; wanted {wanted}")
    focals, distortions = FOCALS_AND_DISTORTIONS[lens.model]
    parameters = numbers(name, "cameras", lens.parameters, (focals + 2 + distortions,)).tolist()
    distortion = parameters[focals + 2 :]
    if any(abs(value) > LARGEST_DISTORTION for value in distortion):
        reason = f"its {lens.model} camera has lens distortion {distortion}; undistort the model's pictures first"
        raise DataError(name, "cameras", reason)
    return pinhole_matrix(parameters[0], parameters[focals - 1], *parameters[focals : focals + 2])


def _trajectories(
    name: str,
    model: StoredModel,
    shots: list[_Image],
    cam_from_world: Float64[Tensor, "time 4 4"],
    intrinsics: Float64[Tensor, "time 3 3"],
) -> Trajectories:
    """The points that any of the pictures has observed: at the observed pixel there, at their projection elsewhere."""
    seen = sorted({int(key) for shot in shots for key in shot.point_ids if key >= 0})
    if missing := [key for key in seen if key not in model.points]:
        raise DataError(name, "points3D", f"has no point {missing[0]}, which a picture has observed")
    column = {key: place for place, key in enumerate(seen)}
    points = torch.tensor([model.points[key] for key in seen], dtype=torch.float64).reshape(1, -1, 3)
    points = points.expand(len(shots), -1, -1)
    pixels = project(transform_points(cam_from_world, points), intrinsics)
    visible = torch.zeros(points.shape[:2], dtype=torch.bool)
    for frame, shot in enumerate(shots):
        observed = shot.point_ids >= 0
        columns = torch.tensor([column[int(key)] for key in shot.point_ids[observed]], dtype=torch.long)
        pixels[frame, columns] = shot.pixels[observed]
        visible[frame, columns] = True
    return Trajectories(points, pixels, exists=torch.ones_like(visible), visible=visible)


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
