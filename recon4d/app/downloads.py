"""Downloads of a result: every format of `recon4d export` and the folder of results, as zip files."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.errors import UserError, one_line, os_errors_as_user_errors

RESULTS = "results"
"""Name of the folder of results among the formats."""
WORDS = {
    RESULTS: "Everything as recon4d stores it (scene.npz, pictures, videos)",
    "glb": "Points for the web and Blender (GLB)",
    "animation": "Moving points and camera (animated GLB)",
    "usd": "Moving points and camera (USD)",
    "ply": "Points (PLY)",
    "tsdf": "Surface, smooth (PLY)",
    "poisson": "Surface, closed (PLY)",
    "alpha": "Surface, coarse (PLY)",
    "splats": "Gaussian splats (PLY)",
    "dynamic-splats": "Moving Gaussian splats (PLY for each time, and one file)",
    "depth-png": "Depth pictures (PNG, 16 bits)",
    "depth-exr": "Depth pictures (EXR)",
    "tum": "Camera path (TUM)",
    "colmap": "COLMAP model",
    "colmap-text": "COLMAP model as text",
    "nerfstudio": "Nerfstudio data set",
    "npz": "Arrays of each picture (NumPy)",
}
"""What formats are called on the page, in this order; formats without an entry keep their name and come last."""
STORED = frozenset({".jpg", ".png", ".mp4", ".npz", ".exr"})
"""Suffixes of files that compression does not make smaller."""


@dataclass(frozen=True)
class Downloads:
    """Files that were prepared."""

    files: tuple[Path, ...]
    """One zip file for each format."""
    problems: tuple[str, ...]
    """Why some formats could not be written, one line each."""


def download_choices() -> list[tuple[str, str]]:
    """List the formats.

    Returns:
        Pairs of the words on the page and the name.
    """
    from recon4d.io import FORMATS

    known = [name for name in WORDS if name == RESULTS or name in FORMATS]
    return [(WORDS.get(name, name), name) for name in [*known, *(name for name in FORMATS if name not in WORDS)]]


def prepare_downloads(results: Path, folder: Path, formats: Sequence[str], drop: float) -> Downloads:
    """Write formats as zip files.

    Args:
        results: A folder of results.
        folder: The folder to make for the zip files.
        formats: Names of formats, or `RESULTS`.
        drop: Percentage of the known pixels, the least confident ones, that are left out of points and surfaces.

    Returns:
        The files. A format that has nothing to write does not prevent the others.

    Raises:
        UserError: If no format is given, or nothing could be written.
    """
    from recon4d.io import PointSelection, export_results, open_frames

    if not formats:
        raise UserError("choose at least one format")
    with os_errors_as_user_errors("the downloads cannot be stored"):
        folder.mkdir(parents=True)
    files, problems = [], []
    for name in formats:
        try:
            source = results
            if name != RESULTS:
                export_results(folder / name, open_frames(results), [name], PointSelection(drop))
                source = folder / name
            files.append(_zip(source, folder / f"recon4d_{name}.zip"))
        except UserError as error:
            problems.append(f"{WORDS.get(name, name)}: {one_line(error).replace(f'{results}: ', '')}")
    if not files:
        raise UserError("; ".join(problems))
    return Downloads(tuple(files), tuple(problems))


def _zip(folder: Path, target: Path) -> Path:
    """Pack a folder."""
    with (
        os_errors_as_user_errors(f"{target.name} cannot be stored"),
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            stored = zipfile.ZIP_STORED if file.suffix.lower() in STORED else None
            archive.write(file, file.relative_to(folder), stored)
    return target
