"""Depth maps as files, in pixels of the maps: 16-bit PNG with a scale, and EXR of 32-bit floats.

Depth is z in the camera of the frame, and 0 is unknown. Pixels less confident than the minimum are unknown; the
percentile of the least confident pixels is not applied. ``depth.json`` contains the scale and the cameras.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.io.exporters.exr import write_exr
from recon4d.io.exporters.frame_source import FrameSource
from recon4d.io.exporters.own_pictures import own_picture
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.point_cloud import NoConfidentPointsError
from recon4d.io.rasters import write_raster

MAX_VALUE = 65535
"""Largest value of a 16-bit PNG."""
STEPS_PER_METER = 1000.0
"""Steps per meter of a PNG if the length of the unit is known: millimeters, as most readers expect."""
MAX_MEDIANS = 10.0
"""Largest depth, in median depths, that a PNG must be able to hold. Hand-tuned: a horizon beyond it would make every
step too coarse."""


@dataclass(frozen=True)
class DepthSidecar:
    """The contents of ``depth.json``. The depth in scene units is the stored value times `units_per_value`."""

    units_per_value: float
    """Scene units per stored value."""
    metres_per_value: float | None
    """Meters per stored value; None if the length of the unit is unknown."""
    unknown: int
    """Stored value of pixels of unknown depth."""
    width: int
    """Width of the maps in pixels."""
    height: int
    """Height of the maps in pixels."""
    files: list[str]
    """Name of the file of each frame."""
    intrinsics: list
    """Intrinsics of each frame in pixels of the maps, of shape (time, 3, 3)."""
    world_from_cam: list
    """Camera of each frame, camera to world in OpenCV axes, of shape (time, 4, 4)."""
    sizes: list | None = None
    """Height and width of each map, if the pictures have different sizes; `width` and `height` are those of the common
    frame then. None, and not written, if all maps have one size."""


def write_depth_png(folder: Path, frames: SelectedFrames) -> str:
    """Write ``<frame>.png`` of 16 bits for each frame and ``depth.json``.

    All frames have the same scale, see `steps_per_unit`. The rounding error is at most half a step. Depths below one
    step are stored as 1, depths beyond the range as unknown.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If no depth is known.
    """
    source, known = frames.source, frames.depths
    scale = steps_per_unit(known.maximum, known.median, source.metres_per_unit)
    num_lost = 0
    for number, frame in frames.numbered():
        depths = own_picture(source, number).crop(frames.depth_map(frame)[0].double())
        steps = depth_steps(depths, scale)
        write_raster(folder / f"{source.names[number]}.png", steps.numpy().astype(np.uint16))
        num_lost += int(((depths > 0) & (steps == 0)).sum())
    _write_sidecar(folder, source, 1 / scale, ".png")
    lost = 100 * num_lost / known.count
    return f"{source.num_frames} maps, one step is {1 / scale:.6g} scene units, {lost:.2f} % too far and left out"


def write_depth_exr(folder: Path, frames: SelectedFrames) -> str:
    """Write ``<frame>.exr`` for each frame, with depths as 32-bit floats in the channel Z, and ``depth.json``.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        NoConfidentPointsError: If no depth is known.
    """
    has_depths = False
    for number, frame in frames.numbered():
        depths = own_picture(frames.source, number).crop(frames.depth_map(frame)[0])
        has_depths |= bool((depths > 0).any())
        write_exr(folder / f"{frames.source.names[number]}.exr", depths.float().contiguous().numpy())
    if not has_depths:
        raise NoConfidentPointsError("no pixel has a known depth with enough confidence: no depth maps")
    _write_sidecar(folder, frames.source, 1.0, ".exr")
    return f"{frames.source.num_frames} maps, in scene units"


def depth_steps(depths: Float[Tensor, "*shape"], steps_per_unit: float) -> Float[Tensor, "*shape"]:
    """Quantize depths.

    Args:
        depths: Depths of any shape, in scene units; 0 where unknown.
        steps_per_unit: Steps per scene unit.

    Returns:
        Whole numbers from 1 to 65535, of the same shape and type; 0 where the depth is unknown or too large.
    """
    steps = (depths * steps_per_unit).round()
    return torch.where((depths > 0) & (steps <= MAX_VALUE), steps.clamp(min=1), torch.zeros_like(steps))


def steps_per_unit(max_depth: float, median_depth: float, metres_per_unit: float) -> float:
    """Choose the scale of a 16-bit depth map.

    The range is the largest depth, or ten times the median if that is less. A step is a millimeter if the length of the
    unit is known and the range fits; otherwise the end of the range is stored as 65535.

    Args:
        max_depth: Largest known depth, in scene units.
        median_depth: Median of the known depths, in scene units.
        metres_per_unit: Length of the scene unit in meters; NaN if unknown.

    Returns:
        Steps per scene unit.
    """
    depth_range = min(max_depth, MAX_MEDIANS * median_depth)
    if math.isfinite(metres_per_unit) and depth_range * metres_per_unit * STEPS_PER_METER <= MAX_VALUE:
        return metres_per_unit * STEPS_PER_METER
    return MAX_VALUE / depth_range


def _write_sidecar(folder: Path, source: FrameSource, units_per_value: float, suffix: str) -> None:
    metres_per_unit = source.metres_per_unit
    pictures = [own_picture(source, number) for number in range(source.num_frames)]
    is_mixed = any(picture.map_size != source.size for picture in pictures)
    sidecar = DepthSidecar(
        units_per_value=units_per_value,
        metres_per_value=units_per_value * metres_per_unit if math.isfinite(metres_per_unit) else None,
        unknown=0,
        width=source.size[1],
        height=source.size[0],
        files=[f"{name}{suffix}" for name in source.names],
        intrinsics=[picture.map_intrinsics.tolist() for picture in pictures]
        if is_mixed
        else source.cameras.intrinsics.tolist(),
        world_from_cam=source.cameras.world_from_cam.tolist(),
        sizes=[list(picture.map_size) for picture in pictures] if is_mixed else None,
    )
    values = {name: value for name, value in asdict(sidecar).items() if name != "sizes" or value is not None}
    (folder / "depth.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
