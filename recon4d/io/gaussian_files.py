"""PLY files of Gaussian splats: of one time, with the names of Kerbl et al. 2023, and over time, with their motion."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import quaternion_from_rotation, rigid, rotation_from_quaternion
from recon4d.io.ply_elements import read_ply_elements, write_ply_elements
from recon4d.records.gaussians import DynamicGaussians, Gaussians
from recon4d.records.trajectories import Trajectories

CONSTANT_HARMONIC = 0.5 / math.sqrt(math.pi)
"""Value of the spherical harmonic of degree 0. A color is 0.5 plus this value times its coefficient."""
MIN_SCALE = 1e-12
"""Smallest scale that is written, in scene units: its logarithm must be finite."""


def write_gaussians(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians of constant color as viewers of 3D Gaussian Splatting read them.

    The element ``vertex`` has x, y, z, normals of zero, f_dc_0 to f_dc_2, the logit of the opacity, logarithms of the
    scales, and the rotation as a quaternion with w first.

    Args:
        path: The file to write or replace.
        gaussians: The Gaussians.

    Raises:
        UserError: If the file cannot be written.
    """
    write_ply_elements(path, {"vertex": _table(_columns(gaussians))})


def write_dynamic_gaussians(path: str | Path, gaussians: DynamicGaussians) -> None:
    """Write Gaussians over time in one file: each once, with its motion.

    =============  ===================================================================================================
    element        properties
    =============  ===================================================================================================
    ``vertex``     those of `write_gaussians` at the first time; ``offset_0`` to ``offset_2``, ``curve`` and ``frame``:
                   `offsets`, `curves` and `shown_frames` of `DynamicGaussians`
    ``frame``      ``time`` in seconds
    ``interval``   ``start`` and ``end`` of the curves in seconds
    ``curve``      control points ``x_0, y_0, z_0, x_1, ...`` of a uniform cubic B-spline; ``piece``, ``anchor``,
                   ``pixel_x``, ``pixel_y``, ``support_start``, ``support_end``, ``confidence`` and ``visibility_0``,
                   ``visibility_1``, ... of each frame, see `Trajectories`
    ``pose``       motion of a rigid piece since the first time: ``piece``, ``frame``, ``rot_0`` to ``rot_3`` (w first),
                   ``x``, ``y``, ``z``
    =============  ===================================================================================================

    Args:
        path: The file to write or replace.
        gaussians: The Gaussians.

    Raises:
        UserError: If the file cannot be written.
    """
    columns = _columns(gaussians.gaussians) | _numbered("offset", gaussians.offsets)
    columns |= {"curve": gaussians.curves, "frame": gaussians.shown_frames}
    elements = {"vertex": _table(columns), "frame": _table({"time": gaussians.times.double()})}
    if gaussians.trajectories is not None:
        elements |= _motion_tables(gaussians.trajectories)
    write_ply_elements(path, elements)


def read_dynamic_gaussians(path: str | Path) -> DynamicGaussians:
    """Read a file of `write_dynamic_gaussians`.

    Args:
        path: The file.

    Returns:
        The Gaussians. Values have the precision of float32.

    Raises:
        UserError: If the file cannot be read or has another form.
    """
    elements = read_ply_elements(path)
    try:
        rows = elements["vertex"]
        gaussians = Gaussians(
            centers=_tensor(rows, "x", "y", "z"),
            scales=_tensor(rows, "scale_0", "scale_1", "scale_2").exp(),
            quaternions=_tensor(rows, "rot_0", "rot_1", "rot_2", "rot_3"),
            opacities=_tensor(rows, "opacity")[:, 0].sigmoid(),
            colors=0.5 + CONSTANT_HARMONIC * _tensor(rows, "f_dc_0", "f_dc_1", "f_dc_2"),
        )
        curves, shown = (_tensor(rows, name)[:, 0].long() for name in ("curve", "frame"))
        offsets = _tensor(rows, "offset_0", "offset_1", "offset_2")
        times = _tensor(elements["frame"], "time")[:, 0]
        trajectories = _read_motion(elements, times) if "curve" in elements else None
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a file of Gaussians over time ({error})") from error
    return DynamicGaussians(gaussians, curves, offsets, shown, times, trajectories)


