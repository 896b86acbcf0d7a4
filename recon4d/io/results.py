"""The files of a reconstruction: archive, frames, depth video, camera path and point cloud."""

import warnings
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.archive import FRAMES_FOLDER_NAME, SCENE_FILE_NAME, save_scene
from recon4d.io.photos import PHOTO_SUFFIXES, write_jpeg
from recon4d.io.point_cloud import NoConfidentPointsError, write_point_cloud
from recon4d.io.scene_info import SceneInfo
from recon4d.io.videos import write_video
from recon4d.io.visualization import depth_video_frames, write_camera_path
from recon4d.records import Clip, ClipSource, Scene

DEPTH_VIDEO_NAME = "depth.mp4"
CAMERA_PATH_NAME = "cameras.png"
POINT_CLOUD_NAME = "points.ply"

MIN_FRAME_RATE, MAX_FRAME_RATE = 2.0, 30.0
"""Range of the depth video's frames per second. Hand-tuned."""
FRAME_RATE_WITHOUT_TIMES = 4.0
"""Frames per second of the depth video for photos without times. Hand-tuned."""


def write_results(folder: str | Path, clip: Clip, scene: Scene, info: SceneInfo) -> None:
    """Write all files of a reconstruction into a folder.

    These are ``scene.npz`` (see `archive`), ``frames/`` (the frames of the clip at their own size, as JPEG under their
    own names), ``depth.mp4``, ``cameras.png`` and ``points.ply``. If no point is confident, ``points.ply`` is left out
    with a warning. `atomic_folder` provides a folder that appears complete or not at all.

    Args:
        folder: An existing empty folder.
        clip: The clip.
        scene: The scene of the same frames, possibly at another size.
        info: How the scene was made.

    Raises:
        ValueError: If clip and scene do not belong together.
        UserError: If a file cannot be written.
    """
    folder = Path(folder)
    save_scene(folder / SCENE_FILE_NAME, scene, clip.times, info)
    _write_frames(folder / FRAMES_FOLDER_NAME, clip)
    write_video(folder / DEPTH_VIDEO_NAME, depth_video_frames(clip, scene), _frames_per_second(clip.times))
    write_camera_path(folder / CAMERA_PATH_NAME, scene, clip.times)
    try:
        write_point_cloud(folder / POINT_CLOUD_NAME, scene, clip)
    except NoConfidentPointsError as error:
        warnings.warn(f"{POINT_CLOUD_NAME} is left out: {error}", stacklevel=2)


def frame_file_names(source: ClipSource | None, num_frames: int) -> list[str]:
    """Choose a file name for each frame, all different.

    Args:
        source: Source of the clip, whose names the files get. None numbers the files.
        num_frames: Number of frames.

    Returns:
        Names of JPEG files. If several would be equal, all are numbered, with a warning.

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
    for name, image in zip(frame_file_names(clip.source, clip.num_frames), clip.images, strict=True):
        write_jpeg(folder / name, image)


def _file_names(source: ClipSource | None, num_frames: int) -> tuple[list[str], list[str]]:
    """File names of the frames, and those (in lower case) that would have repeated."""
    numbered = [f"frame_{number:06d}.jpg" for number in range(num_frames)]
    if source is None:
        return numbered, []
    if len(source.names) != num_frames:
        raise UserError(f"the clip's source names {len(source.names)} frames, but the clip has {num_frames}")
    names = [_jpeg_name(name) for name in source.names]
    # File systems of macOS and Windows do not distinguish a.jpg from A.jpg.
    repeated = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    return (numbered if repeated else names), repeated


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
