"""Files in which a run over a long clip keeps finished steps, so that an interrupted run can be resumed.

The output folder contains, until the run ends:

- ``windows/run.json``: the `SceneInfo` that identifies the run;
- ``windows/000007.npz``: the reconstruction of a window in its own world, in the format of `recon4d.io.archive`;
- ``windows/000007.refinement.json``: how it was refined, if it was tried;
- ``windows/000007.joint.npz``: its alignment with an earlier window;
- ``windows/lens.npz``: the lens of all frames, if it is calibrated before the windows are refined;
- ``windows/placement.npz``: the placement of all windows, once every window is aligned;
- ``windows/000007.chains.npz``: how the tracks continue in a window, if tracks are stitched; written once the frames of
  the previous windows are written.

Each file is written atomically. The folder is removed at the end of the run.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.lens_calibration import LensCalibration
from recon4d.inference.windows.track_stitching import StitchedTracks
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.io import SceneInfo, load_scene, save_scene
from recon4d.io.archive import RUN_FILE_NAME, WORK_FOLDER_NAME, load_cameras
from recon4d.io.files import atomic_file
from recon4d.io.long_archive import FRAMES_FOLDER_NAME, INDEX_FILE_NAME, load_index
from recon4d.io.npz_arrays import load_checked_arrays, save_arrays
from recon4d.records import RefinementSummary, Scene, config_from_json, config_to_json

_ALIGNMENT_SHAPES = {"partner_from_world": (4, 4), "error": (), "metres_per_unit": ()}
_STITCHING_SHAPES = {"pixels": ("Q", 2), "corners": ("Q", "C"), "weights": ("Q", "C"), "points": ("Q", 3)}
_LENS_SHAPES = {"intrinsics": (3, 3), "distortion": (5,)}
_PLACEMENT_SHAPES = {"world_from_window": ("W", 4, 4), "errors": ("W",), "metres_per_unit": (), "lens": (3, 3)}


@dataclass(frozen=True)
class WindowPlacement:
    """Placement of all windows in the world of the clip."""

    world_from_window: Float[Tensor, "window 4 4"]
    """Similarity transforms (window, 4, 4) in float64 from each window's own world to the world of the clip."""
    errors: Float[Tensor, " window"]
    """Median alignment error of each window, as a fraction of depth; 0 for windows without a partner."""
    metres_per_unit: float
    """Length of the clip's unit in meters; NaN if unknown."""
    shared_intrinsics: Float[Tensor, "3 3"]
    """Intrinsics of all frames, in pixels of the maps; NaN if each frame keeps its own."""


