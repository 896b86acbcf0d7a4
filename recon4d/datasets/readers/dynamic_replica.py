"""Reader of Dynamic Replica (Karaev et al. 2023): rendered stereo videos with cameras, depth and 3D tracks.

``<root>/<split>/frame_annotations_<split>.jgz`` lists every frame and the paths of its files, relative to
``<root>/<split>``. Only the left camera is read, because the right camera has no tracks.

Format:

- Depth is z: a 16-bit PNG whose bits are those of a float16 number, multiplied by ``scale_adjustment``. Values that are
  not finite or not above 0 are unknown.
- Cameras are PyTorch3D's: row vectors, x to the left, y up. OpenCV's cam_from_world is [D R^T | D T] with
  D = diag(-1, -1, 1).
- The principal point is in normalized coordinates that are 1 at the left and upper edge of the image. Half the size
  minus it is a pixel coordinate for which the center of the first pixel is (0.5, 0.5), so no half pixel is subtracted.
- Tracks are one file of tensors per frame, with the same points in the same order. The files are read without
  executing pickled code.
- Masks, flow and instances are not read. The dynamic probability is unknown (NaN).
"""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from recon4d.datasets.readers.assembly import metric_sample
from recon4d.datasets.readers.cameras import cameras_from_rounded
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.sample import Sample, Trajectories
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import is_in_image, rigid
from recon4d.io.checked_values import get_entry, parse_numbers
from recon4d.io.confined_paths import confined_path
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 30
"""Frame rate of frames without a time."""
OPENCV_FROM_PYTORCH3D = (-1.0, -1.0, 1.0)
"""Diagonal of the rotation between PyTorch3D's camera axes (x left, y up) and OpenCV's; its own inverse."""

_TRACK_KEYS = ("traj_3d_world", "traj_2d", "verts_inds_vis")


class DynamicReplica(SequenceDataset):
    """The sequences of one split from the left camera, in meters.

    Frames are counted in the order of their numbers, which may have gaps. A track is visible in a frame if it is marked
    as visible, finite, inside the image and in front of the camera.

    Args:
        root: Folder of the data set.
        split: "train", "valid" or "test".

    Raises:
        UserError: If the annotation of the split is missing, damaged or lists no frames of a left camera.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self._folder = Path(root) / split
        self._file = annotation_file(self._folder)
        if not self._file.exists():
            raise UserError(f"{self._file} does not exist; wanted the annotation of a split of Dynamic Replica")
        self._frames: dict[str, list[dict[str, Any]]] = {}
        for frame in read_annotation(split, self._file):
            _frame_number(split, self._file, frame)
            sequence = str(get_entry(split, str(self._file), frame, "sequence_name"))
            if get_entry(split, str(self._file), frame, "camera_name") == "left":
                self._frames.setdefault(sequence, []).append(frame)
        for frames in self._frames.values():
            frames.sort(key=lambda frame: frame["frame_number"])
        if not self._frames:
            raise UserError(f"{self._file} lists no frames of a left camera")

    def names(self) -> list[str]:
        """See `SequenceDataset.names`. Only sequences with a left camera are listed."""
        return sorted(self._frames)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`. All annotated frames count, even if their files are missing."""
        if name not in self._frames:
            raise DataError(name, self._file, "lists no such sequence with a left camera")
        return len(self._frames[name])

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        parsed = [_parse_frame(name, self._file, self._frames[name][frame]) for frame in frames]
        clip = Clip(
            images=read_images(name, [frame.image for frame in parsed]),
            times=torch.tensor([frame.time for frame in parsed], dtype=torch.float64).float(),
            source=ClipSource(str(self._folder / name), tuple(frame.image.name for frame in parsed), tuple(frames)),
        )
        for frame in parsed:
            if frame.size != clip.size:
                reason = f"has size {clip.size} (height, width), but the annotation says {frame.size}"
                raise DataError(name, frame.image, reason)
        depths = torch.stack([_read_depths(name, frame) for frame in parsed])
        cam_from_world = torch.stack([frame.cam_from_world for frame in parsed])
        intrinsics = torch.stack([frame.intrinsics for frame in parsed])
        cameras = cameras_from_rounded(name, self._file, cam_from_world, intrinsics)
        trajectories = self._read_trajectories(name, parsed, cam_from_world)
        return metric_sample(clip, cameras, depths, torch.isfinite(depths) & (depths > 0), trajectories, anchors)

    def _read_trajectories(
        self, name: str, frames: list["_Frame"], cam_from_world: Float[Tensor, "time 4 4"]
    ) -> Trajectories | None:
        """Read the tracks of the frames in the stored world coordinates; None if no frame has tracks."""
        paths = [frame.trajectories for frame in frames]
        if all(path is None for path in paths):
            return None
        if any(path is None for path in paths):
            raise DataError(name, self._file, "lists trajectories for some of the requested frames, but not for all")
        stored = [_read_points(name, path) for path in paths if path is not None]
        for path, (points, _, _) in zip(paths, stored, strict=True):
            if points.shape != stored[0][0].shape:
                reason = f"holds {len(points)} points, but the first frame {len(stored[0][0])}"
                raise DataError(name, str(path), reason)
        points, pixels, visibility = (torch.stack(values) for values in zip(*stored, strict=True))

        valid = points.isfinite().all(dim=-1) & pixels.isfinite().all(dim=-1)
        points = torch.where(valid[..., None], points, torch.zeros_like(points))
        pixels = torch.where(valid[..., None], pixels, torch.zeros_like(pixels))
        z = (points @ cam_from_world[:, 2, :3, None])[..., 0] + cam_from_world[:, 2, 3, None]
        return Trajectories(points, pixels, valid, valid & visibility & (z > 0) & is_in_image(pixels, frames[0].size))


