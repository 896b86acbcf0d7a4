"""What a run over a long clip has finished so far, on disk, so that one that was stopped goes on where it was.

Inside the output folder stand ``windows/run.json`` (which run this is), ``windows/000007.npz`` (the answer of a window
in its own world, an archive like any other), ``windows/000007.joint.npz`` (how it is joined to an earlier one), once
every window is joined ``windows/placement.npz``, and once the frames of the windows before it are written
``windows/000007.chains.npz`` (how the pixels that are followed go on in a window, where any are). Each file is whole or
not there. At the end the folder goes.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.io import SceneInfo, load_scene, save_scene
from recon4d.io.long_archive import FRAMES_FOLDER_NAME, INDEX_FILE_NAME, load_index
from recon4d.io.npz_arrays import load_arrays, save_arrays
from recon4d.records import Scene

WORK_FOLDER_NAME = "windows"


@dataclass(frozen=True)
class Placement:
    """Where every window stands in the world of the clip (float64 similarities), and how well it was joined.

    `lens` are the intrinsics through which all frames are seen, in pixels of the maps (NaN: each by its own).
    """

    world_from_window: Float[Tensor, "window 4 4"]
    errors: Float[Tensor, " window"]
    metres_per_unit: float
    lens: Float[Tensor, "3 3"]


@dataclass(frozen=True)
class WorkFolder:
    """The files of a run that has not ended; answers are seen through `lens` where it is known (`Placement`)."""

    path: Path
    info: SceneInfo
    lens: Float[Tensor, "3 3"] = torch.full((3, 3), torch.nan)  # noqa: RUF009 - never written to

    def has_answer(self, window: Window) -> bool:
        return self._answer_file(window.number).exists()

    def save_answer(self, window: Window, scene: Scene) -> None:
        # Times and info are the run's own; here they would say everything once more for every window.
        info = replace(self.info, source=None)
        save_scene(self._answer_file(window.number), scene, torch.full((scene.num_frames,), torch.nan), info)

    def load_answer(self, number: int) -> Scene:
        return self.seen(load_scene(self._answer_file(number)))

    def seen(self, scene: Scene) -> Scene:
        """An answer through the common lens, where there is one: everything keeps its pixel and its z."""
        if not self.lens.isfinite().all():
            return scene
        lenses = self.lens.expand(scene.num_frames, 3, 3).to(scene.depths.dtype)
        return scene.with_cameras(replace(scene.cameras, intrinsics=lenses))

    def load_intrinsics(self, number: int) -> Float[Tensor, "time 3 3"]:
        """The intrinsics that a window's answer came with, its maps unread."""
        with np.load(self._answer_file(number), allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["intrinsics"])

    def remove_answer(self, window: Window) -> None:
        """Done with a window: its answer goes, and then what only its answer could be read with."""
        self._answer_file(window.number).unlink(missing_ok=True)
        self._chains_file(window.number).unlink(missing_ok=True)

    def has_joint(self, window: Window) -> bool:
        return self._joint_file(window.number).exists()

    def save_joint(self, window: Window, joint: WindowAlignment) -> None:
        arrays = {name: np.asarray(getattr(joint, name)) for name in WindowAlignment.__dataclass_fields__}
        save_arrays(self._joint_file(window.number), arrays)

    def load_joint(self, window: Window) -> WindowAlignment:
        arrays = load_arrays(self._joint_file(window.number))
        return WindowAlignment(
            torch.from_numpy(arrays["partner_from_world"]), float(arrays["error"]), float(arrays["metres_per_unit"])
        )

    def save_chains(self, window: Window, chains: StitchedTracks) -> None:
        arrays = {name: getattr(chains, name).numpy() for name in StitchedTracks.__dataclass_fields__}
        save_arrays(self._chains_file(window.number), arrays)

    def load_chains(self, window: Window) -> StitchedTracks:
        arrays = load_arrays(self._chains_file(window.number))
        return StitchedTracks(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def save_placement(self, placement: Placement) -> None:
        arrays = {name: np.asarray(getattr(placement, name)) for name in Placement.__dataclass_fields__}
        save_arrays(self.path / "placement.npz", arrays)

    def load_placement(self) -> Placement | None:
        """Where the windows stand, or None where not all of them are joined yet."""
        file = self.path / "placement.npz"
        if not file.exists():
            return None
        arrays = load_arrays(file)
        return Placement(
            torch.from_numpy(arrays["world_from_window"]),
            torch.from_numpy(arrays["errors"]),
            float(arrays["metres_per_unit"]),
            torch.from_numpy(arrays["lens"]),
        )

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _answer_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.npz"

    def _joint_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.joint.npz"

    def _chains_file(self, number: int) -> Path:
        return self.path / f"{number:06d}.chains.npz"


def open_work_folder(folder: Path, info: SceneInfo) -> WorkFolder:
    """The work folder of the run that `info` describes in the output folder, made where it is not there yet.

    Raises ``FileExistsError`` for a folder with the work of another run, or with anything that is no run's.
    """
    work = WorkFolder(folder / WORK_FOLDER_NAME, info)
    # Written first: whatever else is there belongs to the run that it names.
    run_file = work.path / "run.json"
    if run_file.exists():
        _check_same(folder, SceneInfo.from_json(run_file.read_text()), info)
    elif (folder / INDEX_FILE_NAME).exists():
        _check_same(folder, load_index(folder).info, info)
    elif folder.exists() and any(path != work.path for path in folder.iterdir()):
        raise FileExistsError(f"output folder {folder} is not empty and holds no run to go on with; choose another")
    else:
        work.path.mkdir(parents=True, exist_ok=True)
        partial = run_file.with_suffix(".partial")
        partial.write_text(info.to_json())
        partial.replace(run_file)
    frames = folder / FRAMES_FOLDER_NAME
    frames.mkdir(exist_ok=True)
    for place in (folder, frames, work.path):
        for unfinished in place.glob(".*.partial-*"):
            unfinished.unlink()  # a run that was killed could not do it
    return work


def _check_same(folder: Path, found: SceneInfo, wanted: SceneInfo) -> None:
    if found == wanted:
        return
    settings = sorted({*found.settings, *wanted.settings})
    different = [
        name
        for name in ("model", "trained", "version", "source", "original_size")
        if getattr(found, name) != getattr(wanted, name)
    ]
    different += [
        f"{name} ({found.settings.get(name)!r} there, {wanted.settings.get(name)!r} now)"
        for name in settings
        if found.settings.get(name) != wanted.settings.get(name)
    ]
    raise FileExistsError(
        f"output folder {folder} holds another run, different in {', '.join(different)}; choose another"
    )
