"""Reader of Kubric's MOVi scenes (Greff et al. 2022) in the raw output format of its workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images, read_map
from recon4d.datasets.readers.sequence_paths import find_sequence_folders
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
    get_entry,
    parse_numbers,
    pinhole_matrix,
    read_json,
)
from recon4d.io.file_errors import data_errors
from recon4d.records import Clip, ClipSource

METADATA_FILE = "metadata.json"
FRAMES_PER_SECOND = 12.0
"""Kubric's default, for scenes whose metadata give no frame rate."""
MAX_DEPTH = 1000.0
"""Far clipping distance of Kubric's cameras in meters. Larger values (Blender writes 1e10) are unknown."""
MIN_TRANSLATION = 1e-3
"""Smallest translation between consecutive frames that counts as motion of an instance, in meters. Hand-tuned."""
MIN_ROTATION = 1e-3
"""Smallest rotation between consecutive frames that counts as motion of an instance, in radians. Hand-tuned."""
OPENCV_FROM_BLENDER = (1.0, -1.0, -1.0)
"""Diagonal of the rotation between Blender's camera axes (x right, y up, z backward) and OpenCV's; its own inverse."""


class Kubric(SequenceDataset):
    """Raw MOVi scenes: cameras, depth in meters and the dynamic mask of rigid objects, without tracks.

    A scene is a folder with a metadata.json and, for every frame, rgba_%05d.png, segmentation_%05d.png and
    depth_%05d.tiff. The stored depth is the Euclidean distance to the camera center; it is converted to z. Id k of the
    segmentation is the k-th instance of the metadata, and id 0 is the static background. An instance is dynamic in
    a frame if its pose differs from that in the previous or next frame.

    Args:
        root: A scene, or a folder of scenes.

    Raises:
        UserError: If there is no scene.
    """

    def __init__(self, root: str | Path) -> None:
        self.paths = find_sequence_folders(Path(root), METADATA_FILE)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(self._read_metadata(name).world_from_cam)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        folder, metadata = self.path(name), self._read_metadata(name)
        files = tuple(f"rgba_{frame:05d}.png" for frame in frames)
        images = read_images(name, [folder / file for file in files])
        size = (images.shape[-2], images.shape[-1])
        intrinsics = metadata.intrinsics(*size).expand(len(frames), 3, 3)
        cameras, _ = cameras_from_first(name, METADATA_FILE, metadata.world_from_cam[list(frames)], intrinsics)
        distances = [read_map(name, folder / f"depth_{frame:05d}.tiff", ("float32",), size) for frame in frames]
        depths = z_from_distance(torch.from_numpy(np.stack(distances)), cameras.intrinsics)
        dynamic = [
            _read_dynamic_mask(name, folder / f"segmentation_{frame:05d}.png", size, metadata.is_dynamic[:, frame])
            for frame in frames
        ]
        scene = ground_truth_scene(
            cameras, depths, is_valid_depth(depths), anchors=anchors, dynamic=torch.stack(dynamic), metres_per_unit=1.0
        )
        times = torch.tensor(frames, dtype=torch.float32) / metadata.frames_per_second
        return Sample(Clip(images, times, source=ClipSource(str(folder), files, tuple(frames))), scene)

    def _read_metadata(self, name: str) -> "_Metadata":
        folder = self.path(name)
        metadata = _read_metadata(name, folder / METADATA_FILE)
        num_images, num_cameras = len(list(folder.glob("rgba_*.png"))), len(metadata.world_from_cam)
        if num_images != num_cameras:
            raise DataError(name, METADATA_FILE, f"has {num_cameras} cameras for {num_images} images")
        return metadata


@dataclass(frozen=True)
class _Metadata:
    """Contents of a metadata.json, in OpenCV axes and meters."""

    world_from_cam: Float64[Tensor, "time 4 4"]
    focal_length: float
    """In the unit of `sensor_width`, millimeters."""
    sensor_width: float
    frames_per_second: float
    is_dynamic: Bool[Tensor, "instance time"]

    def intrinsics(self, height: int, width: int) -> Float64[Tensor, "3 3"]:
        """Compute the camera matrix for square pixels and a centered principal point."""
        focal = self.focal_length / self.sensor_width * width
        return pinhole_matrix(focal, focal, width / 2, height / 2)


def swap_blender_axes(world_from_cam: Float64[Tensor, "time 4 4"]) -> Float64[Tensor, "time 4 4"]:
    """Convert poses between Blender's camera axes (x right, y up, z backward) and OpenCV's, in either direction.

    Args:
        world_from_cam: Poses in one convention.

    Returns:
        Poses in the other convention.
    """
    return world_from_cam * world_from_cam.new_tensor([*OPENCV_FROM_BLENDER, 1.0])


def z_from_distance(
    distances: Float[Tensor, "time height width"], intrinsics: Float[Tensor, "time 3 3"]
) -> Float[Tensor, "time height width"]:
    """Convert Euclidean distances to z.

    Args:
        distances: Distances of the surface points to the camera center.
        intrinsics: Camera matrices in pixels.

    Returns:
        z in the camera frame, in the unit of the distances.
    """
    return distances / unproject_map(torch.ones_like(distances), intrinsics).norm(dim=-1)


