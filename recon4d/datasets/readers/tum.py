"""Reader of TUM RGB-D: images and depth named by their times, and cameras from motion capture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.readers.sequence_paths import find_sequence_folders
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import rigid, rotation_from_quaternion
from recon4d.io import list_photos
from recon4d.io.checked_values import parse_numbers, pinhole_matrix
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

POSE_FILE = "groundtruth.txt"
MAX_TIME_DIFFERENCE = 0.02
"""Largest time difference of associated images, depths and cameras, in seconds; the default of the data set's
associate.py."""
DEPTH_UNITS_PER_METER = 5000
"""Scale of the stored depth, as published with the data set."""
CALIBRATIONS = {
    "1": (517.3, 516.5, 318.6, 255.3),
    "2": (520.9, 521.0, 325.1, 249.7),
    "3": (535.4, 539.2, 320.1, 247.6),
}
"""Published fx, fy, cx, cy in pixels of freiburg1, 2 and 3; the center of the first pixel is (0, 0)."""


class Tum(SequenceDataset):
    """TUM RGB-D sequences, or others in their layout such as Bonn: cameras, and depth in meters.

    The file groundtruth.txt has lines `t tx ty tz qx qy qz qw`: the time, or the file name of the image, and
    world_from_cam in OpenCV axes. Images are those listed in rgb.txt, or else those named by their times in rgb/ or in
    the folder itself. Depth is found likewise. Images without a camera within `MAX_TIME_DIFFERENCE` are left out;
    images without depth have depth confidence 0.

    Args:
        root: A folder with a groundtruth.txt, or a folder of such folders.
        intrinsics: fx, fy, cx, cy in pixels, where the center of the first pixel is (0, 0) as in the publication. None
            selects the calibration of freiburg1, 2 or 3 by the name of the sequence. The lens distortion of freiburg1
            and 2 is not removed.

    Raises:
        UserError: If there is no groundtruth.txt.
    """

    def __init__(self, root: str | Path, intrinsics: tuple[float, float, float, float] | None = None) -> None:
        self.paths = find_sequence_folders(Path(root), POSE_FILE)
        self.intrinsics = intrinsics

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(self._associate(name))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        all_frames = self._associate(name)
        selected = [all_frames[frame] for frame in frames]
        images = read_images(name, [frame.image for frame in selected])
        poses = torch.stack([frame.pose for frame in selected])
        world_from_cam = rigid(rotation_from_quaternion(poses[:, [6, 3, 4, 5]]), poses[:, :3])
        intrinsics = self._calibration(name).expand(len(frames), 3, 3)
        cameras, _ = cameras_from_first(name, "intrinsics", world_from_cam, intrinsics)
        depths = [_read_depth(name, frame.depth, (images.shape[-2], images.shape[-1])) for frame in selected]
        depths = torch.from_numpy(np.stack(depths))
        names = tuple(frame.image.name for frame in selected)
        clip = Clip(
            images=images,
            times=torch.tensor([frame.seconds - all_frames[0].seconds for frame in selected], dtype=torch.float32),
            source=ClipSource(str(self.paths[name]), names, tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, depths > 0, anchors=anchors, metres_per_unit=1.0))

    def _associate(self, name: str) -> list["_Frame"]:
        """Find the images that have a camera, in order of time, and their depths."""
        folder = self.path(name)
        poses = _read_poses(name, folder / POSE_FILE)
        depths = _timestamped_files(name, folder, "depth")
        frames = []
        for seconds, image in _timestamped_files(name, folder, "rgb") or _timestamped_images(folder):
            pose = _nearest(seconds, [time for time, _ in poses])
            depth = _nearest(seconds, [time for time, _ in depths])
            if pose is not None:
                frames.append(_Frame(seconds, image, poses[pose][1], None if depth is None else depths[depth][1]))
        if not frames:
            raise DataError(name, POSE_FILE, f"has no camera within {MAX_TIME_DIFFERENCE} s of any image")
        return frames

    def _calibration(self, name: str) -> Float64[Tensor, "3 3"]:
        by_name = [value for key, value in CALIBRATIONS.items() if f"freiburg{key}" in name or f"fr{key}" in name]
        intrinsics = self.intrinsics or (by_name[0] if by_name else None)
        if intrinsics is None:
            reason = "are unknown, because the name contains none of freiburg1, 2 and 3; give intrinsics fx, fy, cx, cy"
            raise DataError(name, "intrinsics", reason)
        fx, fy, cx, cy = intrinsics
        return pinhole_matrix(fx, fy, cx + 0.5, cy + 0.5)


@dataclass(frozen=True)
class _Frame:
    """An image with its camera."""

    seconds: float
    """Time of the image."""
    image: Path
    pose: Float64[Tensor, "7"]
    """tx, ty, tz, qx, qy, qz, qw of world_from_cam."""
    depth: Path | None
    """Depth map; None if there is none close in time."""


def _read_rows(name: str, path: Path) -> list[list[str]]:
    """Split the lines of a text file at spaces or commas, without comments and empty lines."""
    with data_errors(name, path):
        lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.replace(",", " ").split() for line in lines if not line.lstrip().startswith("#")]
    return [row for row in rows if row]


def _read_poses(name: str, path: Path) -> list[tuple[float, Float64[Tensor, "7"]]]:
    """Read times and poses, sorted by time."""
    poses = []
    for row in _read_rows(name, path):
        seconds = _parse_time(row[0])
        if seconds is None:
            raise DataError(name, path.name, f"has a line that does not begin with a time: {' '.join(row)[:60]}")
        pose = parse_numbers(name, path.name, row[1:], (7,))
        if pose[3:].norm() < 0.5:
            raise DataError(name, path.name, "holds a quaternion that is not of length 1")
        poses.append((seconds, pose))
    return sorted(poses, key=lambda pose: pose[0])


def _timestamped_files(name: str, folder: Path, kind: str) -> list[tuple[float, Path]]:
    """List times and files from `kind`.txt, or from the subfolder `kind` if there is no such file."""
    listing = folder / f"{kind}.txt"
    if not listing.is_file():
        return _timestamped_images(folder / kind) if (folder / kind).is_dir() else []
    files = []
    for row in _read_rows(name, listing):
        seconds = _parse_time(row[0])
        if seconds is None or len(row) != 2:
            raise DataError(name, listing.name, f"has a line that is not a time and a file: {' '.join(row)[:60]}")
        files.append((seconds, folder / row[1]))
    return sorted(files)


def _timestamped_images(folder: Path) -> list[tuple[float, Path]]:
    """List the images of a folder that are named by their times."""
    timestamped = [(_parse_time(path.name), path) for path in list_photos(folder)]
    return sorted((seconds, path) for seconds, path in timestamped if seconds is not None)


def _parse_time(text: str) -> float | None:
    """Parse a time in seconds, with or without the suffix of an image file; None if it is not a time."""
    for suffix in (".png", ".jpg", ".jpeg"):
        text = text.removesuffix(suffix)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if np.isfinite(seconds) else None


def _nearest(seconds: float, times: list[float]) -> int | None:
    """Find the nearest of the sorted times; None if it differs by `MAX_TIME_DIFFERENCE` or more."""
    if not times:
        return None
    after = int(np.searchsorted(times, seconds))
    best = min({max(after - 1, 0), min(after, len(times) - 1)}, key=lambda i: abs(times[i] - seconds))
    return best if abs(times[best] - seconds) < MAX_TIME_DIFFERENCE else None


def _read_depth(name: str, path: Path | None, size: tuple[int, int]) -> np.ndarray:
    """Read z in meters, shape (height, width); 0 where unknown."""
    if path is None:
        return np.zeros(size, dtype=np.float32)
    return read_map(name, path, ("uint16",), size).astype(np.float32) / DEPTH_UNITS_PER_METER
