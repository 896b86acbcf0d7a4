"""COLMAP folder for COLMAP and Gaussian-splatting trainers: images/ and sparse/0, binary or text.

The formats are documented at colmap.github.io/format.html. Ids count from 1.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32

from recon4d.io.exporters.colmap_model import ColmapModel, build_colmap_model, check_pinholes
from recon4d.io.exporters.colmap_tracks import find_tracked_points
from recon4d.io.exporters.reduced_images import write_reduced_images
from recon4d.io.exporters.selected_frames import SelectedFrames

MAX_POINTS = 100_000
"""Largest number of points of a model; `PointSelection.max_points` may lower it. Hand-tuned: more points slow trainers
down without improving their results."""
PINHOLE = 1
"""Number of COLMAP's camera model with parameters fx, fy, cx, cy."""

Track = Int32[np.ndarray, "observation 2"]
"""Observations of a point: the id of an image and the index of the observation in that image."""


def write_colmap_binary(folder: Path, frames: SelectedFrames) -> str:
    """Write ``images/`` and ``sparse/0/{cameras,images,points3D}.bin``, in original pixels.

    ``images/`` holds copies of the frames; smaller ones are beside it (`write_reduced_images`).

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If a camera is unknown or has skew, if there are no static points, or if a picture is missing or
            damaged.
    """
    return _write(folder, frames, write_binary_model)


def write_colmap_text(folder: Path, frames: SelectedFrames) -> str:
    """Write ``images/`` and ``sparse/0/{cameras,images,points3D}.txt``, in original pixels.

    ``images/`` holds copies of the frames; smaller ones are beside it (`write_reduced_images`).

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: As for `write_colmap_binary`.
    """
    return _write(folder, frames, write_text_model)


def write_binary_model(folder: Path, model: ColmapModel) -> None:
    """Write the three ``.bin`` files of a model.

    Args:
        folder: An existing folder.
        model: The model.
    """
    keys, pinholes = _shared_cameras(model)
    cameras = [struct.pack("<Q", len(pinholes))]
    for key, ((height, width), pinhole) in enumerate(pinholes, start=1):
        cameras.append(struct.pack("<iiQQ4d", key, PINHOLE, width, height, *pinhole))
    images = [struct.pack("<Q", len(model.images))]
    layout = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
    for number, image in enumerate(model.images, start=1):
        observations = np.empty(len(image.point_indices), layout)
        observations["pixel"], observations["point"] = image.pixels.numpy(), image.point_indices.numpy() + 1
        images.append(struct.pack("<i7di", number, *image.pose.tolist(), keys[number - 1]))
        images.append(image.name.encode("utf-8") + b"\0" + struct.pack("<Q", len(observations)))
        images.append(observations.tobytes())
    points = [struct.pack("<Q", len(model.points))]
    for number, (point, color, error, track) in enumerate(_rows_of_points(model), start=1):
        points.append(struct.pack("<Q3d3BdQ", number, *point, *color, error, len(track)))
        points.append(track.astype("<i4").tobytes())
    for name, parts in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.bin").write_bytes(b"".join(parts))


def write_text_model(folder: Path, model: ColmapModel) -> None:
    """Write the three ``.txt`` files of a model, with all digits of every number.

    Args:
        folder: An existing folder.
        model: The model.
    """
    keys, pinholes = _shared_cameras(model)
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    cameras += [
        f"{key} PINHOLE {width} {height} {_join(pinhole)}"
        for key, ((height, width), pinhole) in enumerate(pinholes, start=1)
    ]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of each observation"]
    for number, image in enumerate(model.images, start=1):
        images.append(f"{number} {_join(image.pose.tolist())} {keys[number - 1]} {image.name}")
        triples = zip(image.pixels.tolist(), image.point_indices.tolist(), strict=True)
        images.append(" ".join(f"{x!r} {y!r} {row + 1}" for (x, y), row in triples))
    points = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_INDEX of each observation"]
    for number, (point, color, error, track) in enumerate(_rows_of_points(model), start=1):
        points.append(f"{number} {_join(point)} {_join(color)} {error!r} {_join(track.ravel().tolist())}")
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write(folder: Path, frames: SelectedFrames, write_model: Callable[[Path, ColmapModel], None]) -> str:
    check_pinholes(frames.source.original_cameras, frames.source.outline.frame_files)
    max_points = min(frames.selection.max_points, MAX_POINTS)
    tracked = find_tracked_points(frames, max_points // 2)
    num_tracked = 0 if tracked is None else len(tracked.points)
    static = frames.static_points(max_points - num_tracked)
    names = frames.source.copy_frames(folder / "images")
    write_reduced_images(folder)
    model = build_colmap_model(frames, names, static, tracked)
    model_folder = folder / "sparse" / "0"
    model_folder.mkdir(parents=True)
    write_model(model_folder, model)
    errors = torch.cat(model.errors())
    return (
        f"{len(model.images)} images, {len(model.points)} points ({num_tracked} of them from tracks), "
        f"{len(errors)} observations "
        f"({len(errors) / len(model.points):.1f} a point), "
        f"reprojection residual {float(errors.mean()):.1e} pixels in the mean, {float(errors.max()):.1e} at most"
    )


def _shared_cameras(model: ColmapModel) -> tuple[list[int], list[tuple[tuple[int, int], list[float]]]]:
    """The id of each image's camera, and size, fx, fy, cx, cy of each camera: one if all are equal, else one each."""
    pinholes = [(image.size, image.pinhole.tolist()) for image in model.images]
    if all(pinhole == pinholes[0] for pinhole in pinholes):
        return [1] * len(pinholes), pinholes[:1]
    return list(range(1, len(pinholes) + 1)), pinholes


def _rows_of_points(model: ColmapModel) -> Iterator[tuple[list[float], list[int], float, Track]]:
    """Yield position, color, mean error in pixels and observations of every point."""
    rows = torch.cat([image.point_indices for image in model.images])
    counts = torch.bincount(rows, minlength=len(model.points))
    total = torch.zeros(len(counts), dtype=torch.float64).index_add(0, rows, torch.cat(model.errors()))
    numbers = torch.cat(
        [torch.full_like(image.point_indices, number) for number, image in enumerate(model.images, start=1)]
    )
    positions = torch.cat([torch.arange(len(image.point_indices)) for image in model.images])
    observations = torch.stack([numbers, positions], dim=1)[rows.argsort(stable=True)].int().numpy()
    tracks = np.split(observations, counts.cumsum(0)[:-1].numpy())
    return zip(model.points.tolist(), model.colors.tolist(), (total / counts).tolist(), tracks, strict=True)


def _join(values: list[float] | list[int]) -> str:
    return " ".join(repr(value) for value in values)
