"""The record of an export, ``export.json``: its files, by which a later export may replace it, and the removed lens.

If lens distortion was removed from the pictures, the cameras of every export are those of the undistorted pictures. The
record then keeps the coefficients, which the original pictures need.
"""

import json
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError

EXPORT_FILE_NAME = "export.json"
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3")
"""Names of the coefficients of lens distortion, in OpenCV's order."""


def write_export_record(folder: Path, distortion: Float[Tensor, "5"] | None = None) -> None:
    """Write ``export.json`` into a finished export; its entry ``files`` is the sorted list of all files.

    Args:
        folder: The folder of the export.
        distortion: Coefficients k1, k2, p1, p2, k3 (OpenCV) of the distortion that was removed from the pictures,
            written as ``removed_distortion``. None if none was removed.
    """
    content: dict[str, list[str] | dict[str, float]] = {"files": _files(folder)}
    if distortion is not None:
        content["removed_distortion"] = dict(zip(COEFFICIENTS, distortion.tolist(), strict=True))
    (folder / EXPORT_FILE_NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")


def check_export(target: Path) -> None:
    """Refuse to replace a folder that is not an export, or that contains a file the export did not write.

    Trainers often write into the folder that they read.

    Args:
        target: An existing folder.

    Raises:
        UserError: If the folder must not be replaced.
    """
    try:
        written = set(json.loads((target / EXPORT_FILE_NAME).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"output folder {target} is not empty and holds no {EXPORT_FILE_NAME} of recon4d, which will not replace it"
        ) from error
    foreign = sorted(set(_files(target)) - written - {EXPORT_FILE_NAME})
    if foreign:
        raise UserError(f"output folder {target} also holds {foreign[0]}, which would be lost; move it away first")


def _files(folder: Path) -> list[str]:
    """Paths of all files in a folder, relative to it and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
