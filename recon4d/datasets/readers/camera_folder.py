"""Reader of image folders with a cameras.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recon4d.datasets.readers.assembly import sample_without_depth
from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images
from recon4d.datasets.readers.sequence_paths import find_sequence_folders
from recon4d.datasets.sample import Sample
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.io.checked_values import (
    get_entry,
    parse_numbers,
    parse_rigid_matrices,
    read_json,
)
from recon4d.io.confined_paths import confined_path
from recon4d.records import Clip, ClipSource

CAMERA_FILE = "cameras.json"


class CameraFolder(SequenceDataset):
    """Unordered photos with measured cameras and no depth.

    The file cameras.json contains `width` and `height`, one 3x3 matrix `intrinsics` in pixels (the center of the first
    pixel is (0.5, 0.5)) and a list `frames`. Each frame has the file name `image` and a 4x4 matrix `world_from_cam` in
    OpenCV axes. The unit of length is unknown and the times are NaN.

    Args:
        root: A folder with a cameras.json, or a folder of such folders.

    Raises:
        UserError: If there is no cameras.json.
    """

    def __init__(self, root: str | Path) -> None:
        self.paths = find_sequence_folders(Path(root), CAMERA_FILE)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(self._frames(name, self._read_cameras(name)))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        stored = self._read_cameras(name)
        all_frames = self._frames(name, stored)
        files = [str(get_entry(name, CAMERA_FILE, all_frames[i], "image")) for i in frames]
        poses = [get_entry(name, CAMERA_FILE, all_frames[i], "world_from_cam") for i in frames]
        world_from_cam = parse_rigid_matrices(name, CAMERA_FILE, poses, len(frames))
        intrinsics = parse_numbers(name, CAMERA_FILE, get_entry(name, CAMERA_FILE, stored, "intrinsics"), (3, 3))
        folder = self.path(name)
        images = read_images(name, [confined_path(folder, file, CAMERA_FILE, name) for file in files])
        size = (get_entry(name, CAMERA_FILE, stored, "height"), get_entry(name, CAMERA_FILE, stored, "width"))
        if tuple(images.shape[-2:]) != size:
            found = tuple(images.shape[-2:])
            raise DataError(name, files[0], f"has size {found} (height, width), but {CAMERA_FILE} says {size}")
        source = ClipSource(str(self.paths[name]), tuple(files), tuple(frames))
        clip = Clip(images, torch.full((len(frames),), torch.nan), source=source)
        cameras, _ = cameras_from_first(name, CAMERA_FILE, world_from_cam, intrinsics.expand(len(frames), 3, 3))
        return sample_without_depth(clip, cameras, anchors)

    def _read_cameras(self, name: str) -> Any:
        return read_json(name, self.path(name) / CAMERA_FILE)

    def _frames(self, name: str, stored: Any) -> list[Any]:
        frames = get_entry(name, CAMERA_FILE, stored, "frames")
        if not isinstance(frames, list) or not frames:
            raise DataError(name, CAMERA_FILE, "its frames are not a list with at least one entry")
        return frames
