"""Known depth of a clip, at some or all of its pixels: a folder of maps, a file with all maps, or a list of points."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import evenly_spaced_indices
from recon4d.io.cameras.pairing import count_frames, times_of_names
from recon4d.io.depth_files import (
    MAP_SUFFIXES,
    MAX_DEPTH,
    WANTED_MAPS,
    DepthMap,
    convert_depths,
    read_depth_map,
    read_npy,
)
from recon4d.io.fitting import Placement
from recon4d.io.frame_pairing import match_by_name
from recon4d.io.npz_arrays import load_arrays
from recon4d.io.photos import natural_order
from recon4d.records import Clip

LAYOUTS = "depths (time, height, width), or depths (n), pixels (n, 2) and frames (n)"
"""The two layouts of an npz file, for messages."""
ASPECT_TOLERANCE = 0.02
"""Largest relative difference of the aspect ratios of maps and pictures that may show the same. Hand-tuned: ScanNet's
differ by 0.5 %, those of 4:3 and 3:2 by 11 %."""
TIME_TOLERANCE = 0.02
"""Largest difference in seconds between the times in the names of a map and of a picture, as of TUM's own tools."""
MAX_SAMPLED_MAPS = 16
"""Number of maps of a long clip that are read in advance to find out whether they hold any depth. Hand-tuned."""
DepthReader = Callable[[Sequence[int]], Iterator[Float[Tensor, "height width"]]]
"""Yields the map of each of the given frames."""
MAX_SAMPLED = 100_000
"""Number of depths from which the printed range is computed."""


@dataclass(frozen=True)
class KnownDepth:
    """Known depth of a clip."""

    depths: Float[Tensor, "time height width"]
    """z in the frame's camera; NaN where unknown."""
    report: str
    """What was read: files, format, unit and range, in one line."""


def read_depth_priors(path: Path, clip: Clip, unit: float | None = None) -> KnownDepth:
    """Read known depth.

    Args:
        path: A folder with a map for each frame (`read_depth_map`), which may be missing for some frames; a single map
            for a clip of one frame; an npy file of shape (time, height, width); or an npz file that holds either
            ``depths`` (time, height, width) or a list of points: their ``depths`` (n), ``pixels`` (n, 2) as x and y
            (the center of the first pixel is 0.5, 0.5) and ``frames`` (n), counted from 0 among those of the clip. If
            two points fall into one pixel, the nearer counts. Depth is unknown where it is 0, negative or not finite.
            Maps may have another size than the images if they have the same aspect ratio.
        clip: The clip.
        unit: Factor from the stored values to the unit of the depths. None stands for 0.001 (millimeters) for whole
            numbers in maps, and for 1 for floats and in npz files of points.

    Returns:
        The depths at the size of the clip.

    Raises:
        UserError: If the file is missing or damaged, holds other arrays or sizes, has points outside the clip, does not
            fit the frames, or has no valid depth.
    """
    if unit is not None and not (np.isfinite(unit) and unit > 0):
        raise UserError(f"the unit of depth is {unit}; wanted a factor above 0")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir():
        known = _from_folder(path, clip, unit)
    elif path.suffix.lower() in MAP_SUFFIXES - {".npz", ".npy"}:
        known = _from_single_map(path, clip, unit)
    elif path.suffix.lower() == ".npy":
        known = _from_npy(path, clip, unit)
    else:
        known = _from_npz(path, clip, unit)
    if known.depths.isnan().all():
        raise UserError(f"depth {path}: not a single depth is finite and above 0")
    return KnownDepth(known.depths, f"depth: {known.report}, {_describe_range(known.depths)}")


