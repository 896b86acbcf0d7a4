"""A folder as COLMAP and Gaussian-splatting trainers read it: images/ and sparse/0, binary or text.

Formats as COLMAP documents them (colmap.github.io/format.html). Ids count from 1.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.colmap_model import ColmapModel, check_pinholes, colmap_model
from recon4d.io.exporters.colmap_tracks import tracked_points
from recon4d.io.exporters.point_selection import PointSelection, static_pixels
from recon4d.io.saved_results import SavedResults

MAX_POINTS = 100_000
"""More points than this cost trainers time and teach them nothing; `PointChoice.max_points` may ask for fewer."""
PINHOLE = 1
"""The number of COLMAP's camera model with fx fy cx cy."""

Track = Int32[np.ndarray, "seen 2"]
"""Of each observation of a point the id of its image and its position there."""


def write_colmap_binary(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``images/`` (copies of the frames) and ``sparse/0/{cameras,images,points3D}.bin``, in original pixels."""
    return _write(folder, results, choice, write_binary_model)


def write_colmap_text(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``images/`` (copies of the frames) and ``sparse/0/{cameras,images,points3D}.txt``, in original pixels."""
    return _write(folder, results, choice, write_text_model)


def write_binary_model(place: Path, model: ColmapModel) -> None:
    """Write a model's three ``.bin`` files into the existing folder `place`."""
    height, width = model.size
    cameras = [struct.pack("<Q", len(model.images))]
    images = [struct.pack("<Q", len(model.images))]
    layout = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
    for number, image in enumerate(model.images, start=1):
        cameras.append(struct.pack("<iiQQ4d", number, PINHOLE, width, height, *image.pinhole.tolist()))
        observations = np.empty(len(image.visibility), layout)
        observations["pixel"], observations["point"] = image.pixels.numpy(), image.visibility.numpy() + 1
        images.append(struct.pack("<i7di", number, *image.pose.tolist(), number))
        images.append(image.name.encode("utf-8") + b"\0" + struct.pack("<Q", len(observations)))
        images.append(observations.tobytes())
    points = [struct.pack("<Q", len(model.points))]
    for number, (point, color, error, track) in enumerate(_rows_of_points(model), start=1):
        points.append(struct.pack("<Q3d3BdQ", number, *point, *color, error, len(track)))
        points.append(track.astype("<i4").tobytes())
    for name, parts in (("cameras", cameras), ("images", images), ("points3D", points)):
        (place / f"{name}.bin").write_bytes(b"".join(parts))


def write_text_model(place: Path, model: ColmapModel) -> None:
    """Write a model's three ``.txt`` files into the existing folder `place`, every number to its last digit."""
    height, width = model.size
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of each observation"]
    for number, image in enumerate(model.images, start=1):
        cameras.append(f"{number} PINHOLE {width} {height} {_words(image.pinhole.tolist())}")
        images.append(f"{number} {_words(image.pose.tolist())} {number} {image.name}")
        triples = zip(image.pixels.tolist(), image.visibility.tolist(), strict=True)
        images.append(" ".join(f"{x!r} {y!r} {row + 1}" for (x, y), row in triples))
    points = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_INDEX of each observation"]
    for number, (point, color, error, track) in enumerate(_rows_of_points(model), start=1):
        points.append(f"{number} {_words(point)} {_words(color)} {error!r} {_words(track.ravel().tolist())}")
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write(
    folder: Path, results: SavedResults, choice: PointSelection, write_model: Callable[[Path, ColmapModel], None]
) -> str:
    check_pinholes(results.original_cameras())
    still, most = static_pixels(results.scene, choice), min(choice.max_points, MAX_POINTS)
    names = results.copy_frames(folder / "images")
    tracked = tracked_points(results.scene, results.images_at_map_size(), still, most // 2)
    followed = 0 if tracked is None else len(tracked.points)
    model = colmap_model(results, names, subsample_mask(still, most - followed), tracked)
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    write_model(place, model)
    errors = torch.cat(model.errors())
    return (
        f"{len(model.images)} images, {len(model.points)} points ({followed} of them followed through tracks), "
        f"{len(errors)} observations "
        f"({len(errors) / len(model.points):.1f} a point), "
        f"reprojection residual {float(errors.mean()):.1e} pixels in the mean, {float(errors.max()):.1e} at most"
    )


def _rows_of_points(model: ColmapModel) -> Iterator[tuple[list[float], list[int], float, Track]]:
    """Of every point its place, color, mean error in pixels, and who sees it as which observation."""
    rows = torch.cat([image.visibility for image in model.images])
    counts = torch.bincount(rows, minlength=len(model.points))
    total = torch.zeros(len(counts), dtype=torch.float64).index_add(0, rows, torch.cat(model.errors()))
    numbers = torch.cat(
        [torch.full_like(image.visibility, number) for number, image in enumerate(model.images, start=1)]
    )
    positions = torch.cat([torch.arange(len(image.visibility)) for image in model.images])
    sightings = torch.stack([numbers, positions], dim=1)[rows.argsort(stable=True)].int().numpy()
    tracks = np.split(sightings, counts.cumsum(0)[:-1].numpy())
    return zip(model.points.tolist(), model.colors.tolist(), (total / counts).tolist(), tracks, strict=True)


def _words(values: list[float] | list[int]) -> str:
    return " ".join(repr(value) for value in values)
