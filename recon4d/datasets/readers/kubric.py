"""Kubric's MOVi scenes as its workers leave them: pictures, distances, ids and a metadata.json in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
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
from recon4d.geometry import (
    rigid,
    rotation_angle,
    rotation_from_quaternion,
    unproject_map,
)
from recon4d.io.checked_values import (
    entry,
    numbers,
    pinhole_matrix,
    read_json,
)
from recon4d.records import Clip, ClipSource

FRAMES_PER_SECOND = 12.0
"""Kubric's own default, for scenes whose metadata do not say."""
FARTHEST = 1000.0
"""Meters: Kubric's cameras render no farther, and what lies behind (Blender writes 1e10) is unknown."""
MOVING_METERS = 1e-3
MOVING_RADIANS = 1e-3
"""An instance moves in a frame when it goes or turns by more from one of the frames beside it."""
OPENCV_FROM_BLENDER = (1.0, -1.0, -1.0)
"""Blender's cameras look along -z with y up; the signs are their own inverse."""


class Kubric(SequenceDataset):
    """Raw MOVi scenes: cameras, depth and the moving mask of rigid objects; no tracks.

    Each subfolder of `root` with a metadata.json is a scene of rgba_%05d.png, segmentation_%05d.png and
    depth_%05d.tiff. The latter hold Euclidean distances to the camera's center, which are answered as z. Id k of the
    segmentation is the k-th entry of the metadata's instances, 0 the background, which is still.
    """

    def __init__(self, root: str | Path) -> None:
        self.folders = folders_with(Path(root), "metadata.json")

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(self._metadata(name).world_from_cam)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        folder, metadata = folder_of(self.folders, name), self._metadata(name)
        files = tuple(f"rgba_{frame:05d}.png" for frame in frames)
        images = read_images(name, [folder / file for file in files])
        size = (images.shape[-2], images.shape[-1])
        intrinsics = metadata.intrinsics(*size).expand(len(frames), 3, 3)
        cameras, _ = cameras_from_first(name, "metadata.json", metadata.world_from_cam[list(frames)], intrinsics)
        distances = [read_map(name, folder / f"depth_{frame:05d}.tiff", ("float32",), size) for frame in frames]
        depths = z_from_distance(torch.from_numpy(np.stack(distances)), cameras.intrinsics)
        moving = [_moving(name, folder / f"segmentation_{i:05d}.png", size, metadata.moves[:, i]) for i in frames]
        scene = ground_truth_scene(
            cameras, depths, is_known(depths), anchors=anchors, dynamic=torch.stack(moving), metres_per_unit=1.0
        )
        times = torch.tensor(frames, dtype=torch.float32) / metadata.frames_per_second
        return Sample(Clip(images, times, source=ClipSource(str(folder), files, tuple(frames))), scene)

    def _metadata(self, name: str) -> "_Metadata":
        folder = folder_of(self.folders, name)
        metadata = _read_metadata(name, folder / "metadata.json")
        pictures, cameras = len(list(folder.glob("rgba_*.png"))), len(metadata.world_from_cam)
        if pictures != cameras:
            raise DataError(name, "metadata.json", f"has {cameras} cameras for {pictures} pictures")
        return metadata


@dataclass(frozen=True)
class _Metadata:
    """What a metadata.json says, in OpenCV axes and meters; `moves` is (instances, frames)."""

    world_from_cam: Float64[Tensor, "time 4 4"]
    focal_length: float
    sensor_width: float
    frames_per_second: float
    moves: Bool[Tensor, "instance time"]

    def intrinsics(self, height: int, width: int) -> Float64[Tensor, "3 3"]:
        """Square pixels about the middle of the picture: the height of the sensor follows that of the picture."""
        focal = self.focal_length / self.sensor_width * width
        return pinhole_matrix(focal, focal, width / 2, height / 2)


def blender_cameras(world_from_cam: Float64[Tensor, "time 4 4"]) -> Float64[Tensor, "time 4 4"]:
    """``world_from_cam`` of Blender's camera axes (x right, y up, z backward) in OpenCV's; and back again."""
    return world_from_cam * world_from_cam.new_tensor([*OPENCV_FROM_BLENDER, 1.0])


def z_from_distance(
    distances: Float[Tensor, "time height width"], intrinsics: Float[Tensor, "time 3 3"]
) -> Float[Tensor, "time height width"]:
    """z of Euclidean distances to the camera's center."""
    return distances / unproject_map(torch.ones_like(distances), intrinsics).norm(dim=-1)


def is_known(depths: Float[Tensor, "time height width"]) -> Bool[Tensor, "time height width"]:
    """Where Kubric's depth means a surface: in front of the camera and no farther than it renders (NaN is neither)."""
    return (depths > 0) & (depths <= FARTHEST)


