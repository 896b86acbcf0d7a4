"""What readers and writers of annotated videos share: files and cameras checked, and a sample made of their contents.

Every error of a reader is a `DataError` that names the sequence and the file.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from torch import Tensor

from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.errors import DataError
from recon4d.geometry import (
    invert,
    nearest_rotation,
    rigid,
    similarity,
    transform_points,
)
from recon4d.io import read_photo, read_raster
from recon4d.io.file_errors import blamed_on
from recon4d.records import Cameras, Clip, Scene

FRAMES_PER_SECOND = 30
"""Of Point Odyssey, and of Dynamic Replica where it gives no time of its own."""

_LARGEST_SKEW = 0.01
"""Rotations rounded to float16 are off by less than 1e-3; what is further off is no rotation."""


def check_long_enough(sequence: str, file: Path, count: int, frames: Sequence[int]) -> None:
    """Raise `DataError` where `file` describes fewer frames than asked for."""
    if frames and max(frames) >= count:
        raise DataError(sequence, file, f"has {count} frames, asked for frame {max(frames)}")


def read_images(sequence: str, paths: Sequence[Path]) -> UInt8[Tensor, "time 3 height width"]:
    """The pictures at `paths`, which must all have the size of the first."""
    images: list[Tensor] = []
    for path in paths:
        with blamed_on(sequence, path):
            images.append(read_photo(path))
        if images[-1].shape != images[0].shape:
            raise DataError(
                sequence, path, f"is {_size_in_words(images[-1])}, the first frame {_size_in_words(images[0])}"
            )
    return torch.stack(images)


def read_sixteen_bits(sequence: str, path: Path, size: tuple[int, int]) -> UInt16[np.ndarray, "height width"]:
    """The values of a gray PNG of sixteen bits that must have `size` (height, width)."""
    with blamed_on(sequence, path):
        values = read_raster(path)
    if values.dtype != np.uint16 or values.shape != size:
        raise DataError(sequence, path, f"holds {values.dtype} {values.shape}, wanted uint16 {size}")
    return values


def rounded_cameras(
    sequence: str,
    file: Path,
    cam_from_world: Float[Tensor, "time 4 4"],
    intrinsics: Float[Tensor, "time 3 3"],
) -> Cameras:
    """Cameras from stored matrices whose rotations were rounded, and so are not quite rotations.

    Axes are those of the nearest rotation; the center is the place that the stored matrix itself maps to 0 (R^-1 t
    and not R^T t, which would move it by the rounding times its distance from the origin). Raises `DataError` for
    matrices that are not finite, no rotations, or no pinholes.
    """
    rotation, translation = cam_from_world[..., :3, :3], cam_from_world[..., :3, 3]
    if not (cam_from_world.isfinite().all() and intrinsics.isfinite().all()):
        raise DataError(sequence, file, "its cameras are not finite")
    skew = rotation @ rotation.transpose(-1, -2) - torch.eye(3, dtype=rotation.dtype)
    if skew.abs().max() > _LARGEST_SKEW or (torch.linalg.det(rotation) < 0).any():
        raise DataError(sequence, file, "its cameras' rotations are no rotations")
    if (intrinsics[:, [0, 1], [0, 1]] <= 0).any() or (intrinsics[:, 2] != intrinsics.new_tensor([0, 0, 1])).any():
        raise DataError(sequence, file, "its intrinsics are not those of a pinhole")
    centers = -torch.linalg.solve(rotation, translation)
    return Cameras(rigid(nearest_rotation(rotation).transpose(-1, -2), centers), intrinsics)


def in_view(
    pixels: Float[Tensor, "time query 2"], depths: Float[Tensor, "time query"], size: tuple[int, int]
) -> Bool[Tensor, "time query"]:
    """Whether points at `pixels` (x, y) with z = `depths` fall into a picture of `size` (height, width)."""
    bounds = pixels.new_tensor([size[1], size[0]])
    return ((pixels >= 0) & (pixels < bounds)).all(dim=-1) & (depths > 0)


def metric_sample(
    clip: Clip,
    cameras: Cameras,
    depths: Float[Tensor, "time height width"],
    known: Bool[Tensor, "time height width"],
    trajectories: Trajectories | None,
    anchors: tuple[int, ...],
) -> Sample:
    """The sample, in float32, of cameras and trajectories given in meters and float64 in a world of their own.

    They move to the first camera's world before they are rounded: a far origin costs no digits.
    """
    first_from_world = invert(cameras.world_from_cam[0])
    if trajectories is not None:
        points = transform_points(first_from_world, trajectories.points)
        trajectories = replace(trajectories, points=points.float(), pixels=trajectories.pixels.float())
    cameras = cameras.in_frame(0).to(dtype=torch.float32)
    return Sample(clip, ground_truth_scene(cameras, depths, known, trajectories, anchors, metres_per_unit=1.0))


def scene_to_write(sample: Sample) -> Scene:
    """The sample's scene in meters where it says how long its unit is, else as it is.

    Raises ``ValueError`` for a batch, and where clip and scene differ in size.
    """
    scene = sample.scene
    if sample.batch_shape:
        raise ValueError(f"one sample is written at a time, given a batch of {tuple(sample.batch_shape)}")
    if sample.clip.size != scene.size:
        raise ValueError(f"images of {sample.clip.size} and maps of {scene.size} (height, width) do not fit together")
    unit = torch.nan_to_num(scene.metres_per_unit, nan=1.0).to(scene.depths.dtype)
    return scene.transformed(similarity(unit, torch.eye(3).to(scene.depths), torch.zeros(3).to(scene.depths)))


def _size_in_words(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]} pixels"
