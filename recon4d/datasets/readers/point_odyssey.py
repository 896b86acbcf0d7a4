"""Reader of Point Odyssey 1.2 (Zheng et al. 2023): rendered videos with cameras, depth and long 3D tracks.

``<root>/<split>/<sequence>/`` contains ``rgbs/rgb_00000.jpg``, ``depths/depth_00000.png`` and ``anno.npz``. Frames are
numbered from 0. The output of the public generator, which has another annotation file, is read as well.

Format:

- Pixel coordinates are those of this package: the center of the first pixel is (0.5, 0.5). A point lies in the pixel
  given by the floor of its coordinates, and the intrinsics need no shift.
- ``extrinsics`` are cam_from_world in OpenCV axes, rounded to float16 and therefore not exactly rigid.
- Depth is z in steps of 1000 m / 65535, rounded down. 65535 stands for 1000 m and more: sky, domes and fog. 0 and
  65535 are unknown.
- ``valids`` marks where a track is meaningful, ``visibs`` where it is visible. The generator's files have
  ``visibilities`` instead: 0 occluded, 1 visible, 2 meaningless.
- 22 sequences have a single NaN as ``trajs_3d``; they have no tracks.
- Masks and normals are not read. The dynamic probability is unknown (NaN).
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

from recon4d.datasets.readers.assembly import metric_sample
from recon4d.datasets.readers.cameras import cameras_from_rounded
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, Trajectories
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import UserError
from recon4d.geometry import is_in_image, pixel_indices
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
"""Frame rate of all sequences; the files contain no times."""
MAX_DEPTH = 1000.0
"""Depth in meters that the largest stored value stands for."""
MAX_STORED_DEPTH = 65535
"""Largest stored depth value."""
DEPTH_STEP = MAX_DEPTH / MAX_STORED_DEPTH
"""Resolution of stored depth, in meters."""
RELATIVE_DEPTH_TOLERANCE = 0.05
"""Largest relative difference between the depth of a visible track and the depth map. Hand-tuned."""

ANNOTATION_FILES = ("anno.npz", "annotations.npz", "annot.npz")
"""Names used by the release, the generator and older loaders; the first existing file is read."""


class PointOdyssey(SequenceDataset):
    """The sequences of one split, in meters.

    A track is visible in a frame only if it is valid, marked as visible, inside the image, in front of the camera, and
    its z agrees with the depth map to 5 % or three depth steps, whichever is larger. A track is never visible where the
    depth is unknown. Query pixels are those of ``trajs_2d``, which are rounded to float16 (0.5 pixels from 512 on).

    Args:
        root: Folder of the data set.
        split: "train", "val", "test" or "sample".
        z_far: Depth in meters beyond which depth counts as unknown; None keeps all depth. Other works use 80.

    Raises:
        UserError: If the split is missing or contains no sequences.
    """

    def __init__(self, root: str | Path, split: str = "train", z_far: float | None = None) -> None:
        self._folder = Path(root) / split
        self._z_far = MAX_DEPTH if z_far is None else z_far
        self._names = [path.name for path in list_folder(self._folder) if _is_sequence(path)]
        if not self._names:
            raise UserError(f"{self._folder} contains no sequences of Point Odyssey")

    def names(self) -> list[str]:
        """See `SequenceDataset.names`. All folders of the split are listed, even damaged ones."""
        return list(self._names)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`. This is the number of cameras in the annotation."""
        path = self._annotation_file(name)
        with data_errors(name, path), zipfile.ZipFile(path) as archive:
            return _count_frames(archive)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        clip = self._read_clip(name, frames)
        depths = self._read_depths(name, frames, clip.size)
        is_measured = (depths > 0) & (depths < MAX_DEPTH)
        path = self._annotation_file(name)
        stored = _read_annotation(name, path, frames)
        cameras = cameras_from_rounded(name, path, stored.cam_from_world, stored.intrinsics)
        trajectories = None
        if stored.tracks is not None:
            surface_depths = torch.where(is_measured, depths, torch.nan)
            trajectories = _trajectories(stored.tracks, stored.cam_from_world, surface_depths)
        return metric_sample(clip, cameras, depths, is_measured & (depths <= self._z_far), trajectories, anchors)

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
        """Read z in meters as stored; 0 and `MAX_DEPTH` are unknown."""
        paths = [self._folder / name / "depths" / f"depth_{frame:05d}.png" for frame in frames]
        steps = np.stack([read_map(name, path, ("uint16",), size) for path in paths])
        return torch.from_numpy(steps.astype(np.float64) / MAX_STORED_DEPTH * MAX_DEPTH).float()


