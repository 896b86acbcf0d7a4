"""Dynamic Replica (Karaev et al. 2023): rendered stereo videos with cameras, depth and 3D tracks, the left eye of them.

``<root>/<split>/frame_annotations_<split>.jgz`` lists every frame and the paths of its files, relative to
``<root>/<split>``. The right camera is there for stereo, has no tracks, and is not read.

What is stored, and what is made of it:

- Depth is z: a PNG of sixteen bits which are those of a float16 number, to be multiplied by ``scale_adjustment``. What
  is not finite, or not above 0, is unknown.
- Cameras are PyTorch3D's: row vectors, x to the left, y up. OpenCV's cam_from_world is [D R^T | D T] with
  D = diag(-1, -1, 1).
- Their principal point is in normalized coordinates that are 1 at the picture's left and upper *edge*, so half the
  size minus it is continuous already, with the first pixel's center at (0.5, 0.5): no half pixel is taken away.
- Tracks are one file of tensors a frame, the same points in the same order in each. They are read as tensors and
  nothing else: a file that needs more of pickle is refused unopened.
- Masks, flow and instances are not read. Nothing says what moves.
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
from jaxtyping import Float
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
from recon4d.errors import DataError
from recon4d.geometry import rigid
from recon4d.io.file_errors import blamed_on
from recon4d.records import Clip, ClipSource

OPENCV_FROM_PYTORCH3D = (-1.0, -1.0, 1.0)
"""The diagonal of the matrix that turns x left, y up, z forward into x right, y down, z forward, or back."""

_TRACK_KEYS = ("traj_3d_world", "traj_2d", "verts_inds_vis")


class DynamicReplica(SequenceDataset):
    """The sequences of one split (train, valid or test) below `root`, seen by the left camera, in meters.

    A track is visible in a frame where it is said to be, is finite, lies in the picture and in front of the camera.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self._folder = Path(root) / split
        self._file = annotation_file(self._folder)
        if not self._file.exists():
            raise FileNotFoundError(f"{self._file} does not exist; wanted the annotation of a Dynamic Replica split")
        self._frames: dict[str, list[dict[str, Any]]] = {}
        with blamed_on(split, self._file):
            for frame in read_annotation(self._file):
                if frame["camera_name"] == "left":
                    self._frames.setdefault(frame["sequence_name"], []).append(frame)
            for frames in self._frames.values():
                frames.sort(key=lambda frame: frame["frame_number"])
        if not self._frames:
            raise ValueError(f"{self._file} lists no frames of a left camera")

    def names(self) -> list[str]:
        """The sequences that the annotation lists with a left camera."""
        return sorted(self._frames)

    def num_frames(self, name: str) -> int:
        """How many frames of the left camera the annotation lists, whether their files are there or not."""
        if name not in self._frames:
            raise DataError(name, self._file, "lists no such sequence with a left camera")
        return len(self._frames[name])

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """The clip of these frames, counted in the order of their numbers, and its truth in meters.

        Every track is a query of every anchor. Errors as in `Sequences.read`, and `DataError` for frames beyond the
        last.
        """
        check_long_enough(name, self._file, self.num_frames(name), frames)
        self.check_frames(name, frames, anchors)
        with blamed_on(name, self._file):
            chosen = [_parse(self._folder, self._frames[name][frame]) for frame in frames]

        clip = Clip(
            images=read_images(name, [frame.image for frame in chosen]),
            times=torch.tensor([frame.time for frame in chosen], dtype=torch.float64).float(),
            source=ClipSource(str(self._folder / name), tuple(frame.image.name for frame in chosen), tuple(frames)),
        )
        for frame in chosen:
            if frame.size != clip.size:
                raise DataError(name, frame.image, f"is {clip.size} (height, width), its annotation says {frame.size}")
        depths = torch.stack([_read_depths(name, frame) for frame in chosen])
        cam_from_world = torch.stack([frame.cam_from_world for frame in chosen])
        cameras = rounded_cameras(name, self._file, cam_from_world, torch.stack([frame.intrinsics for frame in chosen]))
        trajectories = self._read_trajectories(name, chosen, cam_from_world)
        return metric_sample(clip, cameras, depths, torch.isfinite(depths) & (depths > 0), trajectories, anchors)

    def _read_trajectories(
        self, name: str, chosen: list["_Frame"], cam_from_world: Float[Tensor, "time 4 4"]
    ) -> Trajectories | None:
        """The tracks of the chosen frames in the stored world; None where none of them has any."""
        paths = [frame.trajectories for frame in chosen]
        if all(path is None for path in paths):
            return None
        if any(path is None for path in paths):
            raise DataError(name, self._file, "gives trajectories to some of the frames asked for, not to all")
        stored = [_read_points(name, path) for path in paths if path is not None]
        for path, (points, _, _) in zip(paths, stored, strict=True):
            if points.shape != stored[0][0].shape:
                raise DataError(name, str(path), f"holds {len(points)} points, the first frame {len(stored[0][0])}")
        points, pixels, visible = (torch.stack(values) for values in zip(*stored, strict=True))

        exists = points.isfinite().all(dim=-1) & pixels.isfinite().all(dim=-1)
        points = torch.where(exists[..., None], points, torch.zeros_like(points))
        pixels = torch.where(exists[..., None], pixels, torch.zeros_like(pixels))
        z = (points @ cam_from_world[:, 2, :3, None])[..., 0] + cam_from_world[:, 2, 3, None]
        return Trajectories(points, pixels, exists, exists & visible & in_view(pixels, z, chosen[0].size))


