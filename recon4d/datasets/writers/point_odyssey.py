"""Writer of samples in the layout of Point Odyssey.

Masks, normals and the preview video are not written, because `PointOdyssey` does not read them. World coordinates are
those of the sample, in meters if the sample knows the length of its unit. Times are not stored: the format has a fixed
rate of 30 frames per second.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.readers.point_odyssey import MAX_DEPTH, MAX_STORED_DEPTH
from recon4d.datasets.sample import Sample
from recon4d.datasets.writers.metric_scene import metric_scene
from recon4d.errors import os_errors_as_user_errors
from recon4d.geometry import is_in_image, project, transform_points
from recon4d.io import write_jpeg, write_raster
from recon4d.records import Scene, Tracks

JPEG_QUALITY = 97
"""Hand-tuned."""
SENSOR_WIDTH = 36.0
"""Sensor width of the release, which is Blender's default, in millimeters."""


def write_point_odyssey(root: str | Path, split: str, name: str, sample: Sample) -> None:
    """Write a sample as a sequence of Point Odyssey 1.2.

    The queries of all anchors become tracks. As in the release, cameras and tracks are rounded to float16 and stored as
    float32, and pixels are projections of the rounded values. Depth is rounded down to steps of 1000 m / 65535; unknown
    depth is 0. A scene without tracks has a single NaN as ``trajs_3d``.

    Args:
        root: Folder of the data set.
        split: Name of the split, a subfolder of `root`.
        name: Name of the new sequence, a subfolder of the split.
        sample: A single sample.

    Raises:
        ValueError: If the sample is a batch.
        UserError: If the sequence exists already or cannot be written.
    """
    scene = metric_scene(sample)
    stored = _round_annotation(scene)
    arrays = {
        "trajs_2d": stored.pixels.astype(np.float32),
        "trajs_3d": np.array(np.nan) if stored.points is None else stored.points.astype(np.float32),
        "valids": stored.valid,
        "visibs": stored.visibility,
        "intrinsics": stored.intrinsics,
        "extrinsics": stored.cam_from_world.astype(np.float32),
    }
    shapes = {key: np.array(array.shape) for key, array in arrays.items()}
    with os_errors_as_user_errors():
        folder = _write_frames(Path(root) / split / name, sample, scene)
        np.savez(folder / "anno.npz", allow_pickle=False, **arrays)
        np.savez(folder / "info.npz", allow_pickle=False, **shapes)


@dataclass(frozen=True)
class _RoundedAnnotation:
    """Cameras and tracks rounded to float16, except the intrinsics of the release."""

    intrinsics: Float[np.ndarray, "time 3 3"]
    cam_from_world: Float[np.ndarray, "time 4 4"]
    points: Float[np.ndarray, "time query 3"] | None
    """World points; None if the scene has no tracks."""
    pixels: Float[np.ndarray, "time query 2"]
    valid: Bool[np.ndarray, "time query"]
    visibility: Bool[np.ndarray, "time query"]


def _round_annotation(scene: Scene) -> _RoundedAnnotation:
    intrinsics = scene.cameras.intrinsics.numpy().astype(np.float32)
    cam_from_world = _to_half(scene.cameras.cam_from_world)
    points, valid, visibility = _flatten_tracks(scene.tracks, scene.num_frames)
    points = _to_half(points)
    in_camera = transform_points(_to_double(cam_from_world), _to_double(points))
    pixels = _to_half(project(in_camera, _to_double(intrinsics)))
    visibility = visibility & valid & (in_camera[..., 2] > 0) & is_in_image(_to_double(pixels), scene.size)
    return _RoundedAnnotation(
        intrinsics=intrinsics,
        cam_from_world=cam_from_world,
        points=None if scene.tracks is None else points,
        pixels=pixels,
        valid=valid.numpy(),
        visibility=visibility.numpy(),
    )


def _flatten_tracks(
    tracks: Tracks | None, num_frames: int
) -> tuple[Float[Tensor, "time query 3"], Bool[Tensor, "time query"], Bool[Tensor, "time query"]]:
    """Merge the queries of all anchors: world points, whether they are known, and whether they are visible."""
    if tracks is None:
        empty = torch.zeros(num_frames, 0, dtype=torch.bool)
        return torch.zeros(num_frames, 0, 3), empty, empty
    points = tracks.points.transpose(0, 1).flatten(1, 2)
    confidence = tracks.confidence.transpose(0, 1).flatten(1)
    visibility = tracks.visibility.transpose(0, 1).flatten(1)
    return points, confidence > 0, visibility > 0.5


def _write_frames(folder: Path, sample: Sample, scene: Scene) -> Path:
    """Write images, depth and scene_info.json into a new folder, and return the folder."""
    folder.mkdir(parents=True)
    (folder / "rgbs").mkdir()
    (folder / "depths").mkdir()
    for frame, (image, depths, confidence) in enumerate(
        zip(sample.clip.images, scene.depths, scene.depth_confidence, strict=True)
    ):
        write_jpeg(folder / "rgbs" / f"rgb_{frame:05d}.jpg", image, JPEG_QUALITY)
        meters = torch.where(confidence > 0, depths, 0).double().numpy()
        steps = meters.clip(0, MAX_DEPTH) * MAX_STORED_DEPTH / MAX_DEPTH
        write_raster(folder / "depths" / f"depth_{frame:05d}.png", steps.astype(np.uint16))
    height, width = scene.size
    info = {
        "sensor_width": SENSOR_WIDTH,
        "sensor_height": SENSOR_WIDTH * height / width,
        "focal_length": float(scene.cameras.intrinsics[0, 0, 0]) * SENSOR_WIDTH / width,
        "assets": ["background"],
    }
    (folder / "scene_info.json").write_text(json.dumps(info))
    return folder


def _to_half(values: Tensor) -> np.ndarray:
    """Round to float16; larger values become infinite, as in the release."""
    with np.errstate(over="ignore"):
        return values.numpy().astype(np.float16)


def _to_double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))