def annotation_file(folder: Path) -> Path:
    """Return the path of the annotation of a split.

    Args:
        folder: Folder of the split.

    Returns:
        Path of the compressed JSON file that lists the frames.
    """
    return folder / f"frame_annotations_{folder.name}.jgz"


def read_annotation(split: str, path: Path) -> list[dict[str, Any]]:
    """Read the annotation of a split.

    Args:
        split: Name of the split, for error messages.
        path: The annotation file.

    Returns:
        The listed frames, as stored.

    Raises:
        DataError: If the file is missing, damaged or not a list of frames.
    """
    with data_errors(split, path), gzip.open(path, "rt", encoding="utf8") as file:
        frames = json.load(file)
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(split, path, "does not hold a list of frames")
    return frames


@dataclass(frozen=True)
class _Frame:
    """One annotated frame in the conventions of this package."""

    image: Path
    size: tuple[int, int]
    """Height and width."""
    time: float
    """In seconds."""
    depths: Path
    depth_scale: float
    cam_from_world: Float64[Tensor, "4 4"]
    intrinsics: Float64[Tensor, "3 3"]
    trajectories: Path | None


def _frame_number(name: str, file: Path, frame: dict[str, Any]) -> int:
    number = get_entry(name, str(file), frame, "frame_number")
    if not isinstance(number, int):
        raise DataError(name, file, f"has frame_number {number!r}, wanted an integer")
    return number


def _parse_frame(name: str, file: Path, frame: dict[str, Any]) -> _Frame:
    """Convert an entry of the annotation; raise `DataError` if it is not what the format requires."""
    height, width = (int(side) for side in _numbers(name, file, frame, ("image", "size"), 2))
    seconds, trajectories = frame.get("frame_timestamp"), frame.get("trajectories")
    if seconds is None:
        time = _frame_number(name, file, frame) / FRAMES_PER_SECOND
    else:
        time = float(parse_numbers(name, str(file), seconds, ()))
    has_trajectories = trajectories and (not isinstance(trajectories, dict) or trajectories.get("path"))
    return _Frame(
        image=_path(name, file, frame, "image"),
        size=(height, width),
        time=time,
        depths=_path(name, file, frame, "depth"),
        depth_scale=_depth_scale(name, file, frame),
        cam_from_world=_opencv_cam_from_world(name, file, frame),
        intrinsics=_intrinsics(name, file, frame, height, width),
        trajectories=_path(name, file, frame, "trajectories") if has_trajectories else None,
    )


