"""TAPVid-3D (Koppula et al. 2024) and WorldTrack's clips in its format: an npz of pictures and 3D tracks each."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.datasets.readers.folders import cameras_from_first, folder_of
from recon4d.datasets.readers.safe_pickle import read_npy
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import invert, project, transform_points
from recon4d.io import decode_photo
from recon4d.io.checked_values import numbers, pinhole_matrix, rigid_matrices
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
"""No file says; only the order of the frames matters."""


class TapVid3D(SequenceDataset):
    """The npz files in `root` and in its subfolders (adt, drivetrack, pstudio, ...), in meters.

    Tracks are stored in each frame's own camera and answered in the world; `extrinsics_w2c` are cam_from_world, and a
    clip without them was seen by a camera that stands still. Intrinsics are taken as they are stored. Depth (z) is
    there only where the file has WorldTrack's `depth_map`. The pictures are pickled in the file, which is read for
    arrays of bytes and nothing else.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder")
        files = [path for pattern in ("*.npz", "*/*.npz") for path in root.glob(pattern)]
        self.files = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
        if not self.files:
            raise ValueError(f"{root} has no npz files, nor have its folders")

    def names(self) -> list[str]:
        return sorted(self.files)

    def num_frames(self, name: str) -> int:
        return len(_visibility(name, folder_of(self.files, name)))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        path, chosen = folder_of(self.files, name), list(frames)
        file = str(path)
        visible = _visibility(name, path)
        count, queries = visible.shape
        images = _images(name, path, count, chosen)
        extrinsics = np.broadcast_to(np.eye(4), (count, 4, 4))
        if _has(name, path, "extrinsics_w2c"):
            extrinsics = _member(name, path, "extrinsics_w2c")
        cam_from_world = rigid_matrices(name, file, extrinsics, count)[chosen]
        intrinsics = pinhole_matrix(*numbers(name, file, _member(name, path, "fx_fy_cx_cy"), (4,)).tolist())
        cameras, first_from_world = cameras_from_first(
            name, file, invert(cam_from_world), intrinsics.expand(len(chosen), 3, 3)
        )

        tracks = _floats(name, path, "tracks_XYZ", (count, queries, 3))[chosen].double()
        exists = torch.isfinite(tracks).all(dim=-1)
        tracks = torch.where(exists[..., None], tracks, torch.zeros_like(tracks))
        trajectories = Trajectories(
            points=transform_points(first_from_world @ invert(cam_from_world), tracks).float(),
            pixels=project(tracks, intrinsics.expand(len(chosen), 3, 3)).float(),
            exists=exists,
            visibility=visible[chosen] & exists & (tracks[..., 2] > 0),
        )
        depths = torch.zeros(len(chosen), *images.shape[-2:])
        if _has(name, path, "depth_map"):
            depths = _floats(name, path, "depth_map", (count, *images.shape[-2:]))[chosen]
        known = torch.isfinite(depths) & (depths > 0)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(file, tuple(f"{path.stem}_{frame:06d}" for frame in frames), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, known, trajectories, anchors, metres_per_unit=1.0))


def _visibility(name: str, path: Path) -> Tensor:
    """(time, query), true where a point is seen."""
    return numbers(name, str(path), _member(name, path, "visibility"), (None, None)) > 0.5


def _floats(name: str, path: Path, key: str, shape: tuple[int, ...]) -> Tensor:
    """Float32 or float64 values of `shape`, which may be NaN or infinite."""
    values = _member(name, path, key)
    if values.shape != shape or values.dtype.kind != "f":
        raise DataError(name, path, f"its {key} are {values.dtype} {values.shape}, wanted floats {shape}")
    return torch.from_numpy(values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32))


def _images(name: str, path: Path, count: int, frames: list[int]) -> UInt8[Tensor, "time 3 height width"]:
    stored = _member(name, path, "images_jpeg_bytes")
    if stored.shape != (count,):
        raise DataError(name, path, f"has pictures {stored.shape} for {count} frames of tracks")
    with blamed_on(name, path):
        return torch.stack([decode_photo(bytes(stored[frame]), f"{frame}.jpg") for frame in frames])


def _has(name: str, path: Path, key: str) -> bool:
    with blamed_on(name, path), zipfile.ZipFile(path) as archive:
        return f"{key}.npy" in archive.namelist()


def _member(name: str, path: Path, key: str) -> np.ndarray:
    """One array of the npz; `DataError` where it is not there."""
    if not _has(name, path, key):
        raise DataError(name, path, f"has no {key}")
    with blamed_on(name, path), zipfile.ZipFile(path) as archive:
        return read_npy(name, path, archive.read(f"{key}.npy"))
