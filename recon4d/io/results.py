"""The files of a reconstruction: archive, frames, depth video, camera path and point cloud."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePath

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError, one_line
from recon4d.io.archive import FRAMES_FOLDER_NAME, SCENE_FILE_NAME, save_scene
from recon4d.io.fitting import Placement
from recon4d.io.photos import PHOTO_SUFFIXES, write_jpeg
from recon4d.io.point_cloud import write_point_cloud
from recon4d.io.scene_info import SceneInfo
from recon4d.io.videos import write_video
from recon4d.io.visualization import check_pair, depth_video_frames, write_camera_path
from recon4d.records import Clip, ClipSource, Scene

DEPTH_VIDEO_NAME = "depth.mp4"
CAMERA_PATH_NAME = "cameras.png"
POINT_CLOUD_NAME = "points.ply"

MIN_FRAME_RATE, MAX_FRAME_RATE = 2.0, 30.0
"""Range of the depth video's frames per second. Hand-tuned."""
FRAME_RATE_WITHOUT_TIMES = 4.0
"""Frames per second of the depth video for photos without times. Hand-tuned."""


def write_results(folder: str | Path, clip: Clip, scene: Scene, info: SceneInfo, half_maps: bool = False) -> None:
    """Write all files of a reconstruction into a folder.

    These are ``scene.npz`` (see `archive`), ``frames/`` (the frames of the clip at their own size, as JPEG under their
    own names), ``depth.mp4``, ``cameras.png`` and ``points.ply``. The last three are for viewing and follow from the
    others: one that cannot be made, for whatever reason, is left out with a warning. `atomic_folder` provides a folder
    that appears complete or not at all.

    Args:
        folder: An existing empty folder.
        clip: The clip.
        scene: The scene of the same frames, possibly at another size.
        info: How the scene was made.
        half_maps: Whether the archive stores maps as float16 where that is safe, see `save_scene`.

    Raises:
        ValueError: If clip and scene do not belong together.
        UserError: If the archive or a frame cannot be written.
    """
    check_pair(clip, scene)
    folder = Path(folder)
    save_scene(folder / SCENE_FILE_NAME, scene, clip.times, info, half_maps=half_maps)
    _write_frames(folder / FRAMES_FOLDER_NAME, clip)
    rate = _frames_per_second(clip.times)
    previews: dict[str, Callable[[Path], None]] = {
        DEPTH_VIDEO_NAME: lambda path: write_video(path, depth_video_frames(clip, scene), rate),
        CAMERA_PATH_NAME: lambda path: write_camera_path(path, scene, clip.times),
        POINT_CLOUD_NAME: lambda path: write_point_cloud(path, scene, clip),
    }
    for name, write in previews.items():
        _write_preview(folder / name, write)


def _write_preview(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file for viewing. The result, which may have taken hours, must not be lost if that fails."""
    try:
        write(path)
    except Exception as error:  # codecs and drawing fail in unforeseen ways, and even a defect must not cost the result
        path.unlink(missing_ok=True)
        reason = one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        warnings.warn(f"{path.name} is left out: {reason}", stacklevel=3)


def frame_file_names(source: ClipSource | None, num_frames: int) -> list[str]:
    """Choose a file name for each frame, all different.

    Args:
        source: Source of the clip, whose names the files get. None numbers the files.
        num_frames: Number of frames.

    Returns:
        Names of JPEG files. If several would be equal, all begin with the names of their folders (``left_0001.jpg``);
        if that does not help, all are numbered, with a warning.

    Raises:
        UserError: If `source` has another number of frames.
    """
    names, repeated = _file_names(source, num_frames)
    if repeated:
        warnings.warn(f"several frames would be called {repeated[0]}: all are numbered instead", stacklevel=3)
    return names


def expected_frame_files(folder: Path, info: SceneInfo, num_frames: int) -> list[Path]:
    """List the frame files of a complete result.

    Args:
        folder: Folder of the result.
        info: Info of its scene.
        num_frames: Number of frames of its scene.

    Returns:
        The paths, which need not exist.

    Raises:
        UserError: If the info has another number of frames.
    """
    return [folder / FRAMES_FOLDER_NAME / name for name in _file_names(info.source, num_frames)[0]]


def _write_frames(folder: Path, clip: Clip) -> None:
    folder.mkdir()
    sizes = [clip.size] * clip.num_frames if clip.source is None or not clip.source.sizes else clip.source.sizes
    for name, image, size in zip(frame_file_names(clip.source, clip.num_frames), clip.images, sizes, strict=True):
        write_jpeg(folder / name, Placement(size, clip.size).cut_out(image))


def _file_names(source: ClipSource | None, num_frames: int) -> tuple[list[str], list[str]]:
    """File names of the frames, and those (in lower case) that would have repeated with their folders too."""
    numbered = [f"frame_{number:06d}.jpg" for number in range(num_frames)]
    if source is None:
        return numbered, []
    if len(source.names) != num_frames:
        raise UserError(f"the clip's source names {len(source.names)} frames, but the clip has {num_frames}")
    names = [_jpeg_name(name) for name in source.names]
    # File systems of macOS and Windows do not distinguish a.jpg from A.jpg.
    if not _repeated(names):
        return names, []
    joined = [_jpeg_name("_".join(PurePath(name).parts)) for name in source.names]
    repeated = _repeated(joined)
    return (numbered if repeated else joined), repeated


def _repeated(names: list[str]) -> list[str]:
    return [name for name, count in Counter(name.lower() for name in names).items() if count > 1]


def _jpeg_name(name: str) -> str:
    """The name of a frame as a JPEG file directly in its folder: ``left/0001.png`` becomes ``0001.jpg``."""
    path = Path(name)
    return f"{path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name}.jpg"


def _frames_per_second(times: Float[Tensor, " time"]) -> float:
    """The median rate of the clip, clamped to [`MIN_FRAME_RATE`, `MAX_FRAME_RATE`]."""
    if len(times) < 2 or not torch.isfinite(times).all():
        return FRAME_RATE_WITHOUT_TIMES
    step = float(times.double().sort().values.diff().median())
    return min(max(1 / step, MIN_FRAME_RATE), MAX_FRAME_RATE) if step > 0 else MAX_FRAME_RATE
