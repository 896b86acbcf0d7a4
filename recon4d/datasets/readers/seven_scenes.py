"""7-Scenes (Shotton et al. 2013): Kinect pictures, depth and cameras of rooms, one file of each a frame."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import cameras_from_first, folder_of, read_map
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.io.checked_values import pinhole_matrix, rigid_matrices
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
INTRINSICS = (585.0, 585.0, 320.0, 240.0)
"""Focal lengths and principal point that the data set gives for both cameras of the Kinect, of 640 x 480 pixels.

320, 240 is the very middle where the first pixel's center is (0.5, 0.5), and is taken so.
"""
INVALID_DEPTH = 65535


class SevenScenes(SequenceDataset):
    """Rooms with cameras and depth in meters, below `root` at any of the levels <root>/<scene>/<sequence>.

    Depth is stored in millimeters, 0 and 65535 unknown; it is that of the Kinect's other camera and was never
    registered with the pictures, which shifts it by a few pixels. `intrinsics` are fx, fy, cx, cy (some use 525 for
    the focal lengths).
    """

    def __init__(self, root: str | Path, intrinsics: tuple[float, float, float, float] = INTRINSICS) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder")
        first = "frame-000000.color.png"
        found = [file.parent for pattern in (first, f"*/{first}", f"*/*/{first}") for file in root.glob(pattern)]
        names = [folder.relative_to(root).as_posix() for folder in found]
        self.folders = {
            root.resolve().name if name == "." else name: folder for name, folder in zip(names, found, strict=True)
        }
        if not self.folders:
            raise ValueError(f"{root} has no folder with {first}")
        self.intrinsics = pinhole_matrix(*intrinsics)

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(list(folder_of(self.folders, name).glob("frame-*.color.png")))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        folder = folder_of(self.folders, name)
        stems = [f"frame-{frame:06d}" for frame in frames]
        images = read_images(name, [folder / f"{stem}.color.png" for stem in stems])
        poses = torch.stack([_world_from_cam(name, folder / f"{stem}.pose.txt") for stem in stems])
        cameras, _ = cameras_from_first(name, "intrinsics", poses, self.intrinsics.expand(len(frames), 3, 3))
        size = (images.shape[-2], images.shape[-1])
        millimeters = np.stack([read_map(name, folder / f"{stem}.depth.png", ("uint16",), size) for stem in stems])
        known = torch.from_numpy((millimeters > 0) & (millimeters < INVALID_DEPTH))
        depths = torch.from_numpy(millimeters.astype(np.float32) / 1000)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(str(folder), tuple(f"{stem}.color.png" for stem in stems), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, known, anchors=anchors, metres_per_unit=1.0))


def _world_from_cam(name: str, path: Path) -> torch.Tensor:
    """The 4x4 matrix of a text file in OpenCV axes."""
    with blamed_on(name, path):
        values = np.array([float(word) for word in path.read_text().split()]).reshape(1, 4, 4)
    return rigid_matrices(name, str(path), values, 1)[0]
