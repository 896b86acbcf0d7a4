"""`recon4d view`: a reconstruction to look at and turn around, over time."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    import torch

    from recon4d.io.saved_results import SavedResults
    from recon4d.viewer import View


@dataclass(frozen=True)
class ViewCommand:
    """Look at what `recon4d reconstruct` wrote, in a window or the browser, or save it to share (needs rerun)."""

    results: tyro.conf.Positional[Path]
    """A scene.npz, or the folder that holds one; the frames are found in frames/ beside it."""
    save: Path | None = None
    """Write this .rrd file instead of opening anything; anyone with rerun can open it."""
    overwrite: bool = False
    """Replace the file that --save names."""
    web: bool = False
    """Serve to the browser instead of opening a window, until Ctrl-C."""
    port: int = 9090
    """Port of --web; the next one is used too."""
    max_points: int = 1_000_000
    """The most points of all times together, and the most of the static map."""
    max_tracks: int = 400
    """The most tracks."""
    tail: int = 12
    """Frames that the tail of a track goes back."""
    max_side: int = 384
    """Longest side in pixels of frames and maps in the viewer."""

    def run(self) -> None:
        from recon4d.viewer import (
            has_display,
            load_rerun,
            open_window,
            save_view,
        )

        load_rerun()  # missed now, and not when everything has been read
        if self.save is not None:
            _check_file(self.save, self.overwrite, self.web)
        view = self._view()
        if self.save is not None:
            save_view(self.save, view)
            print(f"{self.save}: {self.save.stat().st_size / 1e6:.1f} MB; open it with: rerun {self.save}")
        elif self.web or not has_display():
            if not self.web:
                print("there is no display here, so the scene is served to a browser")
            _serve(view, self.port)
        else:
            open_window(view)
            # Whether it stays open is known to its own process only, which says what is wrong where it does not.
            print("rerun's window opens with the scene; if this machine cannot draw it, try --web")

    def _view(self) -> "View":
        from recon4d.io.saved_results import read_results
        from recon4d.viewer import ViewConfig, record_scene

        config = ViewConfig(self.max_points, self.max_tracks, self.tail, self.max_side)
        results = read_results(self.results)
        if not results.info.trained:
            print(f"{results.info.model} was never trained: what is shown has no meaning")
        name = self.results.resolve()
        return record_scene(
            results.scene,
            results.times,
            _images(results),
            config,
            name=name.name if name.is_dir() else name.parent.name,
        )


def _check_file(path: Path, overwrite: bool, web: bool) -> None:
    """Refuse what --save names before anything is read."""
    if web:
        raise ValueError("--save writes a file and --web serves one; wanted one of them")
    if path.suffix != ".rrd":
        raise ValueError(f"--save {path} has another ending than .rrd, by which rerun knows its files")
    if path.is_dir():
        raise IsADirectoryError(f"--save {path} is a folder; wanted a new file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or --overwrite it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")


def _images(results: "SavedResults") -> "torch.Tensor | None":
    """The frames at the size of the maps; None, and a warning, where some are missing."""
    missing = [file for file in results.frame_files if not file.is_file()]
    if missing:
        warnings.warn(
            f"{missing[0]} is not there ({len(missing)} of {len(results.frame_files)} frames are missing): "
            "the scene is shown without frames, in gray",
            stacklevel=2,
        )
        return None
    return results.images_of_maps()


def _serve(view: "View", port: int) -> None:
    """Serve until Ctrl-C, which is how it ends and no failure."""
    from recon4d.viewer import served

    with served(view, port) as address:
        print(f"{address}\nopen this address in a browser on this machine; Ctrl-C ends", flush=True)
        try:
            while True:
                time.sleep(60)
        except KeyboardInterrupt:
            print("\nended")
