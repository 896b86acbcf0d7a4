"""The archive of a long clip: a folder with one ``scene.npz`` of a single frame for every frame, and an index.

``frames/000123.npz`` is an archive as `archive` describes it, of frame 123 alone: T = 1, in the world of the whole
clip, with ``tracks_`` arrays only where a frame's tracks are known (then of the first frame's queries, and
``tracks_anchors`` is -1 everywhere but in frame 0; a query that has ended has confidence 0, visibility 0 and the place
where it was last known). ``numpy.load`` and `load_scene` open it. ``frames/000123.jpg`` beside it is the picture as it
was reconstructed (without lens distortion where that was known), at the clip's own size.

``index.npz`` is small, and written last: where it is, the folder is whole. For T frames from W windows it holds

===================  ============  ====================================================================================
name                 shape         what it is
===================  ============  ====================================================================================
world_from_cam       (T, 4, 4)     as in every frame's own file: rigid, camera to world, OpenCV axes
intrinsics           (T, 3, 3)     in pixels of the maps in the frames' files
times                (T,)          seconds; NaN: photos without an order
size                 (2,)          height and width of the maps in pixels
windows              (T,)          the window whose answer each frame is
world_from_window    (W, 4, 4)     float64: the similarity that took each window's own world into this one
errors               (W,)          median error of the points a window was joined by, as a share of their depth
metres_per_unit      ()            length of the unit in meters; NaN: unknown
info                 ()            a JSON string: the fields of `SceneInfo`
===================  ============  ====================================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon4d.io.archive import SceneInfo, load_scene, save_scene
from recon4d.io.files import atomic_file
from recon4d.io.npz_arrays import load_arrays, save_arrays
from recon4d.io.photos import write_jpeg
from recon4d.records import (
    Cameras,
    ClipSource,
    Scene,
    Tracks,
)

INDEX_FILE_NAME = "index.npz"
FRAMES_FOLDER_NAME = "frames"

_ARRAY_NAMES = ("times", "size", "windows", "world_from_window", "errors", "metres_per_unit")


@dataclass(frozen=True)
class LongScene:
    """What ``index.npz`` holds: everything about a long clip that is small, and the cameras of all frames."""

    cameras: Cameras
    times: Float[Tensor, " time"]
    size: tuple[int, int]
    windows: Int[Tensor, " time"]
    world_from_window: Float[Tensor, "window 4 4"]
    errors: Float[Tensor, " window"]
    metres_per_unit: float
    info: SceneInfo

    @property
    def num_frames(self) -> int:
        return len(self.times)


def frame_file(folder: Path, number: int) -> Path:
    """The file of one frame in the folder of a long clip."""
    return folder / FRAMES_FOLDER_NAME / f"{number:06d}.npz"


def save_frame(folder: Path, number: int, scene: Scene, time: float, info: SceneInfo) -> None:
    """Write the scene of frame `number` alone (one frame, in the clip's world); `info` is that of the whole clip."""
    assert scene.num_frames == 1
    if info.source is not None:
        source = ClipSource(info.source.path, (info.source.names[number],), (info.source.numbers[number],))
        info = replace(info, source=source)
    save_scene(frame_file(folder, number), scene, torch.tensor([time]), info)


def picture_file(folder: Path, number: int) -> Path:
    """The picture of one frame in the folder of a long clip."""
    return folder / FRAMES_FOLDER_NAME / f"{number:06d}.jpg"


def save_picture(folder: Path, number: int, image: UInt8[Tensor, "3 height width"]) -> None:
    """Write the picture of frame `number` as JPEG, whole or not at all."""
    with atomic_file(picture_file(folder, number)) as partial:
        write_jpeg(partial, image)


def save_index(folder: Path, index: LongScene) -> None:
    """Write ``index.npz``, which says that the folder is whole."""
    arrays: dict[str, np.ndarray] = {name: np.asarray(getattr(index, name)) for name in _ARRAY_NAMES}
    arrays["world_from_cam"] = index.cameras.world_from_cam.numpy()
    arrays["intrinsics"] = index.cameras.intrinsics.numpy()
    arrays["info"] = np.array(index.info.to_json())
    save_arrays(folder / INDEX_FILE_NAME, arrays)


def load_index(folder: str | Path) -> LongScene:
    """The index of the long clip in `folder`, its frames unread.

    Raises ``FileNotFoundError`` where there is none (a run that has not ended has none yet), ``ValueError`` for one
    that is damaged or foreign.
    """
    path = Path(folder) / INDEX_FILE_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; wanted the folder of a long clip whose run has ended")
    arrays = load_arrays(path)
    missing = sorted({*_ARRAY_NAMES, "world_from_cam", "intrinsics", "info"} - arrays.keys())
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}, so recon4d did not write it")
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name != "info"}
    height, width = tensors["size"].tolist()
    return LongScene(
        cameras=Cameras(tensors["world_from_cam"], tensors["intrinsics"]),
        times=tensors["times"],
        size=(height, width),
        windows=tensors["windows"],
        world_from_window=tensors["world_from_window"],
        errors=tensors["errors"],
        metres_per_unit=float(tensors["metres_per_unit"]),
        info=SceneInfo.from_json(str(arrays["info"])),
    )


