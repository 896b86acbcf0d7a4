"""Tracks on Kubric's scenes, as CoTracker's dump (2D) and DELTA's and TAPIP3D's (3D) hold them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import cameras_from_first, folder_of, read_map
from recon4d.datasets.readers.kubric import (
    FRAMES_PER_SECOND,
    blender_cameras,
    is_known,
    z_from_distance,
)
from recon4d.datasets.readers.safe_pickle import read_npy
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import transform_points
from recon4d.io.checked_values import entry, numbers, rigid_matrices
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource


class KubricTracks(SequenceDataset):
    """Kubric sequences with tracks: <root>/<name>/frames/%03d.png and <name>/<name>.npy, or <root>/<name>.h5.

    CoTracker's npy holds tracks in the picture only: `read` refuses it, `trajectories` gives them. The others hold
    cameras, distances and world points too, in meters. An npy is a pickle, which is read for arrays and nothing else.
    Points are occluded where the file says `occluded`, or `visibility`, which in CoTracker's file means occluded.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder")
        pickles = {path.name: path / f"{path.name}.npy" for path in root.iterdir()}
        self.files = {name: path for name, path in pickles.items() if path.is_file()}
        self.files |= {path.stem: path for path in root.glob("*.h5")}
        if not self.files:
            raise ValueError(f"{root} has neither folders <name> with <name>.npy nor files <name>.h5")

    def names(self) -> list[str]:
        return sorted(self.files)

    def num_frames(self, name: str) -> int:
        return self._annotation(name).occluded.shape[1]

    def trajectories(self, name: str) -> Trajectories:
        """The tracks of all frames, in the file's own world; their points are NaN where there are only pixels."""
        return _trajectories(self._annotation(name))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        annotation, path = self._annotation(name), folder_of(self.files, name)
        space = annotation.space
        if space is None:
            raise DataError(name, path, "has tracks in the picture only, no cameras and depth; see trajectories()")
        shown = _read_h5_frames(name, path, frames) if path.suffix == ".h5" else _read_png_frames(name, path, frames)
        height, width = shown.images.shape[-2:]
        chosen = list(frames)
        # [0, 1] coordinates with a camera that looks along -z: without the signs they are those of OpenCV's axes.
        to_pixels = torch.tensor([width, height, 1], dtype=torch.float64)
        intrinsics = space.intrinsics[chosen].abs() * to_pixels[:, None]
        cameras, first_from_world = cameras_from_first(
            name, str(path), blender_cameras(space.matrix_world[chosen]), intrinsics
        )
        near, far = space.depth_range.tolist()
        distances = near + shown.sixteen_bits * ((far - near) / 65535)
        depths = z_from_distance(distances.float(), cameras.intrinsics)
        followed = _trajectories(annotation).frames(chosen)
        trajectories = Trajectories(
            points=transform_points(first_from_world, followed.points.double()).float(),
            pixels=followed.pixels,
            exists=followed.exists,
            visibility=followed.visibility,
        )
        scene = ground_truth_scene(cameras, depths, is_known(depths), trajectories, anchors, metres_per_unit=1.0)
        names = tuple(f"{frame:03d}.png" for frame in frames)
        times = torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND
        return Sample(Clip(shown.images, times, source=ClipSource(str(path), names, tuple(frames))), scene)

    def _annotation(self, name: str) -> "_Annotation":
        path = folder_of(self.files, name)
        read = _read_h5_annotation if path.suffix == ".h5" else _read_npy_annotation
        return _annotation(name, str(path), read(name, path))


@dataclass(frozen=True)
class _Space:
    """The 3D half of an annotation, as stored."""

    points: Float64[Tensor, "query time 3"]
    matrix_world: Float64[Tensor, "time 4 4"]
    intrinsics: Float64[Tensor, "time 3 3"]
    depth_range: Float64[Tensor, "2"]


@dataclass(frozen=True)
class _Annotation:
    """What a file says of all frames; `space` is None where it knows pixels only."""

    pixels: Float64[Tensor, "query time 2"]
    occluded: Bool[Tensor, "query time"]
    space: _Space | None


