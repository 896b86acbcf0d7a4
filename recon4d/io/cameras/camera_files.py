"""Given cameras, whatever file they come in: a TUM trajectory, a COLMAP model, a transforms.json or a scene.npz."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.geometry import (
    invert,
    resized_intrinsics,
    rigid,
    rotation_from_quaternion,
)
from recon4d.io.archive import load_scene, load_scene_info, load_times
from recon4d.io.cameras.colmap_reader import Lens, model_folder, read_model
from recon4d.io.checked_values import (
    entry,
    numbers,
    pinhole_matrix,
    read_json,
    rigid_matrices,
)
from recon4d.io.frame_pairing import bare_name, places_by_name
from recon4d.records import Clip

NEAREST_SECONDS = 0.02
"""What is farther apart in time is not of the same moment, as TUM's own tools have it."""
COLMAP_LENSES = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
}
DISTORTION = ("k1", "k2", "p1", "p2", "k3")
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""OpenGL's cameras look along -z, with y up."""
SAME_ASPECT = 0.01


@dataclass(frozen=True)
class CameraFile:
    """Cameras in OpenCV axes and a world of their own, with whatever tells which frame each belongs to."""

    path: Path
    world_from_cam: Float64[Tensor, "camera 4 4"]
    names: tuple[str, ...] | None = None
    seconds: Float64[Tensor, "camera"] | None = None
    intrinsics: Float64[Tensor, "camera 3 3"] | None = None
    """In pixels of pictures of `sizes`, the first pixel's center at .5."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """(height, width) for each camera; None: those of the clip."""
    distortion: Float64[Tensor, "camera 5"] | None = None
    """k1, k2, p1, p2, k3 in OpenCV's sense; None where the file says nothing."""

    def places(self, clip: Clip) -> list[int | None]:
        """For each frame of `clip` which camera is its own, None where there is none.

        By name; else by time, where every frame has a camera within 0.02 s; else one each, in order; else by time
        where some frames have one. Raises ``ValueError`` where nothing fits.
        """
        by_name = places_by_name(clip, self.names or ())
        if any(place is not None for place in by_name):
            return by_name
        by_time = self._places_by_time(clip)
        if all(place is not None for place in by_time):
            return by_time
        if len(self.world_from_cam) == clip.num_frames:
            return list(range(clip.num_frames))
        if any(place is not None for place in by_time):
            return by_time
        raise ValueError(
            f"cameras {self.path}: {len(self.world_from_cam)} cameras, and the clip has {clip.num_frames} frames; "
            "neither names nor times tell which belongs to which"
        )

    def poses(self, clip: Clip) -> Float[Tensor, "time 4 4"]:
        """World from camera for each frame, NaN where there is none, in the first frame's camera where that is known.

        Moved there in float64: some worlds begin kilometers away.
        """
        poses = _chosen(self.world_from_cam, self.places(clip))
        return (invert(poses[0]) @ poses if poses[0].isfinite().all() else poses).float()

    def lenses(self, clip: Clip) -> Float[Tensor, "time 3 3"] | None:
        """Intrinsics for each frame in pixels of `clip`, NaN where there are none; None where the file has none.

        Raises ``ValueError`` where the file's pictures have another aspect than the clip's.
        """
        if self.intrinsics is None:
            return None
        sizes = self.sizes or (clip.size,) * len(self.intrinsics)
        for size in sizes:
            if abs(size[0] * clip.size[1] / (size[1] * clip.size[0]) - 1) > SAME_ASPECT:
                given, wanted = (f"{width} x {height}" for height, width in (size, clip.size))
                raise ValueError(
                    f"cameras {self.path}: they are of pictures of {given} pixels, and the clip's {wanted}"
                )
        scaled = [resized_intrinsics(one, size, clip.size) for one, size in zip(self.intrinsics, sizes, strict=True)]
        return _chosen(torch.stack(scaled), self.places(clip)).float()

    def distortions(self, clip: Clip) -> Float[Tensor, "time 5"] | None:
        """The coefficients for each frame; None where no lens distorts, or the file says nothing."""
        if self.distortion is None or not self.distortion.any():
            return None
        return _chosen(self.distortion, self.places(clip)).nan_to_num().float()

    def _places_by_time(self, clip: Clip) -> list[int | None]:
        """By the clip's times, or by the pictures' names where those are times, as in TUM's own folders."""
        if self.seconds is None:
            return [None] * clip.num_frames
        named = [] if clip.source is None else [_number(bare_name(name)) for name in clip.source.names]
        wanted = named if named and None not in named else clip.times.tolist()
        return [_nearest(self.seconds, seconds) for seconds in wanted]


