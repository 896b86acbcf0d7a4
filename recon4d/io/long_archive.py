"""The archive of a long clip: a folder with one ``scene.npz`` of a single frame for every frame, and an index.

``frames/000123.npz`` is an archive as `archive` describes it, of frame 123 alone: T = 1, in the world of the whole
clip. It has ``tracks_`` arrays only if the tracks of the frame are known. They then belong to the queries of the first
frame, and ``tracks_anchors`` is -1 in every file but that of frame 0. A query whose track has ended has confidence 0,
visibility 0 and its last known position. ``numpy.load`` and `load_scene` open the file. ``frames/000123.jpg`` beside it
is the picture from which the frame was reconstructed (without lens distortion if that was known), at the size of the
clip.

``index.npz`` is small and written last: if it exists, the folder is complete. For T frames from W windows it holds

===================  ============  ====================================================================================
name                 shape         meaning
===================  ============  ====================================================================================
world_from_cam       (T, 4, 4)     as in the files of the frames: rigid, camera to world, OpenCV axes
intrinsics           (T, 3, 3)     in pixels of the maps in the files of the frames
times                (T,)          seconds; NaN: photos without an order
size                 (2,)          height and width of the maps in pixels
windows              (T,)          number of the window that each frame was taken from
world_from_window    (W, 4, 4)     float64: similarity from the world of each window to that of the clip
errors               (W,)          median error of the points by which a window was aligned, relative to their depth
metres_per_unit      ()            length of the unit in meters; NaN: unknown
distortion           (5,)          lens distortion that was removed from all pictures; absent if none was
refinements          ()            a JSON string: a list with how each window was refined; absent if none was tried
info                 ()            a JSON string: the fields of `SceneInfo`
===================  ============  ====================================================================================
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.archive import FRAMES_FOLDER_NAME, check_run_has_ended, load_cameras, load_scene, save_scene
from recon4d.io.checked_cameras import camera_problem
from recon4d.io.files import atomic_file
from recon4d.io.npz_arrays import check_arrays, load_arrays, save_arrays
from recon4d.io.photos import write_jpeg
from recon4d.io.scene_info import SceneInfo
from recon4d.records import (
    Cameras,
    ClipSource,
    RefinementSummary,
    Scene,
    Tracks,
    config_from_json,
    config_to_json,
)

INDEX_FILE_NAME = "index.npz"

_FIELD_NAMES = ("times", "size", "windows", "world_from_window", "errors", "metres_per_unit")
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "world_from_cam": ("T", 4, 4),
    "intrinsics": ("T", 3, 3),
    "times": ("T",),
    "size": (2,),
    "windows": ("T",),
    "world_from_window": ("W", 4, 4),
    "errors": ("W",),
    "metres_per_unit": (),
    "distortion": (5,),
}
_OPTIONAL = ("distortion", "refinements")
_MAP_NAMES = ("depths", "depth_confidence", "points", "point_confidence", "dynamic")
"""Fields of `Scene` with a map for each frame."""


@dataclass(frozen=True)
class LongScene:
    """The contents of ``index.npz``: the cameras of all frames of a long clip and everything else that is small."""

    cameras: Cameras
    """Cameras of all frames in the world of the clip; intrinsics in pixels of the maps."""
    times: Float[Tensor, " time"]
    """Times of the frames in seconds, of shape (time,); NaN for photos without an order."""
    size: tuple[int, int]
    """Height and width of the maps in pixels."""
    windows: Int[Tensor, " time"]
    """Number of the window that each frame was taken from, of shape (time,)."""
    world_from_window: Float[Tensor, "window 4 4"]
    """Similarities from the world of each window to that of the clip, of shape (window, 4, 4), float64."""
    errors: Float[Tensor, " window"]
    """Median errors of the points by which each window was aligned, relative to their depth, of shape (window,)."""
    metres_per_unit: float
    """Length of the unit in meters; NaN if unknown."""
    info: SceneInfo
    """How the scene was made."""
    refinements: tuple[RefinementSummary | None, ...] = ()
    """How each window was refined, with frame numbers of the clip; empty if refinement was not tried."""
    distortion: Float[Tensor, "5"] | None = None
    """Lens distortion k1, k2, p1, p2, k3 that was removed from the pictures of all frames; None if none was."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.times)


