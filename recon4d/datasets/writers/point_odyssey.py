"""Writes samples as Point Odyssey stores them: what tests read, and how worlds of one's own join that data set.

Masks, normals and the preview video are left out: `PointOdyssey` reads none of them. The world is the sample's, in
meters where the sample says how long its unit is. Times are not stored: the format has 30 frames a second.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.readers.common import in_view, scene_to_write
from recon4d.datasets.readers.point_odyssey import FARTHEST, MOST_STEPS
from recon4d.datasets.sample import Sample
from recon4d.geometry import project, transform_points
from recon4d.io import write_jpeg, write_raster
from recon4d.records import Scene, Tracks

JPEG_QUALITY = 97
SENSOR_WIDTH = 36.0
"""Millimeters; Blender's own, and that of the release."""


def write_point_odyssey(root: str | Path, split: str, name: str, sample: Sample) -> None:
    """Write `sample` to ``<root>/<split>/<name>`` in the layout of version 1.2.

    The queries of all anchors become tracks, one after the other. As in the release, cameras, tracks and pixels are
    rounded to float16 and kept as float32; pixels follow from what was rounded; depth is cut off to steps of
    1000 m / 65535, unknown depth is 0. A scene without tracks has a single NaN for ``trajs_3d``. Raises ``ValueError``
    for a batch, and ``FileExistsError`` where there is such a sequence already.
    """
    scene = scene_to_write(sample)
    folder = _write_frames(Path(root) / split / name, sample, scene)
    stored = _rounded(scene, np.dtype(np.float32))
    arrays = {
        "trajs_2d": stored.pixels.astype(np.float32),
        "trajs_3d": np.array(np.nan) if stored.points is None else stored.points.astype(np.float32),
        "valids": stored.valid,
        "visibs": stored.visible,
        "intrinsics": stored.intrinsics,
        "extrinsics": stored.cam_from_world.astype(np.float32),
    }
    np.savez(folder / "anno.npz", allow_pickle=False, **arrays)
    np.savez(folder / "info.npz", allow_pickle=False, **{key: np.array(array.shape) for key, array in arrays.items()})


def write_point_odyssey_legacy(root: str | Path, split: str, name: str, sample: Sample) -> None:
    """Write `sample` as the public generator does: ``annotations.npz``, all float16, with ``visibilities``.

    A visibility is 0 where the point is hidden, 1 where it is visible and 2 where it means nothing: unknown, behind the
    camera, or farther than stored depth. Errors as for `write_point_odyssey`.
    """
    scene = scene_to_write(sample)
    folder = _write_frames(Path(root) / split / name, sample, scene)
    stored = _rounded(scene, np.dtype(np.float16))
    is_placed = stored.valid & (stored.depths > 0) & (stored.depths <= FARTHEST)
    np.savez(
        folder / "annotations.npz",
        allow_pickle=False,
        trajs_2d=stored.pixels,
        trajs_3d=np.array(np.nan, np.float16) if stored.points is None else stored.points,
        visibilities=np.where(is_placed, stored.visible, 2).astype(np.float16),
        intrinsics=stored.intrinsics,
        extrinsics=stored.cam_from_world,
    )


@dataclass(frozen=True)
class _Rounded:
    """What of a scene goes into the annotation; float16, but for the intrinsics of the release."""

    intrinsics: Float[np.ndarray, "time 3 3"]
    cam_from_world: Float[np.ndarray, "time 4 4"]
    points: Float[np.ndarray, "time query 3"] | None
    pixels: Float[np.ndarray, "time query 2"]
    depths: Float[np.ndarray, "time query"]
    valid: Bool[np.ndarray, "time query"]
    visible: Bool[np.ndarray, "time query"]


def _rounded(scene: Scene, intrinsics_type: np.dtype) -> _Rounded:
    intrinsics = scene.cameras.intrinsics.numpy().astype(intrinsics_type)
    cam_from_world = _to_half(scene.cameras.cam_from_world)
    points, valid, visible = _flat_tracks(scene.tracks, scene.num_frames)
    points = _to_half(points)
    in_camera = transform_points(_to_double(cam_from_world), _to_double(points))
    pixels = _to_half(project(in_camera, _to_double(intrinsics)))
    depths = in_camera[..., 2]
    is_seen = visible & valid & in_view(_to_double(pixels), depths, scene.size)
    return _Rounded(
        intrinsics=intrinsics,
        cam_from_world=cam_from_world,
        points=None if scene.tracks is None else points,
        pixels=pixels,
        depths=depths.numpy(),
        valid=valid.numpy(),
        visible=is_seen.numpy(),
    )


def _flat_tracks(
    tracks: Tracks | None, num_frames: int
) -> tuple[Float[Tensor, "time query 3"], Bool[Tensor, "time query"], Bool[Tensor, "time query"]]:
    """World points of the queries of all anchors, where they are known, and where they are seen."""
    if tracks is None:
        nothing = torch.zeros(num_frames, 0, dtype=torch.bool)
        return torch.zeros(num_frames, 0, 3), nothing, nothing
    points = tracks.points.transpose(0, 1).flatten(1, 2)
    confidence = tracks.confidence.transpose(0, 1).flatten(1)
    visible = tracks.visibility.transpose(0, 1).flatten(1)
    return points, confidence > 0, visible > 0.5


def _write_frames(folder: Path, sample: Sample, scene: Scene) -> Path:
    """Pictures, depth and what is said about the whole."""
    folder.mkdir(parents=True)
    (folder / "rgbs").mkdir()
    (folder / "depths").mkdir()
    for frame, (image, depths, confidence) in enumerate(
        zip(sample.clip.images, scene.depths, scene.depth_confidence, strict=True)
    ):
        write_jpeg(folder / "rgbs" / f"rgb_{frame:05d}.jpg", image, JPEG_QUALITY)
        known = torch.where(confidence > 0, depths, 0).double().numpy()
        steps = known.clip(0, FARTHEST) * MOST_STEPS / FARTHEST
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
    """Rounded to float16; what is too large for it becomes infinite, as in the release."""
    with np.errstate(over="ignore"):
        return values.numpy().astype(np.float16)


def _to_double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))