def load_frames(folder: str | Path, numbers: Sequence[int]) -> Scene:
    """The scene of the frames `numbers` of a long clip, in the order given and in the clip's world.

    Tracks come along where all of these frames have them. Only these frames are held in memory. Raises
    ``FileNotFoundError`` for a frame that is not there, ``ValueError`` for no frames or a damaged file.
    """
    if not numbers:
        raise ValueError("no frame was asked for; wanted at least one")
    return _joined_in_time([load_scene(frame_file(Path(folder), number)) for number in numbers])


def load_frame_cameras(folder: Path, numbers: Sequence[int]) -> Cameras:
    """The cameras of the frames `numbers`, one file after the other and their maps unread."""
    world_from_cam, intrinsics = [], []
    for number in numbers:
        with np.load(frame_file(folder, number), allow_pickle=False) as arrays:
            world_from_cam.append(torch.from_numpy(arrays["world_from_cam"]))
            intrinsics.append(torch.from_numpy(arrays["intrinsics"]))
    return Cameras(torch.cat(world_from_cam), torch.cat(intrinsics))


def _joined_in_time(scenes: Sequence[Scene]) -> Scene:
    """One scene of all frames of `scenes`, which are of one world and one size; tracks where all have them."""

    def along_time(name: str, axis: int) -> Tensor:
        return torch.cat([getattr(scene, name) for scene in scenes], dim=axis)

    return replace(
        scenes[0],
        cameras=Cameras(
            world_from_cam=torch.cat([scene.cameras.world_from_cam for scene in scenes]),
            intrinsics=torch.cat([scene.cameras.intrinsics for scene in scenes]),
        ),
        **{
            name: along_time(name, 0) for name in ("depths", "depth_confidence", "points", "point_confidence", "moving")
        },
        tracks=_joined_tracks([scene.tracks for scene in scenes]),
    )


def _joined_tracks(tracks: Sequence[Tracks | None]) -> Tracks | None:
    """The tracks of the same queries at all times; the anchor is the frame of whichever part has it (-1: none)."""
    known = [part for part in tracks if part is not None]
    if len(known) < len(tracks):
        return None
    starts = np.cumsum([0, *(part.points.shape[-3] for part in known)])
    anchors = known[0].anchors.new_full(known[0].anchors.shape, -1)
    for part, start in zip(known, starts[:-1].tolist(), strict=True):
        anchors = torch.where(part.anchors >= 0, part.anchors + start, anchors)
    return replace(
        known[0],
        points=torch.cat([part.points for part in known], dim=-3),
        visibility=torch.cat([part.visibility for part in known], dim=-2),
        confidence=torch.cat([part.confidence for part in known], dim=-2),
        anchors=anchors,
    )