def annotation_file(folder: Path) -> Path:
    """Where the frames of the split in `folder` are listed."""
    return folder / f"frame_annotations_{folder.name}.jgz"


def read_annotation(path: Path) -> list[dict[str, Any]]:
    """The frames listed in `path`, as they stand there. Raises ``OSError``, ``EOFError`` or ``ValueError``."""
    with gzip.open(path, "rt", encoding="utf8") as file:
        frames = json.load(file)
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError("holds no list of frames")
    return frames


@dataclass(frozen=True)
class _Frame:
    """One annotated frame, in the terms of this house."""

    image: Path
    size: tuple[int, int]
    time: float
    depths: Path
    depth_scale: float
    cam_from_world: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    trajectories: Path | None


def _parse(folder: Path, frame: dict[str, Any]) -> _Frame:
    height, width = frame["image"]["size"]
    seconds, stored = frame.get("frame_timestamp"), frame.get("trajectories") or {}
    viewpoint = frame["viewpoint"]
    return _Frame(
        image=_inside(folder, frame["image"]["path"]),
        size=(int(height), int(width)),
        time=float(frame["frame_number"] / FRAMES_PER_SECOND if seconds is None else seconds),
        depths=_inside(folder, frame["depth"]["path"]),
        depth_scale=float(frame["depth"]["scale_adjustment"]),
        cam_from_world=_opencv_cam_from_world(viewpoint),
        intrinsics=_intrinsics(viewpoint, int(height), int(width)),
        trajectories=_inside(folder, stored["path"]) if stored.get("path") else None,
    )


def _inside(folder: Path, path: str) -> Path:
    """A path of the annotation, which must not lead out of the split."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"names {path!r}, wanted a path below its own folder")
    return folder / path


def _opencv_cam_from_world(viewpoint: dict[str, Any]) -> Float[Tensor, "4 4"]:
    """From x_pytorch3d = x_world R + T, a row vector: [D R^T | D T]."""
    flip = torch.tensor(OPENCV_FROM_PYTORCH3D, dtype=torch.float64)
    rotation = torch.tensor(viewpoint["R"], dtype=torch.float64).reshape(3, 3)
    translation = torch.tensor(viewpoint["T"], dtype=torch.float64).reshape(3)
    return rigid(flip[:, None] * rotation.T, flip * translation)


def _intrinsics(viewpoint: dict[str, Any], height: int, width: int) -> Float[Tensor, "3 3"]:
    """Normalized units are half the shorter side (``ndc_isotropic``) or half of each (``ndc_norm_image_bounds``)."""
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    units = {"ndc_isotropic": half.min().expand(2), "ndc_norm_image_bounds": half}
    name = str(viewpoint["intrinsics_format"]).lower()
    if name not in units:
        raise ValueError(f"has intrinsics in {name!r}, wanted {' or '.join(units)}")
    focal = torch.tensor(viewpoint["focal_length"], dtype=torch.float64).reshape(2) * units[name]
    # Continuous: the normalized coordinates are 1 at the picture's edge, not at the outermost pixel's center.
    center = half - torch.tensor(viewpoint["principal_point"], dtype=torch.float64).reshape(2) * units[name]
    intrinsics = torch.diag(torch.cat([focal, torch.ones(1, dtype=torch.float64)]))
    intrinsics[:2, 2] = center
    return intrinsics


def _read_depths(name: str, frame: _Frame) -> Float[Tensor, "height width"]:
    """z in meters, not finite where the file is not."""
    if not math.isfinite(frame.depth_scale):
        raise DataError(name, frame.depths, f"has scale_adjustment {frame.depth_scale}, wanted a number")
    bits = read_sixteen_bits(name, frame.depths, frame.size)
    return torch.from_numpy(bits.view(np.float16).astype(np.float32)) * frame.depth_scale


def _read_points(name: str, path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """World points (N, 3) and pixels (N, 2) in float64, and whether each is visible (N,)."""
    with blamed_on(name, path):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        stored = loaded if isinstance(loaded, dict) else {}
        found = [stored[key] for key in _TRACK_KEYS if isinstance(stored.get(key), Tensor)]
        if len(found) != len(_TRACK_KEYS):
            raise ValueError(f"holds no dictionary of tensors {', '.join(_TRACK_KEYS)}")
        points, pixels, visible = found
        count = len(points)
        if points.shape != (count, 3) or pixels.shape not in ((count, 3), (count, 2)) or visible.shape != (count,):
            shapes = [tuple(values.shape) for values in (points, pixels, visible)]
            raise ValueError(f"holds points, pixels and visibility of shapes {shapes}, wanted (N, 3), (N, 3) and (N,)")
        return points.double(), pixels[:, :2].double(), visible.bool()