def _numbers(
    name: str, file: Path, frame: dict[str, Any], keys: tuple[str, ...], count: int
) -> Float64[Tensor, " count"]:
    """Look up a list of finite numbers, nested or flat."""
    stored = get_entry(name, str(file), frame, *keys)
    with data_errors(name, file):
        flat = np.array(stored, dtype=np.float64).reshape(count)
    return parse_numbers(name, str(file), flat, (count,))


def _path(name: str, file: Path, frame: dict[str, Any], kind: str) -> Path:
    path = get_entry(name, str(file), frame, kind, "path")
    return confined_path(file.parent, str(path), file, name)


def _depth_scale(name: str, file: Path, frame: dict[str, Any]) -> float:
    scale = get_entry(name, str(file), frame, "depth", "scale_adjustment")
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise DataError(name, file, f"has scale_adjustment {scale}, wanted a finite number")
    return float(scale)


def _opencv_cam_from_world(name: str, file: Path, frame: dict[str, Any]) -> Float64[Tensor, "4 4"]:
    """Convert x_pytorch3d = x_world R + T, with row vectors, to [D R^T | D T]."""
    flip = torch.tensor(OPENCV_FROM_PYTORCH3D, dtype=torch.float64)
    rotation = _numbers(name, file, frame, ("viewpoint", "R"), 9).reshape(3, 3)
    translation = _numbers(name, file, frame, ("viewpoint", "T"), 3)
    return rigid(flip[:, None] * rotation.T, flip * translation)


def _intrinsics(name: str, file: Path, frame: dict[str, Any], height: int, width: int) -> Float64[Tensor, "3 3"]:
    """Convert normalized intrinsics.

    The unit is half the shorter side (``ndc_isotropic``) or half of each side (``ndc_norm_image_bounds``).
    """
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    units = {"ndc_isotropic": half.min().expand(2), "ndc_norm_image_bounds": half}
    unit = str(get_entry(name, str(file), frame, "viewpoint", "intrinsics_format")).lower()
    if unit not in units:
        raise DataError(name, file, f"has intrinsics in {unit!r}, wanted {' or '.join(units)}")
    focal = _numbers(name, file, frame, ("viewpoint", "focal_length"), 2) * units[unit]
    # Normalized coordinates are 1 at the edge of the image, not at the center of the outermost pixel.
    center = half - _numbers(name, file, frame, ("viewpoint", "principal_point"), 2) * units[unit]
    intrinsics = torch.diag(torch.cat([focal, torch.ones(1, dtype=torch.float64)]))
    intrinsics[:2, 2] = center
    return intrinsics


def _read_depths(name: str, frame: _Frame) -> Float[Tensor, "height width"]:
    """Read z in meters; stored values that are not finite stay so."""
    bits = read_map(name, frame.depths, ("uint16",), frame.size)
    return torch.from_numpy(bits.view(np.float16).astype(np.float32)) * frame.depth_scale


def _read_points(
    name: str, path: Path
) -> tuple[Float64[Tensor, "query 3"], Float64[Tensor, "query 2"], Bool[Tensor, " query"]]:
    """Read world points, pixels and visibility of one frame."""
    with data_errors(name, path):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    stored = loaded if isinstance(loaded, dict) else {}
    found = [stored[key] for key in _TRACK_KEYS if isinstance(stored.get(key), Tensor)]
    if len(found) != len(_TRACK_KEYS):
        raise DataError(name, path, f"does not hold a dictionary of tensors {', '.join(_TRACK_KEYS)}")
    points, pixels, visibility = found
    count = len(points) if points.ndim else -1
    if points.shape != (count, 3) or pixels.shape not in ((count, 3), (count, 2)) or visibility.shape != (count,):
        shapes = ", ".join(str(tuple(values.shape)) for values in found)
        reason = f"holds points, pixels and visibility of shapes {shapes}; wanted (N, 3), (N, 3) and (N,)"
        raise DataError(name, path, reason)
    return points.double(), pixels[:, :2].double(), visibility.bool()