def depth_reader(path: Path, clip: Clip, unit: float | None = None) -> tuple[DepthReader, str]:
    """Prepare reading the known depth of a long clip frame by frame.

    Args:
        path: A folder of maps, as for `read_depth_priors`.
        clip: A clip with the names, number and size of the frames. Its images are not used.
        unit: As for `read_depth_priors`.

    Returns:
        A function that takes frame indices and yields a map (height, width) for each of them, NaN where unknown; it
        raises the errors of `read_depth_priors` that concern a single file. And a line for the user.

    Raises:
        UserError: As `read_depth_priors`, or if the path is no folder.
    """
    if unit is not None and not (np.isfinite(unit) and unit > 0):
        raise UserError(f"the unit of depth is {unit}; wanted a factor above 0")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_dir():
        raise UserError(f"depth {path}: it is one file; wanted a folder of maps, which are read frame by frame")
    files = _list_maps(path)
    chosen = _pair_files(path, clip, files)

    def read(positions: Sequence[int]) -> Iterator[Float[Tensor, "height width"]]:
        for position in positions:
            index = chosen[position]
            one = None if index is None else read_depth_map(files[index], unit)
            yield _place(path, one, clip, position)

    known = [position for position, index in enumerate(chosen) if index is not None]
    sampled = [known[place] for place in evenly_spaced_indices(len(known), MAX_SAMPLED_MAPS).tolist()]
    depths = torch.stack(list(read(sampled)))
    if depths.isnan().all():
        raise UserError(f"depth {path}: not a single depth is finite and above 0")
    first = read_depth_map(files[chosen[known[0]] or 0], unit)
    unit_text = ", so lengths are in meters" if first.is_metric else ""
    report = f"{len(known)} of {clip.num_frames} frames from {first.format}{unit_text}, read frame by frame"
    return read, f"depth: {report}, {_describe_range(depths)}"


def _place(path: Path, one: DepthMap | None, clip: Clip, position: int) -> Float[Tensor, "height width"]:
    """Bring one map to the size of the clip and the place of its picture."""
    depths = np.full(clip.size, np.nan, np.float32)
    if one is not None:
        placement = Placement(clip.picture_size(position), clip.size)
        depths[placement.slices] = _resize(path, one.values, placement.scaled)
    return torch.from_numpy(depths)


def _describe_range(depths: Float[Tensor, "time height width"]) -> str:
    values = depths[depths.isfinite()]
    values = values[evenly_spaced_indices(len(values), MAX_SAMPLED)].double()
    low, middle, high = values.quantile(values.new_tensor([0.0, 0.5, 1.0])).tolist()
    return f"from {low:.3g} to {high:.3g}, median {middle:.3g}"


def _list_maps(path: Path) -> list[Path]:
    with os_errors_as_user_errors(f"cannot list depth {path}"):
        files = [file for file in path.iterdir() if file.suffix.lower() in MAP_SUFFIXES and file.name[0] != "."]
    files.sort(key=natural_order)
    if not files:
        raise UserError(f"depth {path}: the folder holds no depth maps; wanted {WANTED_MAPS}")
    return files


def _from_folder(path: Path, clip: Clip, unit: float | None) -> KnownDepth:
    files = _list_maps(path)
    chosen = _pair_files(path, clip, files)
    maps = [None if index is None else read_depth_map(files[index], unit) for index in chosen]
    depths, report = _fit(path, maps, clip)
    count = sum(one is not None for one in maps)
    return KnownDepth(depths, f"{count} of {clip.num_frames} frames from {report}")


def _pair_files(path: Path, clip: Clip, files: Sequence[Path]) -> Sequence[int | None]:
    """Find the file of each frame: by name, by the time in the name, by order, or by the last number in the name."""
    names = [file.name for file in files]
    by_name = match_by_name(clip, [_without_kind(name) for name in names], f"depth {path}")
    if any(index is not None for index in by_name):
        return by_name
    by_time = _match_by_time(clip, names)
    if any(index is not None for index in by_time):
        return by_time
    if clip.source is not None and count_frames(clip.source) == len(files):
        return clip.source.numbers
    if len(files) == clip.num_frames:
        return range(clip.num_frames)
    by_number = _match_by_number(clip, names)
    if any(index is not None for index in by_number):
        return by_number
    first = "frame 0" if clip.source is None else Path(clip.source.names[0]).stem
    raise UserError(
        f"depth {path}: the folder holds {len(files)} maps, and the clip has {clip.num_frames} frames; wanted one "
        f"each, or names like {first}"
    )


