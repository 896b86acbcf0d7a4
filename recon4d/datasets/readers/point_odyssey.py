"""Point Odyssey (Zheng et al. 2023): rendered videos with cameras, depth and long 3D tracks, read from version 1.2.

``<root>/<split>/<sequence>/`` holds ``rgbs/rgb_00000.jpg``, ``depths/depth_00000.png`` and ``anno.npz``; frames are
numbered from 0, 30 a second. The public generator's own output, with another annotation file, is read as well.

What is stored, and what is made of it:

- Pixels are continuous, the first center at (0.5, 0.5) as in this house: a point lies in the pixel of its *floor*, and
  the intrinsics need no shift.
- ``extrinsics`` are cam_from_world in OpenCV axes, rounded to float16 and so not quite rigid.
- Depth is z in steps of 1000 m / 65535, cut off. 65535 is 1000 m and beyond: sky, domes, fog. That and 0 are unknown.
- ``valids`` says where a track means anything, ``visibs`` where it is seen. Both are of the release; the generator
  has ``visibilities``: 0 hidden, 1 visible, 2 without meaning.
- 22 sequences have a single NaN for ``trajs_3d``: these have no tracks.
- Masks and normals are not read. Nothing says what moves.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.readers.common import (
    FRAMES_PER_SECOND,
    check_long_enough,
    in_view,
    metric_sample,
    read_images,
    read_sixteen_bits,
    rounded_cameras,
)
from recon4d.datasets.sample import Sample, Trajectories
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

FARTHEST = 1000.0
"""Meters at which stored depth ends."""
MOST_STEPS = 65535
DEPTH_STEP = FARTHEST / MOST_STEPS

ANNOTATION_FILES = ("anno.npz", "annotations.npz", "annot.npz")
"""The release's, the generator's, and that of older loaders; the first that is there is read."""


class PointOdyssey(SequenceDataset):
    """The sequences of one split (train, val, test or sample) below `root`.

    Depth beyond `z_far` meters is unknown too (others use 80). A track is visible in a frame only where all agree that
    it is: it exists, is said to be visible, lies in the picture and in front of the camera, and its z is that of the
    depth map within 5 % or three depth steps, whichever is more. So it is never visible where the depth is unknown.
    """

    def __init__(self, root: str | Path, split: str = "train", z_far: float | None = None) -> None:
        self._folder = Path(root) / split
        self._z_far = FARTHEST if z_far is None else z_far
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder} does not exist; wanted the folder of a Point Odyssey split")
        self._names = sorted(path.name for path in self._folder.iterdir() if _is_sequence(path))
        if not self._names:
            raise ValueError(f"{self._folder} holds no sequences of Point Odyssey")

    def names(self) -> list[str]:
        """The folders of the split, damaged ones included."""
        return list(self._names)

    def num_frames(self, name: str) -> int:
        """How many cameras the annotation holds."""
        path = self._annotation_file(name)
        with blamed_on(name, path), zipfile.ZipFile(path) as archive:
            return _count_frames(archive)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """The clip of these frames and its truth, in meters; every track is a query of every anchor.

        A track's place is that of ``trajs_3d``; a query's pixel that of ``trajs_2d``, which is rounded to float16 (half
        a pixel from 512 on). Errors as in `Sequences.read`, and `DataError` for frames beyond the last.
        """
        path = self._annotation_file(name)
        check_long_enough(name, path, self.num_frames(name), frames)
        self.check_frames(name, frames, anchors)

        clip = self._read_clip(name, frames)
        depths = self._read_depths(name, frames, clip.size)
        measured = (depths > 0) & (depths < FARTHEST)
        stored = _read_annotation(name, path, frames)
        cameras = rounded_cameras(name, path, stored.cam_from_world, stored.intrinsics)
        trajectories = None
        if stored.tracks is not None:
            depths_seen = torch.where(measured, depths, torch.nan)
            trajectories = _trajectories(stored.tracks, stored.cam_from_world, depths_seen)
        return metric_sample(clip, cameras, depths, measured & (depths <= self._z_far), trajectories, anchors)

    def _annotation_file(self, name: str) -> Path:
        folder = self._folder / name
        files = [folder / file for file in ANNOTATION_FILES]
        return next((file for file in files if file.exists()), files[0])

    def _read_clip(self, name: str, frames: Sequence[int]) -> Clip:
        folder = self._folder / name / "rgbs"
        files = [f"rgb_{frame:05d}.jpg" for frame in frames]
        return Clip(
            images=read_images(name, [folder / file for file in files]),
            times=torch.tensor(frames, dtype=torch.float64).div(FRAMES_PER_SECOND).float(),
            source=ClipSource(str(folder), tuple(files), tuple(frames)),
        )

    def _read_depths(
        self, name: str, frames: Sequence[int], size: tuple[int, int]
    ) -> Float[Tensor, "time height width"]:
        """z in meters as stored: 0 and `FARTHEST` mean unknown."""
        paths = [self._folder / name / "depths" / f"depth_{frame:05d}.png" for frame in frames]
        steps = np.stack([read_sixteen_bits(name, path, size) for path in paths])
        return torch.from_numpy(steps.astype(np.float64) / MOST_STEPS * FARTHEST).float()


@dataclass(frozen=True)
class _StoredTracks:
    """Tracks as they stand in the file: nothing of them needs to be finite."""

    pixels: Float[Tensor, "time query 2"]
    points: Float[Tensor, "time query 3"]
    valid: Bool[Tensor, "time query"]
    visible: Bool[Tensor, "time query"]


@dataclass(frozen=True)
class _StoredAnnotation:
    intrinsics: Float[Tensor, "time 3 3"]
    cam_from_world: Float[Tensor, "time 4 4"]
    tracks: _StoredTracks | None


def _is_sequence(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _trajectories(
    stored: _StoredTracks,
    cam_from_world: Float[Tensor, "time 4 4"],
    depths: Float[Tensor, "time height width"],
) -> Trajectories:
    """Tracks in the stored world, each visible only where the `depths` (NaN: unknown) confirm it."""
    exists = stored.valid & stored.points.isfinite().all(dim=-1) & stored.pixels.isfinite().all(dim=-1)
    points = torch.where(exists[..., None], stored.points, torch.zeros_like(stored.points))
    pixels = torch.where(exists[..., None], stored.pixels, torch.zeros_like(stored.pixels))

    # The matrices as stored, rounded: these are what goes with the stored points.
    z = (points @ cam_from_world[:, 2, :3, None])[..., 0] + cam_from_world[:, 2, 3, None]
    inside = in_view(pixels, z, (depths.shape[1], depths.shape[2]))
    column, row = torch.where(inside[..., None], pixels, torch.zeros_like(pixels)).floor().long().unbind(dim=-1)
    surface = depths[torch.arange(depths.shape[0])[:, None], row, column]
    on_surface = (z - surface).abs() < (0.05 * z).clamp(min=3 * DEPTH_STEP)
    return Trajectories(points, pixels, exists, exists & stored.visible & inside & on_surface)


def _read_annotation(name: str, path: Path, frames: Sequence[int]) -> _StoredAnnotation:
    with blamed_on(name, path), zipfile.ZipFile(path) as archive:
        count = _count_frames(archive)
        intrinsics = _read_frames(archive, "intrinsics", (count, 3, 3), frames)
        cam_from_world = _read_frames(archive, "extrinsics", (count, 4, 4), frames)
        return _StoredAnnotation(
            intrinsics=torch.from_numpy(intrinsics).double(),
            cam_from_world=torch.from_numpy(cam_from_world).double(),
            tracks=_read_tracks(archive, count, frames),
        )


def _read_tracks(archive: zipfile.ZipFile, count: int, frames: Sequence[int]) -> _StoredTracks | None:
    shape = _shape(archive, "trajs_3d")
    if shape == ():
        return None
    queries = shape[1] if len(shape) == 3 else -1
    points = _read_frames(archive, "trajs_3d", (count, queries, 3), frames)
    pixels = _read_frames(archive, "trajs_2d", (count, queries, 2), frames)
    if "visibilities.npy" in archive.namelist():
        visibilities = _read_frames(archive, "visibilities", (count, queries), frames)
        valid, visible = np.isin(visibilities, (0, 1)), visibilities == 1
    else:
        valid = _read_frames(archive, "valids", (count, queries), frames) != 0
        visible = _read_frames(archive, "visibs", (count, queries), frames) != 0
    return _StoredTracks(
        pixels=torch.from_numpy(pixels).double(),
        points=torch.from_numpy(points).double(),
        valid=torch.from_numpy(valid),
        visible=torch.from_numpy(visible),
    )


def _count_frames(archive: zipfile.ZipFile) -> int:
    shape = _shape(archive, "intrinsics")
    if len(shape) != 3:
        raise ValueError(f"intrinsics have shape {shape}, wanted (frames, 3, 3)")
    return shape[0]


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    with archive.open(f"{key}.npy") as stream:
        return _read_header(stream)[0]


def _read_frames(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], frames: Sequence[int]) -> np.ndarray:
    """The wanted frames of an array that must have `shape`; of a gigabyte of tracks, these alone enter memory."""
    with archive.open(f"{key}.npy") as stream:
        found, is_fortran, dtype = _read_header(stream)
        if found != shape:
            raise ValueError(f"{key} has shape {found}, wanted {shape}")
        if is_fortran:
            whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
            return whole[list(frames)]
        start = stream.tell()
        frame_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        rows = {}
        for frame in sorted(set(frames)):  # forwards only: going back would begin again
            stream.seek(start + frame * frame_bytes)
            rows[frame] = np.frombuffer(stream.read(frame_bytes), dtype).reshape(shape[1:])
    return np.stack([rows[frame] for frame in frames])


def _read_header(stream: IO[bytes] | zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array that begins here; pickled objects are refused unopened."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = readers[version](stream)
    if dtype.kind not in "fiub":
        raise ValueError(f"holds {dtype} rather than numbers")
    return shape, is_fortran, dtype
