"""Paths from data files, confined to the folder of the data."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from recon4d.errors import DataError


def confined_path(folder: Path, name: str, file: str | Path, sequence: str | None = None) -> Path:
    """Resolve a relative path that a data file holds, and refuse one that leaves its folder.

    The check is lexical: symbolic links inside `folder` may point anywhere.

    Args:
        folder: The folder that the path is relative to.
        name: The path as stored, with forward slashes.
        file: The file that holds the path, for the message.
        sequence: The sequence that `file` belongs to, for the message. None means the name of `folder`.

    Returns:
        ``folder / name``.

    Raises:
        DataError: If `name` is absolute or leads out of `folder` through ``..``.
    """
    depth, is_inside = 0, not (PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor)
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        is_inside &= depth >= 0
    if not is_inside:
        sequence = folder.name if sequence is None else sequence
        raise DataError(sequence, file, f"refers to {name!r}, which is outside of its folder; wanted a relative path")
    return folder / name
