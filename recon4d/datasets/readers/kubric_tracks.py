"""Reader of Kubric scenes with tracks, as published by CoTracker (2D), DELTA and TAPIP3D (3D)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.readers.kubric import (
    FRAMES_PER_SECOND,
    is_valid_depth,
    swap_blender_axes,
    z_from_distance,
)
from recon4d.datasets.readers.restricted_unpickler import read_npy
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import transform_points
from recon4d.io.checked_values import get_entry, parse_numbers, parse_rigid_matrices
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource


class KubricTracks(SequenceDataset):
    """Kubric sequences with tracks, stored as <name>/<name>.npy and <name>/frames/%03d.png, or as <name>.h5.

    CoTracker's npy files contain image tracks only: `read` raises `DataError` for them, and `trajectories` returns the
    tracks. The other files contain cameras, distances and world points too, in meters. An npy file is a pickle, which
    is read without executing code. Occlusion is stored as `occluded`, or as `visibility` in CoTracker's files, where 1
    means occluded.

    Args:
        root: Folder of the sequences.

    Raises:
        UserError: If there are no sequences. `num_frames` and `read` of an h5 file raise it if h5py is missing.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        npy_files = {path.name: path / f"{path.name}.npy" for path in list_folder(root)}
        self.paths = {name: path for name, path in npy_files.items() if path.is_file()}
        self.paths |= {path.stem: path for path in root.glob("*.h5")}
        if not self.paths:
            raise UserError(f"{root} contains neither folders <name> with <name>.npy nor files <name>.h5")

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return self._read_annotation(name).is_occluded.shape[1]

    def trajectories(self, name: str) -> Trajectories:
        """Read the tracks of all frames.

        Args:
            name: Name of the sequence.

        Returns:
            Trajectories of shape (time, query) in the stored world coordinates; points are NaN if the file contains
            image tracks only.

        Raises:
            DataError: If there is no such sequence or the file is damaged.
            UserError: If h5py is missing.
        """
        return _trajectories(self._read_annotation(name))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        annotation, path = self._read_annotation(name), self.path(name)
        geometry = annotation.geometry
        if geometry is None:
            reason = "has image tracks but no cameras and depth; use KubricTracks.trajectories to read the tracks"
            raise DataError(name, path, reason)
        maps = _read_h5_frames(name, path, frames) if path.suffix == ".h5" else _read_png_frames(name, path, frames)
        height, width = maps.images.shape[-2:]
        indices = list(frames)
        # The stored intrinsics map to [0, 1] for a camera that looks along -z. Without signs they fit OpenCV axes.
        to_pixels = torch.tensor([width, height, 1], dtype=torch.float64)
        intrinsics = geometry.intrinsics[indices].abs() * to_pixels[:, None]
        cameras, first_from_world = cameras_from_first(
            name, str(path), swap_blender_axes(geometry.matrix_world[indices]), intrinsics
        )
        near, far = geometry.depth_range.tolist()
        distances = near + maps.depth_16bit * ((far - near) / 65535)
        depths = z_from_distance(distances.float(), cameras.intrinsics)
        stored_trajectories = _trajectories(annotation).frames(indices)
        trajectories = Trajectories(
            points=transform_points(first_from_world, stored_trajectories.points.double()).float(),
            pixels=stored_trajectories.pixels,
            valid=stored_trajectories.valid,
            visibility=stored_trajectories.visibility,
        )
        scene = ground_truth_scene(cameras, depths, is_valid_depth(depths), trajectories, anchors, metres_per_unit=1.0)
        names = tuple(f"{frame:03d}.png" for frame in frames)
        times = torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND
        return Sample(Clip(maps.images, times, source=ClipSource(str(path), names, tuple(frames))), scene)

    def _read_annotation(self, name: str) -> "_Annotation":
        path = self.path(name)
        read = _read_h5_annotation if path.suffix == ".h5" else _read_npy_annotation
        return _parse_annotation(name, path, read(name, path))


@dataclass(frozen=True)
class _Geometry:
    """The 3D part of an annotation, as stored."""

    points: Float64[Tensor, "query time 3"]
    matrix_world: Float64[Tensor, "time 4 4"]
    """world_from_cam in Blender's camera axes."""
    intrinsics: Float64[Tensor, "time 3 3"]
    """Projection to [0, 1] coordinates."""
    depth_range: Float64[Tensor, "2"]
    """Distances in meters of the stored values 0 and 65535."""


@dataclass(frozen=True)
class _Annotation:
    """The annotation of all frames."""

    pixels: Float64[Tensor, "query time 2"]
    is_occluded: Bool[Tensor, "query time"]
    geometry: _Geometry | None
    """None if the file contains image tracks only."""


