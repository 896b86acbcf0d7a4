"""What stands in the files of a data set, checked as it is read: folders, JSON, arrays of numbers, rigid cameras."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.errors import DataError
from recon4d.geometry import invert
from recon4d.io import read_raster
from recon4d.io.file_errors import blamed_on
from recon4d.records import Cameras, Clip


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


def cameras_from_first(
    sequence: str, file: str, world_from_cam: Float64[Tensor, "time 4 4"], intrinsics: Float64[Tensor, "time 3 3"]
) -> tuple[Cameras, Float64[Tensor, "4 4"]]:
    """Float32 cameras in the world of the first, and ``first_from_world``, which takes other things there.

    Done in float64: some data sets stand kilometers from their origin. Raises `DataError` for intrinsics, stored in
    `file`, that are no pinhole's.
    """
    last_row = intrinsics.new_tensor([0.0, 0.0, 1.0])
    if (intrinsics[:, [0, 1], [0, 1]] <= 0).any() or (intrinsics[:, 2] != last_row).any():
        raise DataError(sequence, file, f"its intrinsics are not those of a pinhole: {intrinsics[0].tolist()}")
    first_from_world = invert(world_from_cam[0])
    return Cameras((first_from_world @ world_from_cam).float(), intrinsics.float()), first_from_world


def without_depth(clip: Clip, cameras: Cameras, anchors: tuple[int, ...]) -> Sample:
    """A sample of which only the cameras are known, in an unknown unit; its confidence is 0 everywhere."""
    nothing: Float[Tensor, "time height width"] = torch.zeros(clip.num_frames, *clip.size)
    return Sample(clip, ground_truth_scene(cameras, nothing, nothing > 0, anchors=anchors))
