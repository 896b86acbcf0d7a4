"""Reading of clips: a video, a folder of pictures or a list of them becomes a `Clip`."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.frame_selection import check_selection, select_at_rate, select_evenly, select_range
from recon4d.io.photos import PHOTO_SUFFIXES, list_clip_photos, read_photo
from recon4d.io.videos import ScannedVideo, read_frames, use_video
from recon4d.records import Clip, ClipSource

DEFAULT_NUM_FRAMES = 16
"""Number of frames of a clip unless given. Hand-tuned: one pass over them fits common GPUs."""


def read_clip(
    path: str | Path | Sequence[str | Path],
    num_frames: int | None = DEFAULT_NUM_FRAMES,
    fps: float | None = None,
    start: float | None = None,
    stop: float | None = None,
) -> Clip:
    """Read a clip and select its frames.

    Without `fps`, frames are evenly distributed in time over [start, stop], the first and the last frame of that range
    included. With `fps`, the frames of a video nearest to start, start + 1 / fps, ... are taken instead. Pictures have
    no times (NaN). Given `fps`, they are a sequence taken at that rate: they have times, and `start` and `stop` apply.

    Args:
        path: A video file, a picture file, a folder of pictures, or a list of picture files.
        num_frames: Number of frames, or the maximum with `fps` for a video. None takes every frame; so does a range
            with fewer frames.
        fps: Frames per second.
        start: Seconds from the first frame. None means the first frame.
        stop: Seconds from the first frame. None means the last frame.

    Returns:
        The clip with its source.

    Raises:
        UserError: If an option is out of range, the path does not exist, is not a video or picture or holds no
            pictures, if the range has no frames, or if pictures differ in size.
    """
    if num_frames is not None and num_frames < 1:
        raise UserError(f"num_frames = {num_frames}; wanted at least 1")
    check_selection(fps, start, stop)
    if not isinstance(path, str | Path):
        photos = [Path(photo) for photo in path]
        if not photos:
            raise UserError("the list of pictures is empty; wanted at least one")
        return _read_photos(str(photos[0].parent), photos, num_frames, fps, start, stop)
    if Path(path).is_dir():
        return _read_photos(str(path), list_clip_photos(path), num_frames, fps, start, stop)
    if Path(path).suffix.lower() in PHOTO_SUFFIXES:
        return _read_photos(str(path), [Path(path)], num_frames, fps, start, stop)
    return _read_video(Path(path), num_frames, fps, start, stop)


def check_photo_range(path: str | Path, fps: float | None, start: float | None, stop: float | None) -> None:
    """Refuse a range of times for pictures without times.

    Args:
        path: Folder of the pictures, for the message.
        fps: Rate at which the pictures were taken. None means that they have no times.
        start: Start of the range in seconds, or None.
        stop: End of the range in seconds, or None.

    Raises:
        UserError: If there is a range but no rate.
    """
    if fps is None and (start is not None or stop is not None):
        raise UserError(f"start and stop need times, and pictures ({path}) have none; give fps if they are a sequence")


def _read_video(path: Path, num_frames: int | None, fps: float | None, start: float | None, stop: float | None) -> Clip:
    def read(video: ScannedVideo) -> Clip:
        in_range = select_range(str(path), video.times, start, stop)
        times = [video.times[i] for i in in_range]
        if fps is None:
            chosen = select_evenly(times, num_frames or len(times))
        else:
            chosen = select_at_rate(times, start or 0.0, fps)[:num_frames]
        numbers = [in_range[i] for i in chosen]
        names = [f"{path.stem}_{number:06d}" for number in numbers]
        images = _gather(zip(names, read_frames(video, numbers), strict=True), len(numbers))
        source = ClipSource(path=str(path), names=tuple(names), numbers=tuple(numbers))
        return Clip(images=images, times=torch.tensor([times[i] for i in chosen]), source=source)

    return use_video(path, stop, read)


def _read_photos(
    path: str,
    photos: list[Path],
    num_frames: int | None,
    fps: float | None,
    start: float | None,
    stop: float | None,
) -> Clip:
    check_photo_range(path, fps, start, stop)
    # Photos without times are distributed evenly by their position in the list.
    times = [i / (fps or 1.0) for i in range(len(photos))]
    in_range = select_range(path, times, start, stop)
    numbers = [in_range[i] for i in select_evenly([times[i] for i in in_range], num_frames or len(in_range))]
    chosen = [photos[i] for i in numbers]
    images = _gather(((str(photo), read_photo(photo)) for photo in chosen), len(chosen))
    return Clip(
        images=images,
        times=torch.tensor([times[i] if fps else math.nan for i in numbers]),
        source=ClipSource(path=path, names=tuple(photo.name for photo in chosen), numbers=tuple(numbers)),
    )


def _gather(named_images: Iterable[tuple[str, Tensor]], count: int) -> UInt8[Tensor, "time 3 height width"]:
    """Collect `count` images of one size in one tensor without holding two copies of a large clip."""
    gathered, first_name = torch.empty(0), ""
    for position, (name, image) in enumerate(named_images):
        if position == 0:
            gathered, first_name = image.new_empty((count, *image.shape)), name
        if image.shape != gathered.shape[1:]:
            raise UserError(
                f"{name} is {image.shape[2]}x{image.shape[1]} but {first_name} is "
                f"{gathered.shape[3]}x{gathered.shape[2]}; a clip needs images of one size"
            )
        gathered[position] = image
    return gathered
