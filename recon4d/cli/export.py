"""`recon4d export`: a reconstruction in the formats of other programs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import tyro

from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.io.exporters.frame_source import FrameSource
    from recon4d.records import Scene


@dataclass(frozen=True)
class ExportCommand:
    """Write a reconstruction in the formats of other programs.

    --to takes one or several of colmap, colmap-text, nerfstudio, ply, glb, animation, usd, tum, depth-png, depth-exr,
    npz, splats, dynamic-splats, tsdf, poisson and alpha.
    """

    scene: tyro.conf.Positional[Path]
    """A scene.npz that `recon4d reconstruct` wrote, or its folder, with frames/ next to it."""
    to: tuple[str, ...]
    """Formats; each is written to a folder with its name."""
    out: Path
    """Output folder; it must be new or empty unless --overwrite is given."""
    drop: float = 20.0
    """Percentage of the known pixels, least confident first, that are excluded from points and surfaces."""
    min_confidence: float = 0.0
    """Exclude pixels that are less confident than this, in addition to --drop."""
    max_points: int = 500_000
    """Largest number of points in a file: 7.5 MB as PLY (COLMAP models and splats: at most 100 000)."""
    metres_per_unit: float | None = None
    """Length of the scene's unit in meters; if given, everything is written in meters."""
    baseline: tuple[int, int, float] | None = None
    """Two frames, counted from 0, and the measured distance of their cameras in meters: the same as metres-per-unit."""
    interpolated_frames: int = 0
    """Number of frames between two frames in which animation and usd show what moves, on the curves of its tracks."""
    motion_sample: int | None = None
    """Let what moves take this sample, counted from 0, of `recon4d reconstruct --motions`, as its curves."""
    one_camera: bool = False
    """Write all frames with the same intrinsics, their median: COLMAP models then have a single camera."""
    overwrite: bool = False
    """Replace an earlier export in the output folder, with all of its formats."""
    level: bool = False
    """Rotate the world so that the ground is level: y = 0 on the ground, y down, the first camera above the origin."""

    interrupted: ClassVar[str] = "interrupted, nothing was written"

    def run(self) -> None:
        """Write the formats.

        Raises:
            UserError: If a format is unknown, the scene cannot be read or has nothing to write, or the output folder
                cannot be written.
        """
        from recon4d.io import PointSelection, check_formats, check_output_folder, export_results
        from recon4d.io.exporters.export_record import check_export
        from recon4d.io.exporters.frame_source import open_frames

        selection = PointSelection(self.drop, self.min_confidence, self.max_points, self.interpolated_frames)
        check_formats(self.to)
        self._check_curves()
        check_output_folder(self.out, self.overwrite, check_export)
        frames = open_frames(self.scene)
        if self.baseline is not None:
            if self.metres_per_unit is not None:
                raise UserError("--baseline and --metres-per-unit both give the unit; give only one of the two")
            frames = frames.converted_to_meters(frames.cameras.metres_per_unit(*self.baseline))
        if self.metres_per_unit is not None:
            frames = frames.converted_to_meters(self.metres_per_unit)
        if self.one_camera:
            frames = frames.with_one_camera()
        if self.level:
            frames = frames.aligned_to_ground()
        if self.interpolated_frames:
            frames = self._with_curves(frames)
        for exported in export_results(self.out, frames, self.to, selection, self.overwrite):
            print(f"{self.out / exported.format}: {exported.summary}")

    def _check_curves(self) -> None:
        """Check that options about curves have an effect."""
        if self.interpolated_frames and not set(self.to) & {"animation", "usd"}:
            raise UserError("--interpolated-frames is for the formats animation and usd; add one of them to --to")
        if self.motion_sample is not None and not self.interpolated_frames:
            raise UserError("--motion-sample is the motion of --interpolated-frames; give their number too")

    def _with_curves(self, frames: "FrameSource") -> "FrameSource":
        """Fit curves to the tracks unless the scene has any, and let them follow a sample if one is wanted."""
        from recon4d.io.exporters.frame_source import LongClipFrames
        from recon4d.motion import fit_trajectories

        if isinstance(frames, LongClipFrames):
            raise UserError(f"{self.scene} was reconstructed in windows, without curves; remove --interpolated-frames")

        def add_curves(scene: "Scene") -> "Scene":
            if scene.trajectories is None:
                scene = fit_trajectories(scene, frames.times)
            curves = scene.trajectories
            assert curves is not None
            if self.motion_sample is not None:
                curves = curves.sample(self.motion_sample)
            return replace(scene, trajectories=curves)

        return frames.map_scenes(add_curves)