def _without_kind(name: str) -> str:
    """Strip the word ``depth`` from the end of a name: ``0001_depth.png`` and ``0001.depth.exr`` give ``0001``."""
    stem = re.sub(r"[._-]?(geometric|depth|depthmap|depth_map|lidar)$", "", Path(name).stem, flags=re.IGNORECASE)
    return f"{stem or Path(name).stem}.png"


def _match_by_time(clip: Clip, names: Sequence[str]) -> list[int | None]:
    frame_times = None if clip.source is None else times_of_names(clip.source.names)
    times = times_of_names(tuple(f"{Path(name).stem}.png" for name in names))
    if frame_times is None or times is None:
        return [None] * clip.num_frames
    differences = np.abs(np.array(frame_times)[:, None] - np.array(times))
    nearest = differences.argmin(axis=1).tolist()
    return [index if differences[row, index] <= TIME_TOLERANCE else None for row, index in enumerate(nearest)]


def _match_by_number(clip: Clip, names: Sequence[str]) -> list[int | None]:
    """Match ``rgb_0012.jpg`` with ``depth_0012.png``, if the numbers are unique."""
    if clip.source is None:
        return [None] * clip.num_frames
    numbers, wanted = [_last_number(name) for name in names], [_last_number(name) for name in clip.source.names]
    if None in numbers or None in wanted or len(set(numbers)) < len(numbers) or len(set(wanted)) < len(wanted):
        return [None] * clip.num_frames
    index_of = {number: index for index, number in enumerate(numbers)}
    return [index_of.get(number) for number in wanted]


def _last_number(name: str) -> int | None:
    found = re.findall(r"\d+", Path(name).stem)
    return int(found[-1]) if found else None


def _fit(path: Path, maps: Sequence[DepthMap | None], clip: Clip) -> tuple[Float[Tensor, "time height width"], str]:
    """Bring maps to the size of the clip, and describe their format, size and unit."""
    depths = torch.stack([_place(path, one, clip, position) for position, one in enumerate(maps)])
    given = [one for one in maps if one is not None]
    height, width = given[0].values.shape
    resized = "" if given[0].values.shape == clip.size else f", resized to {clip.size[1]} x {clip.size[0]}"
    unit = ", so lengths are in meters" if given[0].is_metric else ""
    return depths, f"{given[0].format} of {width} x {height} pixels{resized}{unit}"


def _resize(
    path: Path, values: Float32[np.ndarray, "height width"], size: tuple[int, int]
) -> Float32[np.ndarray, "new_height new_width"]:
    """Look up the value under the center of each pixel of another size; depths are never mixed."""
    (height, width), (new_height, new_width) = values.shape, size
    if abs(width * new_height / (height * new_width) - 1) > ASPECT_TOLERANCE:
        is_turned = (height < width) != (new_height < new_width)
        raise UserError(
            f"depth {path}: its maps have {width} x {height} pixels and the pictures {new_width} x {new_height}"
            f"{', so one of them is turned' if is_turned else ''}; wanted the same size or aspect ratio"
        )
    rows = ((np.arange(new_height) + 0.5) * height / new_height).astype(np.int64)
    columns = ((np.arange(new_width) + 0.5) * width / new_width).astype(np.int64)
    return values[rows[:, None], columns]


def _from_single_map(path: Path, clip: Clip, unit: float | None) -> KnownDepth:
    if clip.num_frames != 1:
        raise UserError(
            f"depth {path}: it is one map, and the clip has {clip.num_frames} frames; wanted a folder of maps"
        )
    depths, report = _fit(path, [read_depth_map(path, unit)], clip)
    return KnownDepth(depths, report)


def _from_npy(path: Path, clip: Clip, unit: float | None) -> KnownDepth:
    stored = read_npy(path)
    if stored.ndim == 4:  # one of the axes is a channel
        stored = stored.squeeze(axis=tuple(axis for axis in (1, 3) if stored.shape[axis] == 1)[:1])
    stored = stored[None] if stored.ndim == 2 else stored
    return _from_maps(path, stored, f"npy of {stored.dtype}", clip, unit)


