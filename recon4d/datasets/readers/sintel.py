"""MPI Sintel (Butler et al. 2012): a rendered film with cameras and depth in its own small binary files."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import cameras_from_first, folder_of
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import invert
from recon4d.io.checked_values import numbers, rigid_matrices
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

MAGIC = 202021.25
"""The float32 that opens every file."""
FARTHEST = 1000.0
"""Meters: what is stored as farther is sky (1e11 in some scenes, a dome 2.5 to 3.4 km away in others)."""
FRAMES_PER_SECOND = 24
"""The film's; no file says so."""


class Sintel(SequenceDataset):
    """The scenes of <root>/training/<rendering> ("final" or "clean") with camdata_left and depth beside them.

    Cameras are cam_from_world with intrinsics of their own in each frame (some scenes zoom), their principal point
    ((w - 1) / 2, (h - 1) / 2) said with the first pixel's center at (0, 0). Depth is z in meters; the sky, farther
    than 1000 m, is unknown.
    """

    def __init__(self, root: str | Path, rendering: str = "final") -> None:
        self.training = Path(root) / "training"
        pictures = self.training / rendering
        if not pictures.is_dir():
            raise FileNotFoundError(f"{pictures} is not a folder")
        self.folders = {folder.name: folder for folder in pictures.iterdir() if (folder / "frame_0001.png").is_file()}
        if not self.folders:
            raise ValueError(f"{pictures} has no folder with frame_0001.png")

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(list(folder_of(self.folders, name).glob("frame_*.png")))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        stems = [f"frame_{frame + 1:04d}" for frame in frames]
        images = read_images(name, [folder_of(self.folders, name) / f"{stem}.png" for stem in stems])
        stored = [_read_camera(name, self.training / "camdata_left" / name / f"{stem}.cam") for stem in stems]
        cam_from_world, intrinsics = (torch.stack(parts) for parts in zip(*stored, strict=True))
        cameras, _ = cameras_from_first(name, "camdata_left", invert(cam_from_world), intrinsics)
        size = (images.shape[-2], images.shape[-1])
        depths = [_read_depth(name, self.training / "depth" / name / f"{stem}.dpt", size) for stem in stems]
        depths = torch.from_numpy(np.stack(depths))
        known = (depths > 0) & (depths <= FARTHEST)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(str(self.folders[name]), tuple(f"{stem}.png" for stem in stems), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, known, anchors=anchors, metres_per_unit=1.0))


def _read_camera(name: str, path: Path) -> tuple[Float64[Tensor, "4 4"], Float64[Tensor, "3 3"]]:
    """``cam_from_world`` and intrinsics with the first pixel's center at (0.5, 0.5)."""
    body = _body(name, path)
    if len(body) != 21 * 8:
        raise DataError(name, path, f"holds {len(body)} bytes after its first four, wanted {21 * 8}")
    values = np.frombuffer(body, dtype="<f8")
    intrinsics = numbers(name, str(path), values[:9].reshape(3, 3), (3, 3))
    intrinsics[:2, 2] += 0.5
    matrix = np.concatenate([values[9:].reshape(3, 4), [[0.0, 0.0, 0.0, 1.0]]])
    return rigid_matrices(name, str(path), matrix[None], 1)[0], intrinsics


def _read_depth(name: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    body = _body(name, path)
    with blamed_on(name, path):
        width, height = struct.unpack_from("<ii", body)
    if (height, width) != size or len(body) != 8 + 4 * width * height:
        reason = f"says {height} x {width} and holds {len(body) - 8} bytes, wanted {size[0]} x {size[1]} float32"
        raise DataError(name, path, reason)
    return np.frombuffer(body, dtype="<f4", offset=8).reshape(size).astype(np.float32)


def _body(name: str, path: Path) -> bytes:
    """What follows the magic number."""
    with blamed_on(name, path):
        stored = path.read_bytes()
    if stored[:4] != struct.pack("<f", MAGIC):
        raise DataError(name, path, f"does not begin with the number {MAGIC}")
    return stored[4:]
