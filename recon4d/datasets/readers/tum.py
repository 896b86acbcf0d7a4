"""TUM RGB-D sequences: pictures and depth named by their times, and cameras from motion capture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import (
    cameras_from_first,
    folder_of,
    folders_with,
    read_map,
)
from recon4d.datasets.sample import Sample, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import rigid, rotation_from_quaternion
from recon4d.io import list_photos
from recon4d.io.checked_values import numbers, pinhole_matrix
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

NEAREST_SECONDS = 0.02
"""What is farther apart in time is not of the same moment (associate.py of the data set's own tools)."""
DEPTH_PER_METER = 5000
CALIBRATIONS = {
    "1": (517.3, 516.5, 318.6, 255.3),
    "2": (520.9, 521.0, 325.1, 249.7),
    "3": (535.4, 539.2, 320.1, 247.6),
}
"""fx, fy, cx, cy of freiburg1, 2 and 3 as published, the first pixel's center at (0, 0)."""


class Tum(SequenceDataset):
    """TUM RGB-D (and Bonn, which has its layout): cameras, and depth where there is some, in meters.

    `root` is a folder with a groundtruth.txt (`t tx ty tz qx qy qz qw`, world_from_cam in OpenCV axes; t may be the
    picture's file name) or a folder of such. Pictures are those of rgb.txt, or those named by their time in the folder
    or in rgb/; depth likewise. `intrinsics` are fx, fy, cx, cy with the first pixel's center at (0, 0), as the data
    set publishes them; None takes those of freiburg1, 2 or 3 by the name of the sequence (lens distortion, which the
    first two have, is not removed). Pictures without a camera within 0.02 s are left out; those without depth stay,
    with confidence 0.
    """

    def __init__(self, root: str | Path, intrinsics: tuple[float, float, float, float] | None = None) -> None:
        self.folders = folders_with(Path(root), "groundtruth.txt")
        self.intrinsics = intrinsics

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(self._moments(name))

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        moments = self._moments(name)
        chosen = [moments[frame] for frame in frames]
        images = read_images(name, [moment.picture for moment in chosen])
        poses = torch.stack([moment.pose for moment in chosen])
        world_from_cam = rigid(rotation_from_quaternion(poses[:, [6, 3, 4, 5]]), poses[:, :3])
        cameras, _ = cameras_from_first(
            name, "intrinsics", world_from_cam, self._calibration(name).expand(len(frames), 3, 3)
        )
        depths = [_depth(name, moment.depth, (images.shape[-2], images.shape[-1])) for moment in chosen]
        depths = torch.from_numpy(np.stack(depths))
        names = tuple(moment.picture.name for moment in chosen)
        clip = Clip(
            images=images,
            times=torch.tensor([moment.seconds - moments[0].seconds for moment in chosen], dtype=torch.float32),
            source=ClipSource(str(self.folders[name]), names, tuple(frames)),
        )
        return Sample(clip, ground_truth_scene(cameras, depths, depths > 0, anchors=anchors, metres_per_unit=1.0))

    def _moments(self, name: str) -> list["_Moment"]:
        """The pictures that have a camera, in order of time."""
        folder = folder_of(self.folders, name)
        poses = _read_poses(name, folder / "groundtruth.txt")
        depths = _stamped_files(name, folder, "depth")
        moments = []
        for seconds, picture in _stamped_files(name, folder, "rgb") or _stamped_pictures(folder):
            pose = _nearest(seconds, [time for time, _ in poses])
            depth = _nearest(seconds, [time for time, _ in depths])
            if pose is not None:
                found = None if depth is None else depths[depth][1]
                moments.append(_Moment(seconds, picture, poses[pose][1], found))
        if not moments:
            raise DataError(name, "groundtruth.txt", f"has no camera within {NEAREST_SECONDS} s of any picture")
        return moments

    def _calibration(self, name: str) -> Float64[Tensor, "3 3"]:
        by_name = [value for key, value in CALIBRATIONS.items() if f"freiburg{key}" in name or f"fr{key}" in name]
        given = self.intrinsics or (by_name[0] if by_name else None)
        if given is None:
            reason = "its name says neither freiburg1, 2 nor 3; wanted intrinsics=(fx, fy, cx, cy)"
            raise DataError(name, "groundtruth.txt", reason)
        fx, fy, cx, cy = given
        return pinhole_matrix(fx, fy, cx + 0.5, cy + 0.5)


@dataclass(frozen=True)
class _Moment:
    """A picture, its time in seconds, its camera (tx ty tz qx qy qz qw) and its depth if it has one."""

    seconds: float
    picture: Path
    pose: Float64[Tensor, "7"]
    depth: Path | None


def _rows(name: str, path: Path) -> list[list[str]]:
    with blamed_on(name, path):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [line.replace(",", " ").split() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _read_poses(name: str, path: Path) -> list[tuple[float, Float64[Tensor, "7"]]]:
    poses = []
    for row in _rows(name, path):
        seconds = _seconds(row[0])
        if seconds is None:
            raise DataError(name, path.name, f"has a line that does not begin with a time: {' '.join(row)[:60]}")
        pose = numbers(name, path.name, row[1:], (7,))
        if pose[3:].norm() < 0.5:
            raise DataError(name, path.name, "holds a quaternion that is not of length 1")
        poses.append((seconds, pose))
    return sorted(poses, key=lambda pose: pose[0])


def _stamped_files(name: str, folder: Path, kind: str) -> list[tuple[float, Path]]:
    """The times and files of `kind`.txt, or of the folder `kind` where there is no such list."""
    listing = folder / f"{kind}.txt"
    if not listing.is_file():
        return _stamped_pictures(folder / kind) if (folder / kind).is_dir() else []
    files = []
    for row in _rows(name, listing):
        seconds = _seconds(row[0])
        if seconds is None or len(row) != 2:
            raise DataError(name, listing.name, f"has a line that is not a time and a file: {' '.join(row)[:60]}")
        files.append((seconds, folder / row[1]))
    return sorted(files)


def _stamped_pictures(folder: Path) -> list[tuple[float, Path]]:
    stamped = [(_seconds(path.name), path) for path in list_photos(folder)]
    return sorted((seconds, path) for seconds, path in stamped if seconds is not None)


def _seconds(word: str) -> float | None:
    """The time that a word or the name of a picture stands for; None where it stands for none."""
    for ending in (".png", ".jpg", ".jpeg"):
        word = word.removesuffix(ending)
    try:
        seconds = float(word)
    except ValueError:
        return None
    return seconds if np.isfinite(seconds) else None


def _nearest(seconds: float, times: list[float]) -> int | None:
    """Which of the sorted `times` is nearest, None where it is not near enough."""
    if not times:
        return None
    after = int(np.searchsorted(times, seconds))
    best = min({max(after - 1, 0), min(after, len(times) - 1)}, key=lambda i: abs(times[i] - seconds))
    return best if abs(times[best] - seconds) < NEAREST_SECONDS else None


def _depth(name: str, path: Path | None, size: tuple[int, int]) -> np.ndarray:
    """z in meters, 0 where unknown."""
    if path is None:
        return np.zeros(size, dtype=np.float32)
    return read_map(name, path, ("uint16",), size).astype(np.float32) / DEPTH_PER_METER
