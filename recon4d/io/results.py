"""Everything that a reconstruction leaves on the disk: archive, frames, depth video, camera path, point cloud."""

import warnings
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.io.archive import SCENE_FILE_NAME, SceneInfo, save_scene
from recon4d.io.photos import PHOTO_SUFFIXES, write_jpeg
from recon4d.io.point_cloud import NoConfidentPointsError, write_point_cloud
from recon4d.io.videos import write_video
from recon4d.io.visualization import depth_video_frames, write_camera_path
from recon4d.records import Clip, ClipSource, Scene

SLOWEST, FASTEST, WITHOUT_TIMES = 2.0, 30.0, 4.0
"""Frames per second of the depth video: the least, the most, and for photos without an order."""


def write_results(folder: str | Path, clip: Clip, scene: Scene, info: SceneInfo) -> None:
    """Write what is known of a clip into the existing `folder`; `atomic_folder` gives one that is whole or not there.

    ``scene.npz`` (see `archive`), ``frames/`` (the clip's frames at their own size, as JPEG under their own names),
    ``depth.mp4``, ``cameras.png`` and ``points.ply``. The scene may be at another size than the clip. Without a
    single confident point there is no ``points.ply``, and a warning. Raises ``ValueError`` when clip and scene do
    not belong together, ``OSError`` when something cannot be written.
    """
    folder = Path(folder)
    save_scene(folder / SCENE_FILE_NAME, scene, clip.times, info)
    _write_frames(folder / "frames", clip)
    write_video(folder / "depth.mp4", depth_video_frames(clip, scene), _frames_per_second(clip.times))
    write_camera_path(folder / "cameras.png", scene, clip.times)
    try:
        write_point_cloud(folder / "points.ply", scene, clip)
    except NoConfidentPointsError as error:
        warnings.warn(f"points.ply is left out: {error}", stacklevel=2)


def _write_frames(folder: Path, clip: Clip) -> None:
    folder.mkdir()
    for name, image in zip(frame_file_names(clip.source, clip.num_frames), clip.images, strict=True):
        write_jpeg(folder / name, image)


def frame_file_names(source: ClipSource | None, num_frames: int) -> list[str]:
    """One file name for each frame, no two alike."""
    numbered = [f"frame_{number:06d}.jpg" for number in range(num_frames)]
    if source is None:
        return numbered
    if len(source.names) != num_frames:
        raise ValueError(f"the clip's source names {len(source.names)} frames, but the clip has {num_frames}")
    names = [_jpeg_name(name) for name in source.names]
    # Folders of macOS and Windows do not tell a.jpg from A.jpg.
    twice = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if twice:
        warnings.warn(f"several frames would be called {twice[0]}: all are numbered instead", stacklevel=4)
        return numbered
    return names


def _jpeg_name(name: str) -> str:
    """The name of a frame as a JPEG file directly in its folder: ``left/0001.png`` becomes ``0001.jpg``."""
    path = Path(name)
    return f"{path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name}.jpg"


def _frames_per_second(times: Float[Tensor, " time"]) -> float:
    """That at which the clip was taken, within limits that are pleasant to watch."""
    if len(times) < 2 or not torch.isfinite(times).all():
        return WITHOUT_TIMES
    step = float(times.double().sort().values.diff().median())
    return min(max(1 / step, SLOWEST), FASTEST) if step > 0 else FASTEST