def is_valid_depth(depths: Float[Tensor, "time height width"]) -> Bool[Tensor, "time height width"]:
    """Test whether Kubric's depth belongs to a surface.

    Args:
        depths: z in meters; may be infinite or NaN.

    Returns:
        True for values above 0 and up to `MAX_DEPTH`.
    """
    return (depths > 0) & (depths <= MAX_DEPTH)


def _read_metadata(name: str, path: Path) -> _Metadata:
    stored = read_json(name, path)
    camera = get_entry(name, path.name, stored, "camera")
    centers = parse_numbers(name, path.name, get_entry(name, path.name, camera, "positions"), (None, 3))
    count = len(centers)
    quaternions = _parse_quaternions(name, path.name, get_entry(name, path.name, camera, "quaternions"), count)
    focal, sensor = (
        float(parse_numbers(name, path.name, get_entry(name, path.name, camera, key), ()))
        for key in ("focal_length", "sensor_width")
    )
    if count == 0 or focal <= 0 or sensor <= 0:
        reason = f"its camera has {count} positions, focal_length {focal} and sensor_width {sensor}; wanted all above 0"
        raise DataError(name, path.name, reason)
    instances = get_entry(name, path.name, stored, "instances")
    if not isinstance(instances, list):
        raise DataError(name, path.name, "its instances are not a list")
    is_dynamic = [_is_dynamic(name, path.name, instance, count) for instance in instances]
    return _Metadata(
        world_from_cam=swap_blender_axes(rigid(rotation_from_quaternion(quaternions), centers)),
        focal_length=focal,
        sensor_width=sensor,
        frames_per_second=_frames_per_second(name, path.name, stored),
        is_dynamic=torch.stack(is_dynamic) if is_dynamic else torch.zeros(0, count, dtype=torch.bool),
    )


def _frames_per_second(name: str, file: str, stored: dict) -> float:
    """Look up the frame rate, which some Kubric workers write into `metadata` and others into `flags`."""
    for section in (stored.get("metadata"), stored.get("flags")):
        if isinstance(section, dict) and "frame_rate" in section:
            rate = float(parse_numbers(name, file, section["frame_rate"], ()))
            if rate <= 0:
                raise DataError(name, file, f"its frame_rate is {rate}, wanted a value above 0")
            return rate
    return FRAMES_PER_SECOND


def _parse_quaternions(name: str, file: str, values: object, count: int) -> Float64[Tensor, "time 4"]:
    quaternions = parse_numbers(name, file, values, (count, 4))
    if (quaternions.norm(dim=-1) < 0.5).any():
        raise DataError(name, file, "holds a quaternion that is not of length 1")
    return quaternions


def _is_dynamic(name: str, file: str, instance: object, count: int) -> Bool[Tensor, "time"]:
    """Compare an instance's pose in each frame with those in the previous and next frame."""
    positions = parse_numbers(name, file, get_entry(name, file, instance, "positions"), (count, 3))
    quaternions = _parse_quaternions(name, file, get_entry(name, file, instance, "quaternions"), count)
    rotations = rotation_from_quaternion(quaternions)
    is_rotated = rotation_angle(rotations[:-1].transpose(-1, -2) @ rotations[1:]) > MIN_ROTATION
    is_changed = is_rotated | (positions.diff(dim=0).norm(dim=-1) > MIN_TRANSLATION)
    unchanged = torch.zeros(1, dtype=torch.bool)
    return torch.cat([is_changed, unchanged]) | torch.cat([unchanged, is_changed])


def _read_dynamic_mask(
    name: str, path: Path, size: tuple[int, int], is_dynamic: Bool[Tensor, "instance"]
) -> Float[Tensor, "height width"]:
    """Read a segmentation as a mask of the dynamic instances, with values 0 and 1."""
    ids = _read_ids(name, path, size)
    if ids.max() > len(is_dynamic):
        raise DataError(name, path.name, f"shows instance {ids.max()}, but the metadata have {len(is_dynamic)}")
    is_dynamic_by_id = np.concatenate([[False], is_dynamic.numpy()])
    return torch.from_numpy(is_dynamic_by_id[ids].astype(np.float32))


def _read_ids(name: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read the instance ids of a segmentation, which Kubric stores as palette indices."""
    palette = _read_palette(name, path)
    if palette is None:
        return read_map(name, path, ("uint8", "uint16"), size)
    colors = read_map(name, path, ("uint8",), (*size, 3)).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    index_of_color = np.zeros(1 << 24, dtype=np.uint8)
    # In reverse order, so that the first index wins: palettes are padded with black, the color of the background.
    index_of_color[palette[::-1]] = np.arange(len(palette))[::-1]
    return index_of_color[colors]


def _read_palette(name: str, path: Path) -> np.ndarray | None:
    """Read the palette of a PNG as 24-bit colors, shape (n,); None if the file has no palette or is not a PNG."""
    with data_errors(name, path):
        stored = path.read_bytes()
    start = 8  # after the signature, followed by chunks of length, type, data and checksum
    while start + 8 <= len(stored):
        length, kind = int.from_bytes(stored[start : start + 4], "big"), stored[start + 4 : start + 8]
        if kind == b"PLTE":
            flat = np.frombuffer(stored[start + 8 : start + 8 + length - length % 3], dtype=np.uint8)
            return flat.reshape(-1, 3).astype(np.int64) @ [1 << 16, 1 << 8, 1]
        if kind == b"IDAT":
            return None
        start += 12 + length
    return None
