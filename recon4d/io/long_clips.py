"""A long clip whose frames are read when they are wanted, one after the other, and never held together."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from recon4d.io.frame_selection import at_rate, positions_within
from recon4d.io.photos import PHOTO_SUFFIXES, list_photos, read_photo
from recon4d.io.videos import read_frames, scan_video
from recon4d.records import Clip, ClipSource, Priors


@dataclass(frozen=True)
class LongClip:
    """What a `Clip` is, without the images: `images` reads them.

    `times` are seconds, NaN in every frame for photos without times. `size` is (height, width) in pixels.
    `images(positions)` yields RGB images (3, height, width), uint8, of ascending positions (from 0, below
    `num_frames`), and reads no further than it is asked. A later call starts afresh.

    `known` is what is known of the intrinsics and cameras of all frames, without maps; `ignore(positions)` yields the
    masks (height, width) of what is to be ignored, as `images` yields images.
    """

    times: tuple[float, ...]
    size: tuple[int, int]
    source: ClipSource
    images: Callable[[Sequence[int]], Iterator[UInt8[Tensor, "3 height width"]]]
    priors: Priors | None = None
    ignore: Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]] | None = None

    @property
    def outline(self) -> Clip:
        """A clip of the same frames, black and without storage: for whatever asks for times, names and size only."""
        black = torch.zeros((), dtype=torch.uint8).expand(self.num_frames, 3, *self.size)
        return Clip(black, torch.tensor(self.times), self.priors, self.source)

    @property
    def num_frames(self) -> int:
        return len(self.times)


def as_long_clip(clip: Clip) -> LongClip:
    """A clip in memory, handed out frame by frame; frames without a source are called by their numbers.

    What is known of intrinsics, cameras and what is to be ignored comes along; known depth does not.
    """
    numbers = tuple(range(clip.num_frames))
    known = None if clip.priors is None else Priors(clip.priors.intrinsics, clip.priors.world_from_cam)
    masks = None if clip.priors is None else clip.priors.ignore
    return LongClip(
        times=tuple(clip.times.tolist()),
        size=clip.size,
        source=clip.source or ClipSource("clip", tuple(map(str, numbers)), numbers),
        images=lambda positions: (clip.images[position] for position in positions),
        priors=known,
        ignore=None if masks is None else lambda positions: (masks[position] for position in positions),
    )


def open_long_clip(
    path: str | Path, fps: float | None = None, start: float | None = None, stop: float | None = None
) -> LongClip:
    """Every frame of a video file or a folder of pictures between `start` and `stop`, read when it is wanted.

    With `fps`, a video's frames nearest to start, start + 1 / fps, ...; pictures are a sequence taken at that rate,
    and without it have no times. `start` and `stop` are seconds from the first frame. Raises `FileNotFoundError` for
    what is not there, and `ValueError` for what cannot be read as a clip; pictures of another size than the first
    are met only when their turn comes.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps = {fps:g}; wanted a number above 0")
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start = {start:g} s; wanted seconds from 0")
    if stop is not None and not stop > (start or 0):
        raise ValueError(f"stop = {stop:g} s is not after start = {start or 0:g} s")
    path = Path(path)
    return _open_folder(path, fps, start, stop) if path.is_dir() else _open_video(path, fps, start, stop)


def _open_video(path: Path, fps: float | None, start: float | None, stop: float | None) -> LongClip:
    video = scan_video(path, stop)
    stretch = positions_within(video.times, start, stop)
    times = [video.times[i] for i in stretch]
    chosen = range(len(times)) if fps is None else at_rate(times, start or 0.0, fps)
    numbers = tuple(stretch[i] for i in chosen)

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        return read_frames(video, [numbers[i] for i in positions])

    height, width = next(images([0])).shape[-2:]
    source = ClipSource(str(path), tuple(f"{path.stem}_{number:06d}" for number in numbers), numbers)
    return LongClip(tuple(times[i] for i in chosen), (height, width), source, images)


def _open_folder(path: Path, fps: float | None, start: float | None, stop: float | None) -> LongClip:
    photos = list_photos(path)
    if not photos:
        raise ValueError(f"{path} holds no pictures; wanted files ending in {', '.join(sorted(PHOTO_SUFFIXES))}")
    if fps is None and (start is not None or stop is not None):
        raise ValueError(f"start and stop need times, and pictures ({path}) have none; give fps if they are a sequence")
    numbers = positions_within([i / (fps or 1.0) for i in range(len(photos))], start, stop)
    height, width = read_photo(photos[numbers[0]]).shape[-2:]

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for photo in (photos[numbers[i]] for i in positions):
            image = read_photo(photo)
            if image.shape[-2:] != (height, width):
                raise ValueError(
                    f"{photo} is {image.shape[2]}x{image.shape[1]} but {photos[numbers[0]]} is {width}x{height}; "
                    "a clip needs images of one size"
                )
            yield image

    times = tuple(i / fps if fps else math.nan for i in numbers)
    return LongClip(
        times, (height, width), ClipSource(str(path), tuple(photos[i].name for i in numbers), tuple(numbers)), images
    )
