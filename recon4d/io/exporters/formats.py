"""The formats that results can be written in, by name; a new one is one file and one line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.io.exporters.colmap import write_colmap_binary, write_colmap_text
from recon4d.io.exporters.depth_maps import write_depth_exr, write_depth_png
from recon4d.io.exporters.export_record import check_export, write_export_record
from recon4d.io.exporters.frame_arrays import write_frame_arrays
from recon4d.io.exporters.gaussian_splats import write_gaussian_splats
from recon4d.io.exporters.meshes import write_alpha, write_poisson, write_tsdf
from recon4d.io.exporters.nerfstudio import write_nerfstudio
from recon4d.io.exporters.point_clouds import write_glb, write_ply
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.exporters.tum_trajectory import write_tum
from recon4d.io.output_folder import atomic_folder
from recon4d.io.saved_results import SavedResults

Writer = Callable[[Path, SavedResults, PointSelection], str]
"""Fills an existing, empty folder and says in a few words what is there."""

FORMATS: dict[str, Writer] = {
    "colmap": write_colmap_binary,
    "colmap-text": write_colmap_text,
    "nerfstudio": write_nerfstudio,
    "ply": write_ply,
    "glb": write_glb,
    "tum": write_tum,
    "depth-png": write_depth_png,
    "depth-exr": write_depth_exr,
    "npz": write_frame_arrays,
    "splats": write_gaussian_splats,
    "tsdf": write_tsdf,
    "poisson": write_poisson,
    "alpha": write_alpha,
}


@dataclass(frozen=True)
class Exported:
    """One format as it was written: its name and what is there, in words."""

    format: str
    summary: str


def check_formats(names: Sequence[str]) -> None:
    """Refuse no format at all, one named twice, and one that there is not, before anything is read."""
    if not names:
        raise ValueError(f"no format is given; wanted some of {', '.join(FORMATS)}")
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"there is no format {name!r}; wanted some of {', '.join(FORMATS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a format is given twice: {' '.join(names)}")


def export_results(
    out: str | Path, results: SavedResults, names: Sequence[str], choice: PointSelection, overwrite: bool = False
) -> list[Exported]:
    """Write `results` to ``<out>/<format>/`` for each of the formats `names`: all of them, or nothing.

    ``<out>/export.json`` lists every file. `out` must be new or empty; with `overwrite` it may also be an earlier
    export that holds nothing else, which is replaced as a whole and stays where anything fails. Raises ``ValueError``
    for a format that there is not or that has nothing to write, ``OSError`` where something cannot be read or written.
    """
    check_formats(names)
    exported = []
    with atomic_folder(out, overwrite, check_export) as folder:
        for name in names:
            (folder / name).mkdir()
            exported.append(Exported(name, FORMATS[name](folder / name, results, choice)))
        write_export_record(folder)
    return exported
