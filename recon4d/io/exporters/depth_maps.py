"""Depth maps as pictures: PNG of sixteen bits with a stated scale, and EXR of floats; both in pixels of the maps.

Depth is z in each camera. 0 is unknown. Confidence chooses nothing here but what is unknown (0) or below the least that
was asked for; a sidecar ``depth.json`` says what the numbers mean and which cameras they belong to.
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
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.point_cloud import NoConfidentPointsError
from recon4d.io.rasters import write_raster
from recon4d.io.saved_results import SavedResults
from recon4d.records import Scene

LARGEST = 65535
PER_METER = 1000.0
"""Steps of a meter in a PNG where meters are known: millimeters, as most readers expect."""
REACH = 10.0
"""Depths up to this many times the median are sure to fit a PNG; a horizon beyond would make every step too coarse."""


@dataclass(frozen=True)
class DepthSidecar:
    """What ``depth.json`` says: depth in the world's unit is the stored value times `units_per_value`.

    `metres_per_value` is None where nothing is known of meters. `width` and `height` are in pixels; `intrinsics` belong
    to them and `world_from_cam` is in OpenCV axes, each by the order of `files`.
    """

    units_per_value: float
    metres_per_value: float | None
    unknown: int
    width: int
    height: int
    files: list[str]
    intrinsics: list
    world_from_cam: list


def write_depth_png(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``<frame>.png`` of sixteen bits for each frame and ``depth.json``.

    One scale holds for the whole clip: a millimeter a step where meters are known and the reach fits, otherwise that
    in which the reach is 65535; the reach is the farthest depth, or 10 times the median where that is nearer. Rounding
    errs by half a step at the most. What is nearer than a step is stored as one, what does not fit as unknown.
    """
    depths = known_depths(results.scene, choice).double()
    scale = values_per_unit(depths[depths > 0], float(results.scene.metres_per_unit))
    steps = depth_steps(depths, scale)
    for name, values in zip(results.names, steps, strict=True):
        write_raster(folder / f"{name}.png", values.numpy().astype(np.uint16))
    _write_sidecar(folder, results, 1 / scale, ".png")
    lost = 100 * float(((depths > 0) & (steps == 0)).sum() / (depths > 0).sum())
    return f"{len(depths)} maps, one step is {1 / scale:.6g} of the world's unit, {lost:.2f} % too far and left out"


def write_depth_exr(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``<frame>.exr`` for each frame, 32-bit floats in the channel Z, bit for bit, and ``depth.json``."""
    depths = known_depths(results.scene, choice)
    for name, depth in zip(results.names, depths.float(), strict=True):
        write_exr(folder / f"{name}.exr", depth.numpy())
    _write_sidecar(folder, results, 1.0, ".exr")
    return f"{len(depths)} maps, in the world's unit"


def known_depths(scene: Scene, choice: PointSelection) -> Float[Tensor, "time height width"]:
    """Depths with 0 wherever they are unknown or less confident than `choice.min_confidence`."""
    is_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    is_known &= scene.depth_confidence >= choice.min_confidence
    if not is_known.any():
        raise NoConfidentPointsError("no pixel has a known depth with enough confidence: no depth maps")
    return torch.where(is_known, scene.depths, torch.zeros_like(scene.depths))


def depth_steps(
    depths: Float[Tensor, "time height width"], values_per_unit: float
) -> Float[Tensor, "time height width"]:
    """Depths in whole steps from 1 to 65535; 0 where they are unknown (0) or too far."""
    steps = (depths * values_per_unit).round()
    return torch.where((depths > 0) & (steps <= LARGEST), steps.clamp(min=1), torch.zeros_like(steps))


def values_per_unit(depths: Float[Tensor, "n"], metres_per_unit: float) -> float:
    """Stored steps a unit of the world, for known `depths` in that unit."""
    reach = min(float(depths.max()), REACH * float(depths.median()))
    if math.isfinite(metres_per_unit) and reach * metres_per_unit * PER_METER <= LARGEST:
        return metres_per_unit * PER_METER
    return LARGEST / reach


def _write_sidecar(folder: Path, results: SavedResults, units_per_value: float, ending: str) -> None:
    metres_per_unit = float(results.scene.metres_per_unit)
    sidecar = DepthSidecar(
        units_per_value=units_per_value,
        metres_per_value=units_per_value * metres_per_unit if math.isfinite(metres_per_unit) else None,
        unknown=0,
        width=results.scene.size[1],
        height=results.scene.size[0],
        files=[f"{name}{ending}" for name in results.names],
        intrinsics=results.scene.cameras.intrinsics.tolist(),
        world_from_cam=results.scene.cameras.world_from_cam.tolist(),
    )
    (folder / "depth.json").write_text(json.dumps(asdict(sidecar), indent=1), encoding="utf-8")