def _columns(gaussians: Gaussians) -> dict[str, Tensor]:
    zeros = torch.zeros_like(gaussians.opacities)
    quaternions = gaussians.quaternions / gaussians.quaternions.norm(dim=-1, keepdim=True)
    return {
        **_named("xyz", gaussians.centers),
        **dict.fromkeys(("nx", "ny", "nz"), zeros),
        **_numbered("f_dc", (gaussians.colors - 0.5) / CONSTANT_HARMONIC),
        "opacity": gaussians.opacities.logit(eps=1e-6),
        **_numbered("scale", gaussians.scales.clamp(min=MIN_SCALE).log()),
        **_numbered("rot", quaternions),
    }


def _motion_tables(curves: Trajectories) -> dict[str, np.ndarray]:
    control = curves.control_points.flatten(-2)
    columns = {f"{'xyz'[place % 3]}_{place // 3}": values for place, values in enumerate(control.unbind(dim=-1))}
    columns |= {"piece": curves.pieces, "anchor": curves.anchors, "confidence": curves.confidence}
    columns |= {"pixel_x": curves.pixels[:, 0], "pixel_y": curves.pixels[:, 1]}
    columns |= {"support_start": curves.support[:, 0].double(), "support_end": curves.support[:, 1].double()}
    columns |= _numbered("visibility", curves.visibility)
    pieces, times = curves.world_from_piece.shape[:2]
    piece, frame = torch.meshgrid(torch.arange(pieces), torch.arange(times), indexing="ij")
    poses = curves.world_from_piece.flatten(0, 1)
    rotations = _numbered("rot", quaternion_from_rotation(poses[:, :3, :3]))
    pose = {"piece": piece.flatten(), "frame": frame.flatten(), **rotations, **_named("xyz", poses[:, :3, 3])}
    interval = {"start": curves.interval[:1].double(), "end": curves.interval[1:].double()}
    return {"interval": _table(interval), "curve": _table(columns), "pose": _table(pose)}


def _read_motion(elements: dict[str, np.ndarray], times: Tensor) -> Trajectories:
    rows, poses = elements["curve"], elements["pose"]
    names = rows.dtype.names or ()
    controls = sum(name.startswith("x_") for name in names)
    control = _tensor(rows, *(f"{axis}_{number}" for number in range(controls) for axis in "xyz"))
    rotations = rotation_from_quaternion(_tensor(poses, "rot_0", "rot_1", "rot_2", "rot_3"))
    return Trajectories(
        control_points=control.unflatten(1, (controls, 3)),
        interval=_tensor(elements["interval"], "start", "end")[0],
        times=times,
        visibility=_tensor(rows, *(f"visibility_{number}" for number in range(len(times)))),
        confidence=_tensor(rows, "confidence")[:, 0],
        anchors=_tensor(rows, "anchor")[:, 0].long(),
        pixels=_tensor(rows, "pixel_x", "pixel_y"),
        support=_tensor(rows, "support_start", "support_end"),
        pieces=_tensor(rows, "piece")[:, 0].long(),
        world_from_piece=rigid(rotations, _tensor(poses, "x", "y", "z")).unflatten(0, (-1, len(times))),
    )


def _named(names: str, values: Tensor) -> dict[str, Tensor]:
    return dict(zip(names, values.unbind(dim=-1), strict=True))


def _numbered(name: str, values: Tensor) -> dict[str, Tensor]:
    return {f"{name}_{number}": column for number, column in enumerate(values.unbind(dim=-1))}


def _table(columns: dict[str, Tensor]) -> np.ndarray:
    """Return a structured array: integers as int32, float64 as it is, other numbers as float32."""
    kinds = {torch.int64: "<i4", torch.float64: "<f8"}
    first = next(iter(columns.values()))
    table = np.empty(len(first), [(name, kinds.get(values.dtype, "<f4")) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values.numpy()
    return table


def _tensor(rows: np.ndarray, *names: str) -> Tensor:
    return torch.from_numpy(np.stack([rows[name] for name in names], axis=-1).astype(np.float32))
