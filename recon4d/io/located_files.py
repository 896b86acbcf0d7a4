"""Files of located pictures: ``located.json``, ``transforms.json`` (nerfstudio, instant-ngp) and ``cameras.npz``."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from recon4d.errors import UserError
from recon4d.io.exporters.export_record import check_export, write_export_record
from recon4d.io.exporters.nerfstudio import OPENCV_FROM_OPENGL
from recon4d.io.npz_arrays import save_arrays
from recon4d.io.output_folder import atomic_folder, check_output_folder
from recon4d.records import LocatedCameras

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3")
"""Names of the coefficients of lens distortion, in OpenCV's order."""


def check_located_folder(out: str | Path, overwrite: bool) -> None:
    """Check that `write_located` can write, before anything is computed.

    Args:
        out: The output folder.
        overwrite: Whether an earlier result may be replaced.

    Raises:
        UserError: If the folder is not empty and must not be replaced.
    """
    check_output_folder(out, overwrite, check_export)


def write_located(out: str | Path, located: LocatedCameras, overwrite: bool = False) -> None:
    """Write the cameras of pictures.

    ``located.json`` has an entry for each picture, with its camera and trust, or the reason why it was not located.
    ``transforms.json`` has the located pictures in the axes of OpenGL, each with its own intrinsics. ``cameras.npz``
    has the arrays ``world_from_cam``, ``intrinsics`` (in pixels of the pictures), ``distortion`` and ``names``, with
    NaN for pictures that were not located.

    Args:
        out: The output folder, which must be new or empty.
        located: The cameras.
        overwrite: Whether `out` may be an earlier result that contains no other files.

    Raises:
        UserError: If no picture was located, or the folder cannot be written.
    """
    if not located.is_located.any():
        raise UserError("no picture was located; there are no cameras to write")
    entries = [_entry(located, number) for number in range(len(located.names))]
    frames = [_frame(located, number) for number in located.is_located.nonzero()[:, 0].tolist()]
    arrays = {
        "world_from_cam": located.cameras.world_from_cam.numpy(),
        "intrinsics": located.cameras.intrinsics.numpy(),
        "distortion": located.distortion.numpy(),
        "names": np.array(located.names),
    }
    with atomic_folder(out, overwrite, check_export) as folder:
        for name, content in (("located.json", {"pictures": entries}), ("transforms.json", {"frames": frames})):
            (folder / name).write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")
        save_arrays(folder / "cameras.npz", arrays)
        write_export_record(folder)


def _entry(located: LocatedCameras, number: int) -> dict[str, object]:
    """Describe a picture for ``located.json``."""
    height, width = located.sizes[number]
    entry: dict[str, object] = {"picture": located.names[number], "width": width, "height": height}
    trust = located.trust[number]
    if trust is None:
        return {**entry, "located": False, "reason": located.reasons[number]}
    return {
        **entry,
        "located": True,
        "world_from_camera": located.cameras.world_from_cam[number].tolist(),
        "intrinsics": located.cameras.intrinsics[number].tolist(),
        "distortion": _distortion(located, number),
        "trust": asdict(trust),
    }


def _frame(located: LocatedCameras, number: int) -> dict[str, object]:
    """Describe a picture for ``transforms.json``, whose cameras have x right, y up and z backward."""
    height, width = located.sizes[number]
    intrinsics = located.cameras.intrinsics[number].tolist()
    world_from_gl = located.cameras.world_from_cam[number] @ OPENCV_FROM_OPENGL.double()
    return {
        "file_path": located.names[number],
        "fl_x": intrinsics[0][0],
        "fl_y": intrinsics[1][1],
        "cx": intrinsics[0][2],
        "cy": intrinsics[1][2],
        "w": width,
        "h": height,
        **(_distortion(located, number) or {}),
        "transform_matrix": world_from_gl.tolist(),
    }


def _distortion(located: LocatedCameras, number: int) -> dict[str, float] | None:
    """Return the coefficients by name; None if the lens has another model."""
    coefficients = located.distortion[number]
    if not torch.isfinite(coefficients).all():
        return None
    return dict(zip(COEFFICIENTS, coefficients.tolist(), strict=True))
