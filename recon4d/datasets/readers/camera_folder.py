"""A folder of pictures with a cameras.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import (
    cameras_from_first,
    folder_of,
    folders_with,
    without_depth,
)
from recon4d.datasets.sample import Sample
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.io.checked_values import (
    entry,
    numbers,
    read_json,
    rigid_matrices,
)
from recon4d.records import Clip, ClipSource


class CameraFolder(SequenceDataset):
    """Photos with measured cameras and no depth.

    `root` is such a folder, or a folder of them. Its cameras.json holds `width` and `height`, one 3x3 `intrinsics` in
    pixels (first center at 0.5) and `frames`, each with the file name `image` and a 4x4 `world_from_cam` in OpenCV
    axes, in an unknown unit. Times are NaN: photos without an order.
    """

    def __init__(self, root: str | Path) -> None:
        self.folders = folders_with(Path(root), "cameras.json")

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(self._frames(name, self._cameras(name)))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        stored = self._cameras(name)
        listed = self._frames(name, stored)
        files = [str(entry(name, "cameras.json", listed[i], "image")) for i in frames]
        poses = [entry(name, "cameras.json", listed[i], "world_from_cam") for i in frames]
        world_from_cam = rigid_matrices(name, "cameras.json", poses, len(frames))
        intrinsics = numbers(name, "cameras.json", entry(name, "cameras.json", stored, "intrinsics"), (3, 3))
        images = read_images(name, [folder_of(self.folders, name) / file for file in files])
        size = (entry(name, "cameras.json", stored, "height"), entry(name, "cameras.json", stored, "width"))
        if tuple(images.shape[-2:]) != size:
            found = tuple(images.shape[-2:])
            raise DataError(name, files[0], f"its height and width are {found}, those of cameras.json {size}")
        source = ClipSource(str(self.folders[name]), tuple(files), tuple(frames))
        clip = Clip(images, torch.full((len(frames),), torch.nan), source=source)
        cameras, _ = cameras_from_first(name, "cameras.json", world_from_cam, intrinsics.expand(len(frames), 3, 3))
        return without_depth(clip, cameras, anchors)

    def _cameras(self, name: str) -> Any:
        return read_json(name, folder_of(self.folders, name) / "cameras.json")

    def _frames(self, name: str, stored: Any) -> list[Any]:
        frames = entry(name, "cameras.json", stored, "frames")
        if not isinstance(frames, list) or not frames:
            raise DataError(name, "cameras.json", "its frames are no list, or an empty one")
        return frames