def _from_maps(path: Path, stored: np.ndarray, kind: str, clip: Clip, unit: float | None) -> KnownDepth:
    wanted = (clip.num_frames, *clip.size)
    if stored.ndim != 3 or len(stored) != clip.num_frames or 0 in stored.shape:
        raise UserError(
            f"depth {path}: its depths have shape {stored.shape}; wanted {LAYOUTS} with (time, height, width) = "
            f"{wanted}"
        )
    depths, report = _fit(path, [convert_depths(one, kind, unit, str(path)) for one in stored], clip)
    return KnownDepth(depths, f"{clip.num_frames} of {clip.num_frames} frames from {report}")


def _from_npz(path: Path, clip: Clip, unit: float | None) -> KnownDepth:
    try:
        stored = load_arrays(path, ("depths", "depth", "pixels", "frames"))
    except UserError as error:
        raise UserError(f"depth {path}: it is no npz file, or damaged; wanted {LAYOUTS} ({error})") from error
    wrong = {name: array.dtype for name, array in stored.items() if array.dtype.kind not in "fiu"}
    if wrong:
        raise UserError(f"depth {path}: it holds values of types {wrong}; wanted numbers")
    if {"pixels", "frames"} & stored.keys():
        depths = _from_points(path, stored, clip) * (1.0 if unit is None else unit)
        depths = torch.where((depths <= MAX_DEPTH) & (depths > 0), depths, torch.nan)
        return KnownDepth(depths, f"{len(stored['depths'])} points of an npz file")
    name = "depths" if "depths" in stored else "depth"
    if name not in stored:
        raise UserError(f"depth {path}: it holds no depths; wanted {LAYOUTS}")
    return _from_maps(path, stored[name], "npz", clip, unit)


def _to_common_frame(pixels: np.ndarray, frames: np.ndarray, clip: Clip) -> np.ndarray:
    """Convert pixels of pictures of different sizes to those of their common frame."""
    placements = [Placement(clip.picture_size(frame), clip.size) for frame in range(clip.num_frames)]
    matrices = np.stack([placement.to_frame(torch.eye(3).double()).numpy() for placement in placements])[frames]
    moved = (matrices[:, :2, :2] @ pixels[..., None])[..., 0] + matrices[:, :2, 2]
    return moved.clip(0, np.array(clip.size)[::-1] - 1e-6)


def _from_points(path: Path, stored: Mapping[str, np.ndarray], clip: Clip) -> Float[Tensor, "time height width"]:
    shapes = {name: values.shape for name, values in stored.items()}
    count = len(stored["depths"]) if "depths" in stored and stored["depths"].ndim == 1 else -1
    if shapes != {"depths": (count,), "pixels": (count, 2), "frames": (count,)}:
        raise UserError(f"depth {path}: it holds arrays of shapes {shapes}; wanted {LAYOUTS}")
    (height, width), pixels, frames = clip.size, stored["pixels"].astype(np.float64), stored["frames"]
    inside = (frames >= 0) & (frames < clip.num_frames)
    sizes = np.array([clip.picture_size(frame)[::-1] for frame in range(clip.num_frames)])
    number = np.where(inside, frames, 0).astype(np.int64)
    inside &= (pixels >= 0).all(axis=1) & (pixels < sizes[number]).all(axis=1)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        location = f"frame {frames[first]} at pixel ({pixels[first, 0]:g}, {pixels[first, 1]:g})"
        raise UserError(
            f"depth {path}: {(~inside).sum()} of {count} points lie outside the clip, the first in {location}; wanted "
            f"frames 0 to {clip.num_frames - 1} and pixels within {width} x {height}"
        )
    values = stored["depths"].astype(np.float64)
    is_valid = values > 0
    if clip.source is not None and clip.source.sizes:
        pixels = _to_common_frame(pixels, number, clip)
    column, row = np.floor(pixels[is_valid]).astype(np.int64).T
    depths = np.full((clip.num_frames, height, width), np.inf)
    np.minimum.at(depths, (frames[is_valid].astype(np.int64), row, column), values[is_valid])
    return torch.from_numpy(depths.astype(np.float32))
