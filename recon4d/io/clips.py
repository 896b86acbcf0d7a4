"""Reads a clip: a video, a folder of pictures or a list of them becomes a `Clip` that knows where it came from."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.io.frame_selection import at_rate, positions_within, spread_evenly
from recon4d.io.photos import PHOTO_SUFFIXES, list_photos, read_photo
from recon4d.io.videos import read_frames, scan_video
from recon4d.records import Clip, ClipSource

DEFAULT_NUM_FRAMES = 16


def read_clip(
    path: str | Path | Sequence[str | Path],
    num_frames: int | None = DEFAULT_NUM_FRAMES,
    fps: float | None = None,
    start: float | None = None,
    stop: float | None = None,
) -> Clip:
    """The clip at `path`: a video file, a picture file, a folder of pictures, or a list of picture files.

    `num_frames` frames are spread evenly in time over [start, stop] (seconds from the first frame; the whole video
    unless given), the first and the last frame of that stretch included. None takes every frame; a stretch with
    fewer frames is taken whole.

    With `fps`, a video's frames nearest to start, start + 1 / fps, ... are taken instead, `num_frames` of them at the
    most. Pictures have no times (NaN); given `fps` they are a sequence taken at that rate, have times, and `start`
    and `stop` apply.

    Raises `FileNotFoundError` for what is not there and `ValueError` for what cannot be read as a clip: a file that is
    no video or picture, a folder without pictures, pictures of several sizes, a stretch without frames.
    """
    _check_wishes(num_frames, fps, start, stop)
    if not isinstance(path, str | Path):
        photos = [Path(photo) for photo in path]
        if not photos:
            raise ValueError("the list of pictures is empty; wanted at least one")
        return _read_photos(str(photos[0].parent), photos, num_frames, fps, start, stop)
    if Path(path).is_dir():
        photos = list_photos(path)
        if not photos:
            raise ValueError(f"{path} holds no pictures; wanted files ending in {', '.join(sorted(PHOTO_SUFFIXES))}")
        return _read_photos(str(path), photos, num_frames, fps, start, stop)
    if Path(path).suffix.lower() in PHOTO_SUFFIXES:
        return _read_photos(str(path), [Path(path)], num_frames, fps, start, stop)
    return _read_video(Path(path), num_frames, fps, start, stop)


def _check_wishes(num_frames: int | None, fps: float | None, start: float | None, stop: float | None) -> None:
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames = {num_frames}; wanted at least 1")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps = {fps:g}; wanted a number above 0")
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start = {start:g} s; wanted seconds from 0")
    if stop is not None and not stop > (start or 0):
        raise ValueError(f"stop = {stop:g} s is not after start = {start or 0:g} s")


def _read_video(path: Path, num_frames: int | None, fps: float | None, start: float | None, stop: float | None) -> Clip:
    video = scan_video(path, stop)
    stretch = _stretch(str(path), video.times, start, stop)
    times = [video.times[i] for i in stretch]
    if fps is None:
        chosen = spread_evenly(times, num_frames or len(times))
    else:
        chosen = at_rate(times, start or 0.0, fps)[:num_frames]
    numbers = [stretch[i] for i in chosen]
    names = [f"{path.stem}_{number:06d}" for number in numbers]
    images = _gather(zip(names, read_frames(video, numbers), strict=True), len(numbers))
    source = ClipSource(path=str(path), names=tuple(names), numbers=tuple(numbers))
    return Clip(images=images, times=torch.tensor([times[i] for i in chosen]), source=source)


def _read_photos(
    path: str,
    photos: list[Path],
    num_frames: int | None,
    fps: float | None,
    start: float | None,
    stop: float | None,
) -> Clip:
    if fps is None and (start is not None or stop is not None):
        raise ValueError(f"start and stop need times, and pictures ({path}) have none; give fps if they are a sequence")
    # Loose photos are spread by their place in the list.
    times = [i / (fps or 1.0) for i in range(len(photos))]
    stretch = _stretch(path, times, start, stop)
    numbers = [stretch[i] for i in spread_evenly([times[i] for i in stretch], num_frames or len(stretch))]
    chosen = [photos[i] for i in numbers]
    images = _gather(((str(photo), read_photo(photo)) for photo in chosen), len(chosen))
    return Clip(
        images=images,
        times=torch.tensor([times[i] if fps else math.nan for i in numbers]),
        source=ClipSource(path=path, names=tuple(photo.name for photo in chosen), numbers=tuple(numbers)),
    )


def _stretch(path: str, times: Sequence[float], start: float | None, stop: float | None) -> range:
    try:
        return positions_within(times, start, stop)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _gather(named_images: Iterable[tuple[str, Tensor]], count: int) -> UInt8[Tensor, "time 3 height width"]:
    """`count` images of one size in one tensor, without ever holding two copies of a large clip."""
    gathered, first_name = torch.empty(0), ""
    for position, (name, image) in enumerate(named_images):
        if position == 0:
            gathered, first_name = image.new_empty((count, *image.shape)), name
        if image.shape != gathered.shape[1:]:
            raise ValueError(
                f"{name} is {image.shape[2]}x{image.shape[1]} but {first_name} is "
                f"{gathered.shape[3]}x{gathered.shape[2]}; a clip needs images of one size"
            )
        gathered[position] = image
    return gathered