@dataclass(frozen=True)
class _StoredTracks:
    """Tracks as stored; values may be NaN or infinite."""

    pixels: Float[Tensor, "time query 2"]
    points: Float[Tensor, "time query 3"]
    valid: Bool[Tensor, "time query"]
    visibility: Bool[Tensor, "time query"]


@dataclass(frozen=True)
class _StoredAnnotation:
    """Cameras and tracks as stored."""

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
    """Convert tracks in the stored world coordinates; visible only where the depths (NaN if unknown) confirm it."""
    valid = stored.valid & stored.points.isfinite().all(dim=-1) & stored.pixels.isfinite().all(dim=-1)
    points = torch.where(valid[..., None], stored.points, torch.zeros_like(stored.points))
    pixels = torch.where(valid[..., None], stored.pixels, torch.zeros_like(stored.pixels))

    # The stored, rounded matrices are used, because they match the stored points.
    z = (points @ cam_from_world[:, 2, :3, None])[..., 0] + cam_from_world[:, 2, 3, None]
    is_inside = (z > 0) & is_in_image(pixels, (depths.shape[1], depths.shape[2]))
    row, column = pixel_indices(pixels, (depths.shape[1], depths.shape[2]))
    surface = depths[torch.arange(depths.shape[0])[:, None], row, column]
    on_surface = (z - surface).abs() < (RELATIVE_DEPTH_TOLERANCE * z).clamp(min=3 * DEPTH_STEP)
    return Trajectories(points, pixels, valid, valid & stored.visibility & is_inside & on_surface)


def _read_annotation(name: str, path: Path, frames: Sequence[int]) -> _StoredAnnotation:
    with data_errors(name, path), zipfile.ZipFile(path) as archive:
        count = _count_frames(archive)
        intrinsics = _read_frames(archive, "intrinsics", (count, 3, 3), frames)
        cam_from_world = _read_frames(archive, "extrinsics", (count, 4, 4), frames)
        return _StoredAnnotation(
            intrinsics=torch.from_numpy(intrinsics).double(),
            cam_from_world=torch.from_numpy(cam_from_world).double(),
            tracks=_read_tracks(archive, count, frames),
        )


def _read_tracks(archive: zipfile.ZipFile, count: int, frames: Sequence[int]) -> _StoredTracks | None:
    shape = _array_shape(archive, "trajs_3d")
    if shape == ():
        return None
    queries = shape[1] if len(shape) == 3 else -1
    points = _read_frames(archive, "trajs_3d", (count, queries, 3), frames)
    pixels = _read_frames(archive, "trajs_2d", (count, queries, 2), frames)
    if "visibilities.npy" in archive.namelist():
        visibilities = _read_frames(archive, "visibilities", (count, queries), frames)
        valid, visibility = np.isin(visibilities, (0, 1)), visibilities == 1
    else:
        valid = _read_frames(archive, "valids", (count, queries), frames) != 0
        visibility = _read_frames(archive, "visibs", (count, queries), frames) != 0
    return _StoredTracks(
        pixels=torch.from_numpy(pixels).double(),
        points=torch.from_numpy(points).double(),
        valid=torch.from_numpy(valid),
        visibility=torch.from_numpy(visibility),
    )


def _count_frames(archive: zipfile.ZipFile) -> int:
    shape = _array_shape(archive, "intrinsics")
    if len(shape) != 3:
        raise ValueError(f"intrinsics have shape {shape}, wanted (frames, 3, 3)")
    return shape[0]


def _array_shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    with archive.open(f"{key}.npy") as stream:
        return _read_header(stream)[0]


def _read_frames(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], frames: Sequence[int]) -> np.ndarray:
    """Read selected frames of an array of a given shape, without loading gigabytes of other frames into memory."""
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
        for frame in sorted(set(frames)):  # forward only, because seeking backward decompresses from the beginning
            stream.seek(start + frame * frame_bytes)
            rows[frame] = np.frombuffer(stream.read(frame_bytes), dtype).reshape(shape[1:])
    return np.stack([rows[frame] for frame in frames])


def _read_header(stream: IO[bytes] | zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, order and type of the array that begins here; arrays of pickled objects are refused."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = readers[version](stream)
    if dtype.kind not in "fiub":
        raise ValueError(f"holds {dtype} rather than numbers")
    return shape, is_fortran, dtype
