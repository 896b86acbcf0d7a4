"""Reader of 7-Scenes (Shotton et al. 2013): Kinect images, depth and cameras of indoor scenes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import UserError
from recon4d.io.checked_values import parse_rigid_matrices, pinhole_matrix
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
"""Frame rate of the Kinect; the files contain no times."""
INTRINSICS = (585.0, 585.0, 320.0, 240.0)
"""fx, fy, cx, cy in pixels that the data set publishes for both cameras of the Kinect, at 640 x 480 pixels.

The principal point is the center of the image if the center of the first pixel is (0.5, 0.5), which is assumed here.
"""
INVALID_DEPTH = 65535
"""Stored value of unknown depth, besides 0."""


class SevenScenes(SequenceDataset):
    """Indoor sequences with cameras, and depth in meters.

    Depth is stored in millimeters; 0 and 65535 are unknown. It is the depth in the Kinect's infrared camera and is not
    registered to the images, which shifts it by a few pixels.

    Args:
        root: A sequence, a scene (<scene>/<sequence>) or the folder of all scenes.
        intrinsics: fx, fy, cx, cy in pixels. Some publications use 525 for the focal lengths.

    Raises:
        UserError: If there is no sequence.
    """

    def __init__(self, root: str | Path, intrinsics: tuple[float, float, float, float] = INTRINSICS) -> None:
        root = Path(root)
        list_folder(root)
        first = "frame-000000.color.png"
        found = [file.parent for pattern in (first, f"*/{first}", f"*/*/{first}") for file in root.glob(pattern)]
        names = [folder.relative_to(root).as_posix() for folder in found]
        self.paths = {
            root.resolve().name if name == "." else name: folder for name, folder in zip(names, found, strict=True)
        }
        if not self.paths:
            raise UserError(f"{root} contains no {first}, and neither do the two levels of folders below it")
        self.intrinsics = pinhole_matrix(*intrinsics)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(list(self.path(name).glob("frame-*.color.png")))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        folder = self.path(name)
        stems = [f"frame-{frame:06d}" for frame in frames]
        images = read_images(name, [folder / f"{stem}.color.png" for stem in stems])
        poses = torch.stack([_read_world_from_cam(name, folder / f"{stem}.pose.txt") for stem in stems])
        cameras, _ = cameras_from_first(name, "intrinsics", poses, self.intrinsics.expand(len(frames), 3, 3))
        size = (images.shape[-2], images.shape[-1])
        millimeters = np.stack([read_map(name, folder / f"{stem}.depth.png", ("uint16",), size) for stem in stems])
        is_known = torch.from_numpy((millimeters > 0) & (millimeters < INVALID_DEPTH))
        depths = torch.from_numpy(millimeters.astype(np.float32) / 1000)
        clip = Clip(
            images=images,
            times=torch.tensor(frames, dtype=torch.float32) / FRAMES_PER_SECOND,
            source=ClipSource(str(folder), tuple(f"{stem}.color.png" for stem in stems), tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, is_known, anchors=anchors, metres_per_unit=1.0))


def _read_world_from_cam(name: str, path: Path) -> Float64[Tensor, "4 4"]:
    """Read the 4x4 matrix of a text file, in OpenCV axes."""
    with data_errors(name, path):
        values = np.array([float(word) for word in path.read_text().split()]).reshape(1, 4, 4)
    return parse_rigid_matrices(name, str(path), values, 1)[0]
