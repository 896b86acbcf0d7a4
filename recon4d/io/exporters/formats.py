"""Export formats by name, and the function that writes them. To add a format, add a module and a line to `FORMATS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.errors import DataError, UserError
from recon4d.io.exporters.colmap import write_colmap_binary, write_colmap_text
from recon4d.io.exporters.depth_maps import write_depth_exr, write_depth_png
from recon4d.io.exporters.dynamic_splats import write_dynamic_splats
from recon4d.io.exporters.export_record import check_export, write_export_record
from recon4d.io.exporters.frame_arrays import write_frame_arrays
from recon4d.io.exporters.frame_source import FrameSource, MemoryFrames
from recon4d.io.exporters.gaussian_splats import write_gaussian_splats
from recon4d.io.exporters.gltf_animation import write_animation
from recon4d.io.exporters.meshes import write_alpha, write_poisson, write_tsdf
from recon4d.io.exporters.nerfstudio import write_nerfstudio
from recon4d.io.exporters.point_clouds import write_glb, write_ply
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.exporters.tum_trajectory import write_tum
from recon4d.io.exporters.usd_animation import write_usd
from recon4d.io.output_folder import atomic_folder
from recon4d.io.saved_results import SavedResults

Writer = Callable[[Path, SelectedFrames], str]
"""Writes one format into an existing, empty folder and returns a short summary for the user."""

FORMATS: dict[str, Writer] = {
    "colmap": write_colmap_binary,
    "colmap-text": write_colmap_text,
    "nerfstudio": write_nerfstudio,
    "ply": write_ply,
    "glb": write_glb,
    "animation": write_animation,
    "usd": write_usd,
    "tum": write_tum,
    "depth-png": write_depth_png,
    "depth-exr": write_depth_exr,
    "npz": write_frame_arrays,
    "splats": write_gaussian_splats,
    "dynamic-splats": write_dynamic_splats,
    "tsdf": write_tsdf,
    "poisson": write_poisson,
    "alpha": write_alpha,
}
"""Writers by the name of their format."""


@dataclass(frozen=True)
class Exported:
    """A format that was written."""

    format: str
    """Name of the format, which is also the name of its folder."""
    summary: str
    """Contents of the folder, as one line for the user."""


def check_formats(names: Sequence[str]) -> None:
    """Check the names of formats before anything is read.

    Args:
        names: Names of formats.

    Raises:
        UserError: If there is no name, a name is unknown, or a name occurs twice.
    """
    if not names:
        raise UserError(f"no format is given; wanted some of {', '.join(FORMATS)}")
    for name in names:
        if name not in FORMATS:
            raise UserError(f"there is no format {name!r}; wanted some of {', '.join(FORMATS)}")
    if len(set(names)) < len(names):
        raise UserError(f"a format is given twice: {' '.join(names)}")


def export_results(
    out: str | Path,
    results: SavedResults | FrameSource,
    names: Sequence[str],
    selection: PointSelection,
    overwrite: bool = False,
) -> list[Exported]:
    """Export results to ``<out>/<format>/``, either in all given formats or, if one fails, in none.

    Args:
        out: The output folder, which must be new or empty. ``export.json`` in it lists every file.
        results: The results. `open_frames` returns those of a long clip without loading it into memory.
        names: Names of formats, see `FORMATS`.
        selection: Criteria for pixels and the number of points.
        overwrite: Whether `out` may be an earlier export that contains no other files. It is replaced as a whole, and
            kept if something fails.

    Returns:
        The formats in the given order.

    Raises:
        UserError: If a format is unknown or has nothing to write, or if a file cannot be read or written.
    """
    check_formats(names)
    source = MemoryFrames(results) if isinstance(results, SavedResults) else results
    frames = SelectedFrames(source, selection)
    exported = []
    with atomic_folder(out, overwrite, check_export) as folder:
        for name in names:
            (folder / name).mkdir()
            try:
                exported.append(Exported(name, FORMATS[name](folder / name, frames)))
            except UserError as error:
                raise _naming_results(error, source) from error
        write_export_record(folder, source.distortion)
    return exported


def _naming_results(error: UserError, source: FrameSource) -> UserError:
    """Make the same error with the folder of the results in its message, unless that names it already."""
    files = source.outline.frame_files
    folder = str(files[0].parent.parent) if files else ""
    return error if folder in str(error) or isinstance(error, DataError) else type(error)(f"{folder}: {error}")
