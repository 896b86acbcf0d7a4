"""Reader of MPI Sintel (Butler et al. 2012): a rendered film with cameras and depth in binary files."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import invert
from recon4d.io.checked_values import parse_numbers, parse_rigid_matrices
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

MAGIC = 202021.25
"""float32 at the beginning of every file of the data set."""
MAX_DEPTH = 1000.0
"""Largest valid depth in meters. Larger values are sky: 1e11, or a dome at 2.5 to 3.4 km in some scenes."""
FRAMES_PER_SECOND = 24
"""Frame rate of the film; the files contain no times."""


class Sintel(SequenceDataset):
    """Scenes of the training set with cameras, and depth in meters.

    Every frame has its own intrinsics, because some scenes zoom. The principal point is stored as
    ((w - 1) / 2, (h - 1) / 2), where the center of the first pixel is (0, 0). Depth is z; depth beyond `MAX_DEPTH`
    is unknown.

    Args:
        root: Folder that contains training/<rendering>, training/camdata_left and training/depth.
        rendering: "final" or "clean".

    Raises:
        UserError: If there is no scene.
    """

    def __init__(self, root: str | Path, rendering: str = "final") -> None:
        self.training = Path(root) / "training"
        image_folder = self.training / rendering
        contents = list_folder(image_folder)
        self.paths = {folder.name: folder for folder in contents if (folder / "frame_0001.png").is_file()}
        if not self.paths:
            raise UserError(f"{image_folder} has no subfolder with frame_0001.png")

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(list(self.path(name).glob("frame_*.png")))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        stems = [f"frame_{frame + 1:04d}" for frame in frames]
        images = read_images(name, [self.path(name) / f"{stem}.png" for stem in stems])
        stored = [_read_camera(name, self.training / "camdata_left" / name / f"{stem}.cam") for stem in stems]
        cam_from_world, intrinsics = (torch.stack(parts) for parts in zip(*stored, strict=True))
        cameras, _ = cameras_from_first(name, "camdata_left", invert(cam_from_world), intrinsics)
        size = (images.shape[-2], images.shape[-1])
        depths = [_read_depth(name, self.training / "depth" / name / f"{stem}.dpt", size) for stem in stems]
        depths = torch.from_numpy(np.stack(depths))
        is_known = (depths > 0) & (depths <= MAX_DEPTH)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(str(self.paths[name]), tuple(f"{stem}.png" for stem in stems), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, is_known, anchors=anchors, metres_per_unit=1.0))


def _read_camera(name: str, path: Path) -> tuple[Float64[Tensor, "4 4"], Float64[Tensor, "3 3"]]:
    """Read ``cam_from_world`` and the intrinsics, where the center of the first pixel is (0.5, 0.5)."""
    body = _read_after_magic(name, path)
    if len(body) != 21 * 8:
        raise DataError(name, path, f"holds {len(body)} bytes after the magic number, wanted {21 * 8}")
    values = np.frombuffer(body, dtype="<f8")
    intrinsics = parse_numbers(name, str(path), values[:9].reshape(3, 3), (3, 3))
    intrinsics[:2, 2] += 0.5
    matrix = np.concatenate([values[9:].reshape(3, 4), [[0.0, 0.0, 0.0, 1.0]]])
    return parse_rigid_matrices(name, str(path), matrix[None], 1)[0], intrinsics


def _read_depth(name: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read z in meters, shape (height, width)."""
    body = _read_after_magic(name, path)
    with data_errors(name, path):
        width, height = struct.unpack_from("<ii", body)
    if (height, width) != size or len(body) != 8 + 4 * width * height:
        found = f"size {height} x {width} and {len(body) - 8} bytes of depth"
        raise DataError(name, path, f"has {found}, wanted {size[0]} x {size[1]} float32 values")
    return np.frombuffer(body, dtype="<f4", offset=8).reshape(size).astype(np.float32)


def _read_after_magic(name: str, path: Path) -> bytes:
    """Read a file and check its magic number."""
    with data_errors(name, path):
        stored = path.read_bytes()
    if stored[:4] != struct.pack("<f", MAGIC):
        raise DataError(name, path, f"does not begin with the magic number {MAGIC}")
    return stored[4:]
