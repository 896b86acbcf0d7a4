"""What an export wrote, file by file, so that a later one replaces that and nothing else."""

import json
from pathlib import Path

EXPORT_FILE_NAME = "export.json"


def write_export_record(folder: Path) -> None:
    """Write ``export.json`` into a finished export: ``files``, the place of every file in it, in order."""
    files = _files(folder)
    (folder / EXPORT_FILE_NAME).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def check_export(target: Path) -> None:
    """Refuse to replace a folder that is no export's, or holds a file that the export did not write.

    Trainers like to write into the folder that they read. Raises ``FileExistsError`` with one line.
    """
    try:
        written = set(json.loads((target / EXPORT_FILE_NAME).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"output folder {target} is not empty and holds no {EXPORT_FILE_NAME} of recon4d, which will not replace it"
        ) from error
    foreign = sorted(set(_files(target)) - written - {EXPORT_FILE_NAME})
    if foreign:
        raise FileExistsError(
            f"output folder {target} also holds {foreign[0]}, which would be lost; move it away first"
        )


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
