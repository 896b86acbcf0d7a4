"""`recon4d view`: a reconstruction over time in rerun's viewer, in a browser or as a file."""

import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import tyro

from recon4d.cli.arguments import is_long_clip
from recon4d.errors import UserError

if TYPE_CHECKING:
    import torch

    from recon4d.io.saved_results import SavedResults
    from recon4d.viewer import View

MAX_PIXELS = 2**25
"""Largest number of pixels of the maps of a long clip that are read: about 2 GB of maps and pictures. Hand-tuned."""


@dataclass(frozen=True)
class ViewCommand:
    """Show a result of `recon4d reconstruct` in a window or the browser, or save it to share (needs rerun)."""

    results: tyro.conf.Positional[Path]
    """A scene.npz or its folder; the pictures are read from frames/ next to it."""
    save: Path | None = None
    """Write this .rrd file instead of opening a viewer; rerun opens it on any machine."""
    overwrite: bool = False
    """Replace the file given by --save."""
    web: bool = False
    """Serve to the browser instead of opening a window, until Ctrl-C."""
    port: int = 9090
    """Port of --web; the next port is used too."""
    max_points: int = 1_000_000
    """Largest number of points in the recording: of the static map, and of all times together, which take half at
    most."""
    max_frame_points: int = 60_000
    """Largest number of points of one time."""
    movers_only: bool = True
    """Show at each time only the points and tracks of what moves; the static part is shown once for all times.
    --no-movers-only shows all points of each time, and tracks of static points too."""
    max_tracks: int = 200
    """Largest number of tracks."""
    tail: int = 12
    """Number of past frames in the tail of a track."""
    interpolated_frames: int = 0
    """Number of frames between two frames in which what moves is shown, along the curves of its tracks."""
    max_side: int = 512
    """Longest side of the pictures beside the world, in pixels. Points come from the whole maps."""

    interrupted: ClassVar[str] = "interrupted, nothing was written"

    def run(self) -> None:
        """Show or save the scene.

        Raises:
            UserError: If rerun is not installed, the scene cannot be read, or the file or port cannot be used.
        """
        from recon4d.viewer import (
            has_display,
            load_rerun,
            open_window,
            save_view,
        )

        load_rerun()  # fails before the scene is read if rerun is not installed
        if self.save is not None:
            _check_file(self.save, self.overwrite, self.web)
        view = self._view()
        if self.save is not None:
            save_view(self.save, view)
            print(f"{self.save}: {self.save.stat().st_size / 1e6:.1f} MB; open it with: rerun {self.save}")
        elif self.web or not has_display():
            if not self.web:
                print("no display found, serving the scene to a browser instead")
            _serve(view, self.port)
        else:
            open_window(view)
            # The window belongs to rerun's own process, which reports its own errors.
            print("opening the scene in rerun's window; if this machine cannot render it, try --web")

    def _view(self) -> "View":
        from recon4d.io.saved_results import read_results
        from recon4d.viewer import ViewConfig, record_scene

        config = ViewConfig(
            self.max_points,
            self.max_frame_points,
            self.max_tracks,
            self.tail,
            self.max_side,
            self.movers_only,
            self.interpolated_frames,
        )
        results = _read_long_results(self.results) if is_long_clip(self.results) else read_results(self.results)
        if self.interpolated_frames and results.scene.trajectories is None:
            from recon4d.motion import fit_trajectories

            results = results.with_scene(fit_trajectories(results.scene, results.times))
        if not results.info.trained:
            print(f"{results.info.model} was never trained: the scene is meaningless")
        path = self.results.resolve()
        return record_scene(
            results.scene,
            results.times,
            _images(results),
            config,
            name=path.name if path.is_dir() else path.parent.name,
        )


def _read_long_results(folder: Path) -> "SavedResults":
    """Read evenly spaced frames of a long clip, from the first on: as many as `MAX_PIXELS` allows."""
    from recon4d.io.long_archive import image_file, load_frames, load_index
    from recon4d.io.results import frame_file_names
    from recon4d.io.saved_results import SavedResults

    index = load_index(folder)
    height, width = index.size
    max_frames = max(1, MAX_PIXELS // (height * width))
    numbers = range(0, index.num_frames, math.ceil(index.num_frames / max_frames))
    if len(numbers) < index.num_frames:
        print(f"showing {len(numbers)} of {index.num_frames} frames, one in {numbers.step}, to limit memory")
    names = frame_file_names(index.info.source, index.num_frames)
    return SavedResults(
        scene=load_frames(folder, numbers),
        times=index.times[numbers.start : numbers.stop : numbers.step],
        info=index.info,
        frame_files=tuple(image_file(folder, number) for number in numbers),
        frame_names=tuple(Path(names[number]).stem for number in numbers),
    )


def _check_file(path: Path, overwrite: bool, web: bool) -> None:
    """Check the file given by --save before the scene is read."""
    if web:
        raise UserError("--save writes a file and --web serves one; give only one of the two")
    if path.suffix != ".rrd":
        raise UserError(f"--save is {path}; the name must end in .rrd, which rerun recognizes")
    if path.is_dir():
        raise UserError(f"--save is {path}, which is a folder; give the name of a new file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; give another name in --save, or replace it with --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")


def _images(results: "SavedResults") -> "torch.Tensor | None":
    """Read the frames at the size of the maps (time, 3, height, width); None, with a warning, if some are missing."""
    missing = [file for file in results.frame_files if not file.is_file()]
    if missing:
        warnings.warn(
            f"{missing[0]} does not exist ({len(missing)} of {len(results.frame_files)} frames are missing): "
            "the scene is shown without frames, in gray",
            stacklevel=2,
        )
        return None
    return results.images_at_map_size()


def _serve(view: "View", port: int) -> None:
    """Serve until Ctrl-C, which ends the command without an error."""
    from recon4d.viewer import served

    with served(view, port) as address:
        print(f"{address}\nopen this address in a browser on this machine; press Ctrl-C to stop", flush=True)
        try:
            while True:
                time.sleep(60)
        except KeyboardInterrupt:
            print("\nstopped")
