"""Reader of TAPVid-3D (Koppula et al. 2024) and of WorldTrack's clips in its format: one npz file per clip."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.restricted_unpickler import read_npy
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import invert, project, transform_points
from recon4d.io import decode_photo
from recon4d.io.checked_values import parse_numbers, parse_rigid_matrices, pinhole_matrix
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
"""Assumed frame rate; the files contain no times."""


class TapVid3D(SequenceDataset):
    """Clips with 3D tracks in meters.

    Tracks are stored in the camera frame of each time and converted to world coordinates. `extrinsics_w2c` is
    cam_from_world; a clip without it has a static camera. Intrinsics are used as stored. Depth (z) is known only if the
    file contains WorldTrack's `depth_map`. The images are pickled JPEG bytes, which are read without executing code.

    Args:
        root: Folder with npz files, directly or in subfolders (adt, drivetrack, pstudio).

    Raises:
        UserError: If there is no npz file.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        list_folder(root)
        files = [path for pattern in ("*.npz", "*/*.npz") for path in root.glob(pattern)]
        self.paths = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
        if not self.paths:
            raise UserError(f"{root} contains no npz files, and neither do its subfolders")

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(_read_visibility(name, self.path(name)))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        path, indices = self.path(name), list(frames)
        file = str(path)
        visibility = _read_visibility(name, path)
        count, queries = visibility.shape
        images = _read_images(name, path, count, indices)
        extrinsics = np.broadcast_to(np.eye(4), (count, 4, 4))
        if _has_array(name, path, "extrinsics_w2c"):
            extrinsics = _read_array(name, path, "extrinsics_w2c")
        cam_from_world = parse_rigid_matrices(name, file, extrinsics, count)[indices]
        focals_and_center = parse_numbers(name, file, _read_array(name, path, "fx_fy_cx_cy"), (4,))
        intrinsics = pinhole_matrix(*focals_and_center.tolist()).expand(len(indices), 3, 3)
        cameras, first_from_world = cameras_from_first(name, file, invert(cam_from_world), intrinsics)

        in_camera = _read_floats(name, path, "tracks_XYZ", (count, queries, 3))[indices].double()
        valid = torch.isfinite(in_camera).all(dim=-1)
        in_camera = torch.where(valid[..., None], in_camera, torch.zeros_like(in_camera))
        trajectories = Trajectories(
            points=transform_points(first_from_world @ invert(cam_from_world), in_camera).float(),
            pixels=project(in_camera, intrinsics).float(),
            valid=valid,
            visibility=visibility[indices] & valid & (in_camera[..., 2] > 0),
        )
        depths = torch.zeros(len(indices), *images.shape[-2:])
        if _has_array(name, path, "depth_map"):
            depths = _read_floats(name, path, "depth_map", (count, *images.shape[-2:]))[indices]
        is_known = torch.isfinite(depths) & (depths > 0)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(file, tuple(f"{path.stem}_{frame:06d}" for frame in frames), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, is_known, trajectories, anchors, metres_per_unit=1.0))


def _read_visibility(name: str, path: Path) -> Bool[Tensor, "time query"]:
    return parse_numbers(name, str(path), _read_array(name, path, "visibility"), (None, None)) > 0.5


def _read_floats(name: str, path: Path, key: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Read float32 or float64 values of a given shape, which may be NaN or infinite."""
    values = _read_array(name, path, key)
    if values.shape != shape or values.dtype.kind != "f":
        raise DataError(name, path, f"its {key} are {values.dtype} of shape {values.shape}, wanted floats of {shape}")
    return torch.from_numpy(values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32))


def _read_images(name: str, path: Path, count: int, frames: list[int]) -> UInt8[Tensor, "time 3 height width"]:
    stored = _read_array(name, path, "images_jpeg_bytes")
    if stored.shape != (count,):
        raise DataError(name, path, f"has images of shape {stored.shape} for {count} frames of tracks")
    with data_errors(name, path):
        return torch.stack([decode_photo(bytes(stored[frame]), f"{frame}.jpg") for frame in frames])


def _has_array(name: str, path: Path, key: str) -> bool:
    with data_errors(name, path), zipfile.ZipFile(path) as archive:
        return f"{key}.npy" in archive.namelist()


def _read_array(name: str, path: Path, key: str) -> np.ndarray:
    """Read one array of the npz file, or raise `DataError` if it is missing."""
    if not _has_array(name, path, key):
        raise DataError(name, path, f"has no {key}")
    with data_errors(name, path), zipfile.ZipFile(path) as archive:
        content = archive.read(f"{key}.npy")
    return read_npy(name, path, content)
