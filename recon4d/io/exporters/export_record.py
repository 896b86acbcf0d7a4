"""The record of an export, ``export.json``: the list of its files, by which a later export may replace it."""

import json
from pathlib import Path

from recon4d.errors import UserError

EXPORT_FILE_NAME = "export.json"


def write_export_record(folder: Path) -> None:
    """Write ``export.json`` into a finished export; its entry ``files`` is the sorted list of all files.

    Args:
        folder: The folder of the export.
    """
    files = _files(folder)
    (folder / EXPORT_FILE_NAME).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


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