def read_camera_file(path: Path) -> CameraFile:
    """The cameras at `path`, a file or a folder, by what it holds.

    A TUM trajectory (rows of time tx ty tz qx qy qz qw), the folder of a COLMAP model (text or binary), a
    transforms.json as nerfstudio writes it (OpenGL axes), or a scene.npz of recon4d, the last two or the folder that
    holds one. Raises ``FileNotFoundError``, or ``ValueError`` for anything else and for what is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.is_dir():
            return _reader_of_folder(path)(path)
        with path.open("rb") as file:
            beginning = file.read(256)
        if beginning.startswith(b"PK"):
            return _read_archive(path)
        return _read_transforms(path) if beginning.lstrip().startswith(b"{") else _read_trajectory(path)
    except DataError as error:
        raise ValueError(str(error)) from error


def _reader_of_folder(path: Path) -> Callable[[Path], CameraFile]:
    if (path / "scene.npz").is_file():
        return _read_archive
    if model_folder(path) is not None:
        return _read_colmap
    if (path / "transforms.json").is_file():
        return lambda folder: _read_transforms(folder / "transforms.json")
    raise ValueError(
        f"cameras {path}: the folder holds neither a scene.npz, nor a COLMAP model (cameras and images, .bin or .txt), "
        "nor a transforms.json"
    )


def _read_archive(path: Path) -> CameraFile:
    scene, info = load_scene(path), load_scene_info(path)
    return CameraFile(
        path,
        scene.cameras.world_from_cam.double(),
        None if info.source is None else info.source.names,
        load_times(path).double(),
        scene.cameras.intrinsics.double(),
        (scene.size,) * scene.num_frames,
    )


def _read_trajectory(path: Path) -> CameraFile:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        words = [line.partition("#")[0].replace(",", " ").split() for line in lines]
        rows = np.array([[float(word) for word in row] for row in words if row], dtype=np.float64)
    except ValueError as error:
        rows, reason = np.zeros((0, 0)), error
    else:
        reason = None
    if rows.ndim != 2 or rows.shape[1] != 8 or not np.isfinite(rows).all():
        raise ValueError(
            f"cameras {path}: wanted rows of time tx ty tz qx qy qz qw, a COLMAP folder, "
            "a transforms.json or a scene.npz"
        ) from reason
    values = torch.from_numpy(rows)
    if (values[:, 4:].norm(dim=-1) < 0.5).any():
        raise ValueError(f"cameras {path}: it holds a quaternion that is not of length 1")
    poses = rigid(rotation_from_quaternion(values[:, [7, 4, 5, 6]]), values[:, 1:4])
    return CameraFile(path, poses, seconds=values[:, 0])


def _read_colmap(path: Path) -> CameraFile:
    model = read_model(path.name, path)
    poses = torch.stack([image.pose for image in model.images])
    lenses = [model.lenses.get(image.lens) for image in model.images]
    if missing := [image.name for image, lens in zip(model.images, lenses, strict=True) if lens is None]:
        raise ValueError(f"cameras {path}: the camera of {missing[0]} is not in the model")
    named = [_colmap_lens(path, lens) for lens in lenses if lens is not None]
    return CameraFile(
        path,
        invert(rigid(rotation_from_quaternion(poses[:, :4]), poses[:, 4:])),
        tuple(image.name for image in model.images),
        intrinsics=torch.stack([_pinhole(lens) for lens in named]),
        sizes=tuple((lens.height, lens.width) for lens in lenses if lens is not None),
        distortion=_distortion_of(named),
    )


def _colmap_lens(path: Path, lens: Lens) -> dict[str, float]:
    """The parameters of a COLMAP camera by name."""
    if lens.model not in COLMAP_LENSES:
        raise ValueError(f"cameras {path}: a camera of the model {lens.model}; wanted {', '.join(COLMAP_LENSES)}")
    wanted = COLMAP_LENSES[lens.model]
    if len(lens.parameters) != len(wanted):
        raise ValueError(f"cameras {path}: a {lens.model} camera has {len(lens.parameters)} parameters")
    return dict(zip(wanted, lens.parameters, strict=True))


def _read_transforms(path: Path) -> CameraFile:
    sequence, file = path.parent.name, path.name
    stored = read_json(sequence, path)
    frames = entry(sequence, file, stored, "frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"cameras {path}: its frames are no list, or an empty one")
    matrices = [entry(sequence, file, frame, "transform_matrix") for frame in frames]
    poses = rigid_matrices(sequence, file, matrices, len(frames)) @ OPENCV_FROM_OPENGL
    lenses = [_transforms_lens(sequence, file, {**stored, **frame}) for frame in frames]
    has_lens = all("fx" in lens for lens in lenses)
    return CameraFile(
        path,
        poses,
        tuple(str(entry(sequence, file, frame, "file_path")) for frame in frames),
        intrinsics=torch.stack([_pinhole(lens) for lens in lenses]) if has_lens else None,
        sizes=tuple((int(lens["h"]), int(lens["w"])) for lens in lenses) if has_lens else None,
        distortion=_distortion_of(lenses) if has_lens else None,
    )


def _transforms_lens(sequence: str, file: str, values: dict[str, Any]) -> dict[str, float]:
    """The parameters of one frame by name, its own before those of all; none where the file has no focal length."""
    names = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", *DISTORTION)
    given = {name: float(numbers(sequence, file, values[name], ())) for name in names if name in values}
    if not {"w", "h"} <= given.keys() or not {"fl_x", "camera_angle_x"} & given.keys():
        return {}
    model = values.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise DataError(sequence, file, f"has a camera of the model {model}; wanted OPENCV or PINHOLE")
    width, height = given["w"], given["h"]
    fx = given["fl_x"] if "fl_x" in given else width / 2 / math.tan(given["camera_angle_x"] / 2)
    fy = height / 2 / math.tan(given["camera_angle_y"] / 2) if "camera_angle_y" in given else fx
    lens = {"fx": fx, "fy": given.get("fl_y", fy), "cx": width / 2, "cy": height / 2}
    if min(lens["fx"], lens["fy"], width, height) <= 0:
        raise DataError(sequence, file, "has a focal length or a size that is not above 0")
    return {**lens, **given}


def _pinhole(lens: dict[str, float]) -> Float64[Tensor, "3 3"]:
    fx = lens["f"] if "f" in lens else lens["fx"]
    return pinhole_matrix(fx, lens.get("fy", fx), lens["cx"], lens["cy"])


def _distortion_of(lenses: Sequence[dict[str, float]]) -> Float64[Tensor, "camera 5"]:
    rows = [[lens.get(name, 0.0) for name in DISTORTION] for lens in lenses]
    return torch.tensor(rows, dtype=torch.float64)


def _chosen(values: Float64[Tensor, "camera *shape"], places: list[int | None]) -> Float64[Tensor, "time *shape"]:
    unknown = torch.full_like(values[0], torch.nan)
    return torch.stack([unknown if place is None else values[place] for place in places])


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _nearest(times: Float64[Tensor, "camera"], seconds: float | None) -> int | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    distances = torch.where(times.isfinite(), (times - seconds).abs(), torch.inf)
    best = int(distances.argmin())
    return best if distances[best] <= NEAREST_SECONDS else None