def frame_file(folder: Path, number: int) -> Path:
    """Name the archive of one frame.

    Args:
        folder: The folder of a long clip.
        number: The frame number, from 0.

    Returns:
        The path, which need not exist.
    """
    return folder / FRAMES_FOLDER_NAME / f"{number:06d}.npz"


def save_frame(folder: Path, number: int, scene: Scene, time: float, info: SceneInfo) -> None:
    """Write the archive of one frame.

    Args:
        folder: The folder of the long clip; its subfolder ``frames`` must exist.
        number: The frame number, from 0.
        scene: The scene of this frame alone, in the world of the clip.
        time: Time of the frame in seconds; NaN if it has none.
        info: Info of the whole clip.

    Raises:
        UserError: If the file cannot be written.
    """
    assert scene.num_frames == 1
    if info.source is not None:
        source = ClipSource(info.source.path, (info.source.names[number],), (info.source.numbers[number],))
        info = replace(info, source=source)
    # Curves of the whole clip would be repeated in every file.
    save_scene(frame_file(folder, number), replace(scene, trajectories=None), torch.tensor([time]), info)


def image_file(folder: Path, number: int) -> Path:
    """Name the picture of one frame.

    Args:
        folder: The folder of a long clip.
        number: The frame number, from 0.

    Returns:
        The path, which need not exist.
    """
    return folder / FRAMES_FOLDER_NAME / f"{number:06d}.jpg"


def save_image(folder: Path, number: int, image: UInt8[Tensor, "3 height width"]) -> None:
    """Write the picture of one frame as JPEG, which appears complete or not at all.

    Args:
        folder: The folder of the long clip; its subfolder ``frames`` must exist.
        number: The frame number, from 0.
        image: RGB image of shape (3, height, width).

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_file(image_file(folder, number)) as partial:
        write_jpeg(partial, image)


def save_index(folder: Path, index: LongScene) -> None:
    """Write ``index.npz``, which marks the folder as complete.

    Args:
        folder: The folder of the long clip, with the files of all frames.
        index: The index.

    Raises:
        UserError: If the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {name: np.asarray(getattr(index, name)) for name in _FIELD_NAMES}
    arrays["world_from_cam"] = index.cameras.world_from_cam.numpy()
    arrays["intrinsics"] = index.cameras.intrinsics.numpy()
    arrays["info"] = np.array(index.info.to_json())
    if index.distortion is not None:
        arrays["distortion"] = index.distortion.numpy()
    if index.refinements:
        arrays["refinements"] = np.array(json.dumps([config_to_json(summary) for summary in index.refinements]))
    save_arrays(folder / INDEX_FILE_NAME, arrays)


def load_index(folder: str | Path) -> LongScene:
    """Read the index of a long clip, without reading its frames.

    Args:
        folder: The folder of a long clip.

    Returns:
        The index.

    Raises:
        UserError: If there is none, because the run has not ended, or if it is damaged or foreign.
    """
    path = Path(folder) / INDEX_FILE_NAME
    if not path.exists():
        check_run_has_ended(Path(folder))
        raise UserError(f"{path} does not exist; wanted the folder of a long clip whose run has ended")
    arrays = load_arrays(path, [*_SHAPES, "info", "refinements"])
    try:
        required = [name for name in (*_SHAPES, "info") if name not in _OPTIONAL]
        check_arrays(arrays, _SHAPES, required, ["size", "windows"])
        info = SceneInfo.from_json(str(arrays["info"]))
        refinements = _parse_refinements(arrays)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    tensors = {name: torch.from_numpy(arrays[name]) for name in _SHAPES if name in arrays}
    height, width = tensors["size"].tolist()
    problem = camera_problem(tensors["world_from_cam"], tensors["intrinsics"], allow_unknown=True)
    if problem is not None:
        raise UserError(f"cannot read {path}: it {problem}")
    return LongScene(
        cameras=Cameras(tensors["world_from_cam"], tensors["intrinsics"]),
        times=tensors["times"],
        size=(height, width),
        windows=tensors["windows"],
        world_from_window=tensors["world_from_window"],
        errors=tensors["errors"],
        metres_per_unit=float(tensors["metres_per_unit"]),
        info=info,
        refinements=refinements,
        distortion=tensors.get("distortion"),
    )


