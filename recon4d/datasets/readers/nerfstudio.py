"""Reader of nerfstudio's folders: images, a transforms.json and, if there are any, depth maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.readers.assembly import sample_without_depth
from recon4d.datasets.readers.images import read_images
from recon4d.datasets.readers.sequence_paths import find_sequence_folders
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.io import read_raster
from recon4d.io.cameras.camera_file import CameraOptions
from recon4d.io.cameras.camera_json import load_json, read_camera_json
from recon4d.io.confined_paths import confined_path
from recon4d.io.file_errors import data_errors, is_there
from recon4d.io.frame_pairing import natural_order
from recon4d.io.photos import PHOTO_SUFFIXES
from recon4d.io.undistortion import undistort_image, undistort_map
from recon4d.records import Cameras, Clip, ClipSource

CAMERA_FILE = "transforms.json"
DEFAULT_DEPTH_UNIT = 0.001
"""Units of the cameras per step of the depth maps, nerfstudio's default of `depth_unit_scale_factor`."""


class NerfstudioFolders(SequenceDataset):
    """Folders of nerfstudio, instant-ngp or Blender, with known cameras and possibly depth.

    The file transforms.json may have any of the spellings that `recon4d reconstruct --cameras` reads; it must state the
    focal length. Frames are sorted by the names of their images and have no times. Lens distortion is removed from
    images and depth; what the lens did not see is black. If every frame has a `depth_file_path`, depth is that 16-bit
    PNG times `depth_unit_scale_factor` (0.001 if the file does not state it), 0 where unknown, in the unit of the
    cameras. A depth map of another size than its image is resized by its nearest pixels.

    Args:
        root: A folder with a transforms.json, or a folder of such folders.

    Raises:
        UserError: If there is no transforms.json.
    """

    def __init__(self, root: str | Path) -> None:
        self.paths = find_sequence_folders(Path(root), CAMERA_FILE)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(self._frames(name)[0])

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        folder = self.path(name)
        entries, unit = self._frames(name)
        chosen = [entries[frame] for frame in frames]
        files = [_image_file(name, folder, entry) for entry in chosen]
        images = read_images(name, files)
        source = ClipSource(str(folder), tuple(file.relative_to(folder).as_posix() for file in files), tuple(frames))
        clip = Clip(images, torch.full((len(files),), torch.nan), source=source)
        try:
            found = read_camera_json(folder / CAMERA_FILE).for_clip(clip, CameraOptions("name"))
        except UserError as error:
            raise DataError(name, CAMERA_FILE, str(error)) from error
        if found.intrinsics is None or not (
            found.intrinsics.isfinite().all() and found.world_from_cam.isfinite().all()
        ):
            raise DataError(name, CAMERA_FILE, "does not state the camera and focal length of every image")
        cameras = Cameras(found.world_from_cam, found.intrinsics)
        depths = _read_depths(name, folder, chosen, unit, clip.size)
        if found.lenses is not None:
            lenses = list(zip(images, found.intrinsics, found.lenses, strict=True))
            clip = Clip(torch.stack([undistort_image(*one) for one in lenses]), clip.times, source=source)
            if depths is not None:
                straight = zip(depths[:, None], found.intrinsics, found.lenses, strict=True)
                depths = torch.cat([undistort_map(*one) for one in straight])
        if depths is None:
            return sample_without_depth(clip, cameras, anchors)
        return Sample(clip, ground_truth_scene(cameras, depths, depths > 0, anchors=anchors))

    def _frames(self, name: str) -> tuple[list[dict[str, Any]], float]:
        """The frames sorted by name, and the unit of depth."""
        path = self.path(name) / CAMERA_FILE
        try:
            stored = load_json(path)
            read_camera_json(path)
        except UserError as error:
            raise DataError(name, CAMERA_FILE, str(error)) from error
        unit = stored.get("depth_unit_scale_factor", DEFAULT_DEPTH_UNIT)
        if isinstance(unit, bool) or not isinstance(unit, int | float) or not 0 < unit < float("inf"):
            raise DataError(name, CAMERA_FILE, f"has the depth_unit_scale_factor {unit!r}; wanted a number above 0")
        frames = stored["frames"]
        for frame in frames:
            if not isinstance(frame.get("file_path"), str):
                raise DataError(name, CAMERA_FILE, "has a frame without file_path")
        return sorted(frames, key=lambda frame: natural_order(frame["file_path"])), float(unit)


def _image_file(name: str, folder: Path, entry: dict[str, Any]) -> Path:
    """The image of a frame; Blender leaves out the suffix."""
    path = confined_path(folder, entry["file_path"], CAMERA_FILE, name)
    if not is_there(path):
        for suffix in sorted(PHOTO_SUFFIXES):
            if is_there(path.with_name(path.name + suffix)):
                return path.with_name(path.name + suffix)
    return path


def _read_depths(
    name: str, folder: Path, entries: Sequence[dict[str, Any]], unit: float, size: tuple[int, int]
) -> Float[Tensor, "time height width"] | None:
    """Depth in the unit of the cameras, 0 where unknown; None unless every frame has a depth map."""
    if not all(isinstance(entry.get("depth_file_path"), str) for entry in entries):
        return None
    maps = []
    for entry in entries:
        path = confined_path(folder, entry["depth_file_path"], CAMERA_FILE, name)
        with data_errors(name, path):
            values = read_raster(path)
        if values.ndim != 2 or values.dtype != np.uint16:
            raise DataError(name, path, f"holds {values.dtype.name} of shape {values.shape}, wanted 16-bit gray values")
        rows, columns = (
            (np.arange(wanted) + 0.5) * given / wanted for wanted, given in zip(size, values.shape, strict=True)
        )
        nearest = values[rows.astype(int)[:, None], columns.astype(int)]
        maps.append(torch.from_numpy(nearest.astype(np.float32)) * unit)
    return torch.stack(maps)