@dataclass(frozen=True)
class _Frames:
    """The pictures, and the distances between the ends of their range."""

    images: UInt8[Tensor, "time 3 height width"]
    sixteen_bits: Float64[Tensor, "time height width"]


def _annotation(name: str, file: str, stored: dict[str, Any]) -> _Annotation:
    pixels = "coords" if "coords" in stored else "target_points"
    hidden = "occluded" if "occluded" in stored else "visibility"
    occluded = numbers(name, file, entry(name, file, stored, hidden), (None, None)) > 0.5
    queries, count = occluded.shape
    # Points that fall nowhere (behind the camera) may be inf or NaN; everything else must be finite.
    where = np.asarray(entry(name, file, stored, pixels))
    if where.shape != (queries, count, 2) or where.dtype.kind != "f":
        raise DataError(name, file, f"its {pixels} are {where.dtype} {where.shape}, wanted floats {queries, count, 2}")
    space = None
    if "traj_3d" in stored:
        matrices = rigid_matrices(name, file, entry(name, file, stored, "matrix_world"), count)
        intrinsics = numbers(name, file, entry(name, file, stored, "intrinsics"), (count, 3, 3))
        depth_range = numbers(name, file, entry(name, file, stored, "depth_range"), (2,))
        points = numbers(name, file, stored["traj_3d"], (queries, count, 3))
        space = _Space(points, matrices, intrinsics, depth_range)
    return _Annotation(torch.from_numpy(where.astype(np.float64)), occluded, space)


def _trajectories(annotation: _Annotation) -> Trajectories:
    pixels = annotation.pixels.transpose(0, 1).float()
    exists = torch.isfinite(pixels).all(dim=-1)
    nowhere: Float[Tensor, "time query 3"] = torch.full((*pixels.shape[:-1], 3), torch.nan)
    space = annotation.space
    return Trajectories(
        points=nowhere if space is None else space.points.transpose(0, 1).float(),
        pixels=torch.nan_to_num(pixels, nan=0, posinf=0, neginf=0),
        exists=exists if space is None else torch.ones_like(exists),
        visibility=exists & ~annotation.occluded.T,
    )


def _read_npy_annotation(name: str, path: Path) -> dict[str, Any]:
    with blamed_on(name, path):
        stored = read_npy(name, path, path.read_bytes())
    if stored.shape != () or not isinstance(stored.item(), dict):
        raise DataError(name, path, "holds no dictionary")
    return stored.item()


def _read_png_frames(name: str, path: Path, frames: Sequence[int]) -> _Frames:
    folder = path.parent / "frames"
    images = read_images(name, [folder / f"{frame:03d}.png" for frame in frames])
    size = (images.shape[-2], images.shape[-1])
    stored = [read_map(name, folder / f"{frame:03d}_depth.png", ("uint16",), size) for frame in frames]
    return _Frames(images, torch.from_numpy(np.stack(stored).astype(np.float64)))


def _read_h5_annotation(name: str, path: Path) -> dict[str, Any]:
    keys = ("target_points", "occluded", "traj_3d", "intrinsics", "matrix_world", "depth_range")
    with _open_h5(name, path) as file, blamed_on(name, path):
        return {key: file[key][()] for key in keys if key in file}


def _read_h5_frames(name: str, path: Path, frames: Sequence[int]) -> _Frames:
    with _open_h5(name, path) as file, blamed_on(name, path):
        video = np.stack([file["video"][frame] for frame in frames])
        sixteen_bits = np.stack([file["depth_16bit"][frame] for frame in frames])
    if video.ndim != 4 or video.shape[-1] != 3 or sixteen_bits.shape != (*video.shape[:3], 1):
        raise DataError(name, path, f"its video is {video.shape}, its depth_16bit {sixteen_bits.shape}")
    colors = ((video.astype(np.float32) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    images = torch.from_numpy(colors).permute(0, 3, 1, 2).contiguous()
    return _Frames(images, torch.from_numpy(sixteen_bits[..., 0].astype(np.float64)))


def _open_h5(name: str, path: Path) -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(name, path, "is HDF5, which needs h5py: pip install h5py") from error
    with blamed_on(name, path):
        return h5py.File(path, "r")