def _parse_refinements(arrays: Mapping[str, np.ndarray]) -> tuple[RefinementSummary | None, ...]:
    if "refinements" not in arrays:
        return ()
    try:
        values = json.loads(str(arrays["refinements"]))
    except (ValueError, RecursionError) as error:
        raise UserError(f"refinements is not JSON: {error}") from error
    if not isinstance(values, list):
        raise UserError(f"refinements is {str(values)[:60]!r}, wanted a list")
    return tuple(None if value is None else config_from_json(RefinementSummary, value) for value in values)


def load_frames(folder: str | Path, numbers: Sequence[int]) -> Scene:
    """Read some frames of a long clip into one scene.

    Args:
        folder: The folder of a long clip.
        numbers: Frame numbers, from 0, in the order wanted. All of them are held in memory; `iter_frames` reads them
            one by one.

    Returns:
        The scene in the world of the clip. It has tracks if all of these frames have them.

    Raises:
        ValueError: If `numbers` is empty.
        UserError: If the file of a frame is missing or damaged.
    """
    if not numbers:
        raise ValueError("no frame numbers were given; wanted at least one")
    return _concatenate(list(iter_frames(Path(folder), numbers)))


def iter_frames(folder: Path, numbers: Sequence[int] | None = None) -> Iterator[Scene]:
    """Iterate over the frames of a long clip in bounded memory.

    A frame is read when the iterator reaches it, and only one frame is held at a time. `load_index` gives the cameras,
    times and map size of all frames.

    Args:
        folder: The folder of a long clip.
        numbers: Frame numbers, from 0, in the order wanted. None iterates over all frames.

    Returns:
        An iterator over scenes of one frame each, in the world of the clip.

    Raises:
        UserError: If `numbers` is None and the index is missing or damaged. While iterating: if the file of a frame is
            missing or damaged.
    """
    if numbers is None:
        numbers = range(load_index(folder).num_frames)
    return (load_scene(frame_file(folder, number)) for number in numbers)


def load_frame_cameras(folder: Path, numbers: Sequence[int]) -> Cameras:
    """Read the cameras of some frames from their own files, without reading maps and without an index.

    Args:
        folder: The folder of a long clip, whose run need not have ended.
        numbers: Frame numbers, from 0, in the order wanted.

    Returns:
        The cameras in the world of the clip.

    Raises:
        UserError: If the file of a frame is missing or damaged.
    """
    cameras = [load_cameras(frame_file(folder, number)) for number in numbers]
    return Cameras(torch.cat([one.world_from_cam for one in cameras]), torch.cat([one.intrinsics for one in cameras]))


def _concatenate(scenes: Sequence[Scene]) -> Scene:
    """Concatenate scenes of one world and one size along time, with tracks if all of them have tracks."""
    cameras = Cameras(
        world_from_cam=torch.cat([scene.cameras.world_from_cam for scene in scenes]),
        intrinsics=torch.cat([scene.cameras.intrinsics for scene in scenes]),
    )
    maps = {name: torch.cat([getattr(scene, name) for scene in scenes]) for name in _MAP_NAMES}
    tracks = _concatenate_tracks([scene.tracks for scene in scenes])
    return replace(scenes[0], cameras=cameras, tracks=tracks, trajectories=None, **maps)


def _concatenate_tracks(tracks: Sequence[Tracks | None]) -> Tracks | None:
    """Concatenate tracks of the same queries along time; an anchor that no part contains stays -1."""
    parts = [part for part in tracks if part is not None]
    if len(parts) < len(tracks):
        return None
    starts = np.cumsum([0, *(part.points.shape[-3] for part in parts)])
    anchors = parts[0].anchors.new_full(parts[0].anchors.shape, -1)
    for part, start in zip(parts, starts[:-1].tolist(), strict=True):
        anchors = torch.where(part.anchors >= 0, part.anchors + start, anchors)
    return replace(
        parts[0],
        points=torch.cat([part.points for part in parts], dim=-3),
        visibility=torch.cat([part.visibility for part in parts], dim=-2),
        confidence=torch.cat([part.confidence for part in parts], dim=-2),
        anchors=anchors,
    )
