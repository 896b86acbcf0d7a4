"""What stands in the files of a data set, checked as it is read: folders, JSON, arrays of numbers, rigid cameras."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.datasets.annotations import blamed_on
from recon4d.datasets.sample import Sample, true_scene
from recon4d.datasets.sequences import DataError
from recon4d.geometry import invert, nearest_rotation, rigid
from recon4d.media import read_raster
from recon4d.records import Cameras, Clip

ROTATION_TOLERANCE = 1e-2
"""How far the entries of a stored rotation may be from orthonormal before it is taken for something else."""


def folders_with(root: Path, file: str) -> dict[str, Path]:
    """By name, `root` itself where it holds `file`, else those of its subfolders that do.

    Raises ``FileNotFoundError`` or ``ValueError`` where there are none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder")
    if (root / file).is_file():
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in sorted(root.iterdir()) if (folder / file).is_file()}
    if not folders:
        raise ValueError(f"{root} has no folder with {file}")
    return folders


def folder_of(folders: Mapping[str, Path], name: str) -> Path:
    """The folder (or file) of a sequence, or a `DataError` that says there is none."""
    if name not in folders:
        raise DataError(name, "the data set", f"has no such sequence; its first is {min(folders)}")
    return folders[name]


def read_map(sequence: str, path: Path, kinds: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A picture of numbers with one of the `kinds` (names of dtypes) and this `shape`, else `DataError`."""
    with blamed_on(sequence, path):
        values = read_raster(path)
    if values.dtype.name not in kinds or values.shape != shape:
        found = f"{values.dtype.name} of shape {values.shape}"
        raise DataError(sequence, path, f"holds {found}, wanted {' or '.join(kinds)} of shape {shape}")
    return values


def read_json(sequence: str, path: Path) -> Any:
    """What a JSON file holds; `DataError` where it is missing or damaged."""
    with blamed_on(sequence, path):
        return json.loads(path.read_text(encoding="utf-8"))


def entry(sequence: str, file: str, record: Any, *keys: str) -> Any:
    """``record[key][key]...``, or a `DataError` that names the key which is not there."""
    for key in keys:
        if not isinstance(record, Mapping) or key not in record:
            raise DataError(sequence, file, f"has no {'.'.join(keys)}")
        record = record[key]
    return record


def numbers(sequence: str, file: str, values: Any, shape: tuple[int | None, ...]) -> Float64[Tensor, "..."]:
    """`values` as finite float64 of `shape` (None: any length), else `DataError`."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(sequence, file, f"holds no array of numbers of shape {_spoken(shape)}") from error
    fits = array.ndim == len(shape) and all(w in (None, n) for n, w in zip(array.shape, shape, strict=True))
    if not fits:
        raise DataError(sequence, file, f"holds numbers of shape {array.shape}, wanted {_spoken(shape)}")
    if not np.isfinite(array).all():
        raise DataError(sequence, file, "holds numbers that are not finite")
    return torch.from_numpy(array)


def rigid_matrices(sequence: str, file: str, values: Any, count: int) -> Float64[Tensor, "time 4 4"]:
    """`count` rigid 4x4 transforms, their rotations made exact; `DataError` where a matrix is none."""
    matrices = numbers(sequence, file, values, (count, 4, 4))
    rotations = nearest_rotation(matrices[:, :3, :3])
    last_row = matrices.new_tensor([0.0, 0.0, 0.0, 1.0])
    wrong = torch.maximum((rotations - matrices[:, :3, :3]).abs().amax(), (matrices[:, 3] - last_row).abs().amax())
    if wrong > ROTATION_TOLERANCE:
        raise DataError(sequence, file, "holds a camera that is no rotation and translation")
    return rigid(rotations, matrices[:, :3, 3])


def cameras_from_first(
    sequence: str, file: str, world_from_cam: Float64[Tensor, "time 4 4"], intrinsics: Float64[Tensor, "time 3 3"]
) -> tuple[Cameras, Float64[Tensor, "4 4"]]:
    """Float32 cameras in the world of the first, and ``first_from_world``, which takes other things there.

    Done in float64: some data sets stand kilometres from their origin. Raises `DataError` for intrinsics, stored in
    `file`, that are no pinhole's.
    """
    last_row = intrinsics.new_tensor([0.0, 0.0, 1.0])
    if (intrinsics[:, [0, 1], [0, 1]] <= 0).any() or (intrinsics[:, 2] != last_row).any():
        raise DataError(sequence, file, f"its intrinsics are not those of a pinhole: {intrinsics[0].tolist()}")
    first_from_world = invert(world_from_cam[0])
    return Cameras((first_from_world @ world_from_cam).float(), intrinsics.float()), first_from_world


def pinhole_matrix(focal_x: float, focal_y: float, centre_x: float, centre_y: float) -> Float64[Tensor, "3 3"]:
    """Intrinsics of focal lengths and principal point in pixels."""
    rows = [[focal_x, 0.0, centre_x], [0.0, focal_y, centre_y], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def without_depth(clip: Clip, cameras: Cameras, anchors: tuple[int, ...]) -> Sample:
    """A sample of which only the cameras are known, in an unknown unit; its confidence is 0 everywhere."""
    nothing: Float[Tensor, "time height width"] = torch.zeros(clip.num_frames, *clip.size)
    return Sample(clip, true_scene(cameras, nothing, nothing > 0, anchors=anchors))


def _spoken(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if length is None else str(length) for length in shape)})"