@dataclass(frozen=True)
class _Maps:
    """Images and depth maps of selected frames."""

    images: UInt8[Tensor, "time 3 height width"]
    depth_16bit: Float64[Tensor, "time height width"]
    """Distances, linear in the depth range."""


def _parse_annotation(name: str, path: Path, stored: dict[str, Any]) -> _Annotation:
    file = str(path)
    pixel_key = "coords" if "coords" in stored else "target_points"
    occlusion_key = "occluded" if "occluded" in stored else "visibility"
    is_occluded = parse_numbers(name, file, get_entry(name, file, stored, occlusion_key), (None, None)) > 0.5
    queries, count = is_occluded.shape
    # Pixels of points behind the camera may be infinite or NaN; everything else must be finite.
    stored_pixels = get_entry(name, file, stored, pixel_key)
    with data_errors(name, path):
        pixels = np.asarray(stored_pixels)
    if pixels.shape != (queries, count, 2) or pixels.dtype.kind != "f":
        found, wanted = f"{pixels.dtype} of shape {pixels.shape}", (queries, count, 2)
        raise DataError(name, file, f"its {pixel_key} are {found}, wanted floats of shape {wanted}")
    geometry = None
    if "traj_3d" in stored:
        matrices = parse_rigid_matrices(name, file, get_entry(name, file, stored, "matrix_world"), count)
        intrinsics = parse_numbers(name, file, get_entry(name, file, stored, "intrinsics"), (count, 3, 3))
        depth_range = parse_numbers(name, file, get_entry(name, file, stored, "depth_range"), (2,))
        points = parse_numbers(name, file, stored["traj_3d"], (queries, count, 3))
        geometry = _Geometry(points, matrices, intrinsics, depth_range)
    return _Annotation(torch.from_numpy(pixels.astype(np.float64)), is_occluded, geometry)


def _trajectories(annotation: _Annotation) -> Trajectories:
    pixels = annotation.pixels.transpose(0, 1).float()
    has_pixel = torch.isfinite(pixels).all(dim=-1)
    unknown_points: Float[Tensor, "time query 3"] = torch.full((*pixels.shape[:-1], 3), torch.nan)
    geometry = annotation.geometry
    return Trajectories(
        points=unknown_points if geometry is None else geometry.points.transpose(0, 1).float(),
        pixels=torch.nan_to_num(pixels, nan=0, posinf=0, neginf=0),
        valid=has_pixel if geometry is None else torch.ones_like(has_pixel),
        visibility=has_pixel & ~annotation.is_occluded.T,
    )


def _read_npy_annotation(name: str, path: Path) -> dict[str, Any]:
    with data_errors(name, path):
        content = path.read_bytes()
    stored = read_npy(name, path, content)
    if stored.shape != () or not isinstance(stored.item(), dict):
        raise DataError(name, path, "does not hold a dictionary")
    return stored.item()


def _read_png_frames(name: str, path: Path, frames: Sequence[int]) -> _Maps:
    folder = path.parent / "frames"
    images = read_images(name, [folder / f"{frame:03d}.png" for frame in frames])
    size = (images.shape[-2], images.shape[-1])
    stored = [read_map(name, folder / f"{frame:03d}_depth.png", ("uint16",), size) for frame in frames]
    return _Maps(images, torch.from_numpy(np.stack(stored).astype(np.float64)))


def _read_h5_annotation(name: str, path: Path) -> dict[str, Any]:
    keys = ("target_points", "occluded", "traj_3d", "intrinsics", "matrix_world", "depth_range")
    with _open_h5(name, path) as file, data_errors(name, path):
        return {key: file[key][()] for key in keys if key in file}


def _read_h5_frames(name: str, path: Path, frames: Sequence[int]) -> _Maps:
    with _open_h5(name, path) as file, data_errors(name, path):
        video = np.stack([file["video"][frame] for frame in frames])
        depth_16bit = np.stack([file["depth_16bit"][frame] for frame in frames])
    if video.ndim != 4 or video.shape[-1] != 3 or depth_16bit.shape != (*video.shape[:3], 1):
        reason = f"its video has shape {video.shape} and its depth_16bit {depth_16bit.shape}; wanted (time, height, "
        raise DataError(name, path, reason + "width, 3) and (time, height, width, 1)")
    colors = ((video.astype(np.float32) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    images = torch.from_numpy(colors).permute(0, 3, 1, 2).contiguous()
    return _Maps(images, torch.from_numpy(depth_16bit[..., 0].astype(np.float64)))


def _open_h5(name: str, path: Path) -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{name}: {path} is an HDF5 file and needs h5py: pip install -e '.[h5]'") from error
    with data_errors(name, path):
        return h5py.File(path, "r")
