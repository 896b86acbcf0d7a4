"""`recon4d export`: a reconstruction in the formats of other programs."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ExportCommand:
    """Write a reconstruction in other formats: --to takes colmap, colmap-text, nerfstudio, ply, glb, tum, depth-png,
    depth-exr, npz, splats, tsdf, poisson and alpha, several at once."""

    scene: tyro.conf.Positional[Path]
    """A scene.npz that `recon4d reconstruct` wrote, or its folder, with frames/ beside it."""
    to: tuple[str, ...]
    """Formats, each written to a folder of its own name."""
    out: Path
    """Folder to write; it must be new or empty unless --overwrite is given."""
    drop: float = 20.0
    """Per cent of the known pixels that are left out of points and surfaces, the least confident first."""
    min_confidence: float = 0.0
    """Leave out what is less confident than this, whatever its rank."""
    max_points: int = 500_000
    """At most so many points in a cloud (COLMAP models: 100 000 at the most)."""
    metres_per_unit: float | None = None
    """Length of the scene's unit in meters: everything is written in meters then."""
    overwrite: bool = False
    """Replace an earlier export in the output folder, all of its formats."""
    level: bool = False
    """Turn the world so that the floor is level: y = 0 on the floor, y down, the first camera above the origin."""

    def run(self) -> None:
        from recon4d.io import (
            PointSelection,
            check_formats,
            check_output_folder,
            export_results,
            read_results,
        )
        from recon4d.io.exporters.export_record import check_export
        from recon4d.records.leveling import leveled
        from recon4d.records.metric_scale import in_meters

        choice = PointSelection(self.drop, self.min_confidence, self.max_points)
        check_formats(self.to)
        check_output_folder(self.out, self.overwrite, check_export)
        results = read_results(self.scene)
        if self.metres_per_unit is not None:
            results = results.with_scene(in_meters(results.scene, self.metres_per_unit))
        if self.level:
            results = results.with_scene(leveled(results.scene))
        for exported in export_results(self.out, results, self.to, choice, self.overwrite):
            print(f"{self.out / exported.format}: {exported.summary}")