@dataclass(frozen=True)
class WorkFolder:
    """The files of a run that has not ended."""

    path: Path
    """The work folder."""
    info: SceneInfo
    """Description of the run."""
    shared_intrinsics: Float[Tensor, "3 3"] = torch.full((3, 3), torch.nan)  # noqa: RUF009 - never written to
    """Intrinsics that loaded scenes get, in pixels of the maps; NaN if each frame keeps its own."""

    def has_window_scene(self, window: Window) -> bool:
        """Return whether the reconstruction of a window is stored.

        Args:
            window: The window.

        Returns:
            True if its file exists.
        """
        return self._scene_file(window.number).exists()

    def save_window_scene(self, window: Window, scene: Scene, summary: RefinementSummary | None = None) -> None:
        """Store the reconstruction of a window.

        Args:
            window: The window.
            scene: Its reconstruction, in a world of its own.
            summary: How it was refined; None if it was not tried.
        """
        if summary is not None:
            with atomic_file(self._summary_file(window.number)) as partial:
                partial.write_text(json.dumps(config_to_json(summary)))
        # The times and the source of the clip are the same for all windows and are stored once, elsewhere.
        info = replace(self.info, source=None)
        save_scene(self._scene_file(window.number), scene, torch.full((scene.num_frames,), torch.nan), info)

    def load_summary(self, window: Window) -> RefinementSummary | None:
        """Load how a window was refined.

        Args:
            window: The window.

        Returns:
            The summary that `save_window_scene` stored; None if there is none.
        """
        file = self._summary_file(window.number)
        return config_from_json(RefinementSummary, json.loads(file.read_text())) if file.exists() else None

    def save_lens(self, lens: LensCalibration) -> None:
        """Store the lens of all frames.

        Args:
            lens: The lens, which may be unknown.
        """
        save_arrays(self.path / "lens.npz", {name: getattr(lens, name).numpy() for name in _LENS_SHAPES})

    def load_lens(self) -> LensCalibration | None:
        """Load the lens of all frames.

        Returns:
            The lens that `save_lens` stored; None if it is not calibrated.
        """
        file = self.path / "lens.npz"
        if not file.exists():
            return None
        arrays = load_checked_arrays(file, _LENS_SHAPES)
        return LensCalibration(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def load_window_scene(self, number: int) -> Scene:
        """Load the reconstruction of a window.

        Args:
            number: Number of the window.

        Returns:
            The scene with the shared intrinsics, if there are any.
        """
        return self.with_shared_intrinsics(load_scene(self._scene_file(number)))

    def with_shared_intrinsics(self, scene: Scene) -> Scene:
        """Replace the intrinsics of a scene by the shared ones; each point keeps its pixel and its z.

        Args:
            scene: A reconstruction with its own intrinsics.

        Returns:
            The scene with the shared intrinsics; `scene` itself if there are none.
        """
        if not self.shared_intrinsics.isfinite().all():
            return scene
        intrinsics = self.shared_intrinsics.expand(scene.num_frames, 3, 3).to(scene.depths.dtype)
        return scene.with_cameras(replace(scene.cameras, intrinsics=intrinsics))

    def load_window_intrinsics(self, number: int) -> Float[Tensor, "time 3 3"]:
        """Load the original intrinsics of a window without reading its maps.

        Args:
            number: Number of the window.

        Returns:
            The intrinsics (time, 3, 3) as reconstructed.
        """
        return load_cameras(self._scene_file(number)).intrinsics

    def remove_window_scene(self, window: Window) -> None:
        """Remove the reconstruction of a window, then the file of its tracks, which is useless without it.

        Args:
            window: The window.
        """
        self._scene_file(window.number).unlink(missing_ok=True)
        self._stitching_file(window.number).unlink(missing_ok=True)

    def has_alignment(self, window: Window) -> bool:
        """Return whether the alignment of a window is stored.

        Args:
            window: The window.

        Returns:
            True if its file exists.
        """
        return self._alignment_file(window.number).exists()

    def save_alignment(self, window: Window, alignment: WindowAlignment) -> None:
        """Store the alignment of a window with its partner.

        Args:
            window: The window.
            alignment: Its alignment.
        """
        arrays = {name: np.asarray(getattr(alignment, name)) for name in WindowAlignment.__dataclass_fields__}
        save_arrays(self._alignment_file(window.number), arrays)

    def load_alignment(self, window: Window) -> WindowAlignment:
        """Load the alignment of a window with its partner.

        Args:
            window: The window.

        Returns:
            The alignment that `save_alignment` stored.
        """
        arrays = load_checked_arrays(self._alignment_file(window.number), _ALIGNMENT_SHAPES)
        return WindowAlignment(
            torch.from_numpy(arrays["partner_from_world"]), float(arrays["error"]), float(arrays["metres_per_unit"])
        )

    def save_stitching(self, window: Window, tracks: StitchedTracks) -> None:
        """Store how the tracks continue in a window.

        Args:
            window: The window.
            tracks: The state of all tracks at the beginning of the window.
        """
        arrays = {name: getattr(tracks, name).numpy() for name in StitchedTracks.__dataclass_fields__}
        save_arrays(self._stitching_file(window.number), arrays)

    def load_stitching(self, window: Window) -> StitchedTracks:
        """Load how the tracks continue in a window.

        Args:
            window: The window.

        Returns:
            The state that `save_stitching` stored.
        """
        arrays = load_checked_arrays(self._stitching_file(window.number), _STITCHING_SHAPES, ["corners"])
        return StitchedTracks(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def save_placement(self, placement: WindowPlacement) -> None:
        """Store the placement of all windows.

        Args:
            placement: The placement.
        """
        arrays = {key: np.asarray(getattr(placement, name)) for key, name in _PLACEMENT_KEYS.items()}
        save_arrays(self.path / "placement.npz", arrays)

    def load_placement(self) -> WindowPlacement | None:
        """Load the placement of all windows.

        Returns:
            The placement; None if it is not stored yet.
        """
        file = self.path / "placement.npz"
        if not file.exists():
            return None
        arrays = load_checked_arrays(file, _PLACEMENT_SHAPES)
        return WindowPlacement(
            torch.from_numpy(arrays["world_from_window"]),
            torch.from_numpy(arrays["errors"]),
            float(arrays["metres_per_unit"]),
            torch.from_numpy(arrays["lens"]),
        )

    def remove(self) -> None:
        """Remove the work folder."""
        with os_errors_as_user_errors():
            shutil.rmtree(self.path)

    def _scene_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.npz"

    def _summary_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.refinement.json"

    def _alignment_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.joint.npz"

    def _stitching_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.chains.npz"


_PLACEMENT_KEYS = {
    "world_from_window": "world_from_window",
    "errors": "errors",
    "metres_per_unit": "metres_per_unit",
    "lens": "shared_intrinsics",
}
"""Key in ``placement.npz`` and the field of `WindowPlacement` that it holds."""


def open_work_folder(folder: Path, info: SceneInfo) -> WorkFolder:
    """Open the work folder of a run, or create it.

    Args:
        folder: The output folder. It must be missing, empty, or belong to the same run.
        info: Description of the run; two runs are the same if their descriptions are equal.

    Returns:
        The work folder.

    Raises:
        UserError: If the output folder belongs to another run, contains anything else, or cannot be created.
    """
    work = WorkFolder(folder / WORK_FOLDER_NAME, info)
    with os_errors_as_user_errors():
        # run.json is written first: any other file in the folder belongs to the run that it describes.
        run_file = work.path / RUN_FILE_NAME
        if run_file.exists():
            _check_same_run(folder, _read_info(run_file), info)
        elif (folder / INDEX_FILE_NAME).exists():
            _check_same_run(folder, load_index(folder).info, info)
        elif folder.exists() and any(path != work.path for path in folder.iterdir()):
            raise UserError(
                f"output folder {folder} is not empty and contains no interrupted run; choose another folder"
            )
        else:
            work.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(run_file) as partial:
                partial.write_text(info.to_json())
        frames = folder / FRAMES_FOLDER_NAME
        frames.mkdir(exist_ok=True)
        for parent in (folder, frames, work.path):
            for unfinished in parent.glob(".*.partial-*"):
                unfinished.unlink()  # left by a process that was killed
    return work


def _read_info(run_file: Path) -> SceneInfo:
    try:
        return SceneInfo.from_json(run_file.read_text(encoding="utf-8", errors="replace"))
    except UserError as error:
        raise UserError(f"cannot read {run_file}: {error}") from error


def _check_same_run(folder: Path, found: SceneInfo, expected: SceneInfo) -> None:
    if found == expected:
        return
    settings = sorted({*found.settings, *expected.settings})
    different = [
        name
        for name in ("model", "trained", "version", "source", "original_size")
        if getattr(found, name) != getattr(expected, name)
    ]
    different += [
        f"{name} ({found.settings.get(name)!r} there, {expected.settings.get(name)!r} now)"
        for name in settings
        if found.settings.get(name) != expected.settings.get(name)
    ]
    raise UserError(
        f"output folder {folder} contains another run that differs in {', '.join(different)}; choose another folder"
    )