def _read_metadata(name: str, path: Path) -> _Metadata:
    stored = read_json(name, path)
    camera = entry(name, path.name, stored, "camera")
    centers = numbers(name, path.name, entry(name, path.name, camera, "positions"), (None, 3))
    count = len(centers)
    quaternions = _quaternions(name, path.name, entry(name, path.name, camera, "quaternions"), count)
    focal, sensor = (
        float(numbers(name, path.name, entry(name, path.name, camera, key), ()))
        for key in ("focal_length", "sensor_width")
    )
    if count == 0 or focal <= 0 or sensor <= 0:
        raise DataError(name, path.name, f"its camera has {count} positions, focal length {focal}, sensor {sensor}")
    instances = entry(name, path.name, stored, "instances")
    if not isinstance(instances, list):
        raise DataError(name, path.name, "its instances are no list")
    moves = [_moves(name, path.name, instance, count) for instance in instances]
    return _Metadata(
        world_from_cam=blender_cameras(rigid(rotation_from_quaternion(quaternions), centers)),
        focal_length=focal,
        sensor_width=sensor,
        frames_per_second=_frames_per_second(name, path.name, stored),
        moves=torch.stack(moves) if moves else torch.zeros(0, count, dtype=torch.bool),
    )


def _frames_per_second(name: str, file: str, stored: dict) -> float:
    """Kubric's workers write the rate into `metadata`, and those with flags into `flags` too."""
    for section in (stored.get("metadata"), stored.get("flags")):
        if isinstance(section, dict) and "frame_rate" in section:
            rate = float(numbers(name, file, section["frame_rate"], ()))
            if rate <= 0:
                raise DataError(name, file, f"its frame_rate is {rate}")
            return rate
    return FRAMES_PER_SECOND


def _quaternions(name: str, file: str, values: object, count: int) -> Float64[Tensor, "time 4"]:
    quaternions = numbers(name, file, values, (count, 4))
    if (quaternions.norm(dim=-1) < 0.5).any():
        raise DataError(name, file, "holds a quaternion that is not of length 1")
    return quaternions


def _moves(name: str, file: str, instance: object, count: int) -> Bool[Tensor, "time"]:
    """In which frames an instance goes or turns, by the frames before and after."""
    positions = numbers(name, file, entry(name, file, instance, "positions"), (count, 3))
    quaternions = _quaternions(name, file, entry(name, file, instance, "quaternions"), count)
    rotations = rotation_from_quaternion(quaternions)
    turned = rotation_angle(rotations[:-1].transpose(-1, -2) @ rotations[1:]) > MOVING_RADIANS
    stepped = turned | (positions.diff(dim=0).norm(dim=-1) > MOVING_METERS)
    still = torch.zeros(1, dtype=torch.bool)
    return torch.cat([stepped, still]) | torch.cat([still, stepped])


def _moving(
    name: str, path: Path, size: tuple[int, int], moves: Bool[Tensor, "instance"]
) -> Float[Tensor, "height width"]:
    """1 where a segmentation shows an instance that moves, 0 elsewhere."""
    ids = _read_ids(name, path, size)
    if ids.max() > len(moves):
        raise DataError(name, path.name, f"shows instance {ids.max()} of {len(moves)}")
    moves_by_id = np.concatenate([[False], moves.numpy()])
    return torch.from_numpy(moves_by_id[ids].astype(np.float32))


def _read_ids(name: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """The ids of a segmentation, which Kubric stores as places in a palette."""
    palette = _palette(path)
    if palette is None:
        return read_map(name, path, ("uint8", "uint16"), size)
    colors = read_map(name, path, ("uint8",), (*size, 3)).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    places = np.zeros(1 << 24, dtype=np.uint8)
    # Backwards: palettes are padded with black, which is the background's color too.
    places[palette[::-1]] = np.arange(len(palette))[::-1]
    return places[colors]


def _palette(path: Path) -> np.ndarray | None:
    """The colors (n, as 24-bit numbers) of a PNG's palette; None where it has none or is no PNG."""
    stored = path.read_bytes() if path.is_file() else b""
    start = 8  # after the signature; then chunks of length, type, data and checksum
    while start + 8 <= len(stored):
        length, kind = int.from_bytes(stored[start : start + 4], "big"), stored[start + 4 : start + 8]
        if kind == b"PLTE":
            flat = np.frombuffer(stored[start + 8 : start + 8 + length - length % 3], dtype=np.uint8)
            return flat.reshape(-1, 3).astype(np.int64) @ [1 << 16, 1 << 8, 1]
        if kind == b"IDAT":
            return None
        start += 12 + length
    return None
