"""Long clips, whose frames are read one after the other when they are needed and never held in memory together."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.animations import Animation, read_animation
from recon4d.io.clip_files import ClipFiles, find_clip_files
from recon4d.io.clips import check_photo_range, select_animation_frames
from recon4d.io.fitting import place_pictures
from recon4d.io.frame_selection import check_selection, select_at_rate, select_evenly, select_range
from recon4d.io.panoramas import refuse_panorama
from recon4d.io.photos import photo_size, read_photo
from recon4d.io.videos import ScannedVideo, check_frames, read_frames, use_video
from recon4d.records import Clip, ClipSource, Priors


@dataclass(frozen=True)
class LongClip:
    """A clip with functions that read its images instead of the images themselves.

    Positions are frame indices in ascending order, from 0 and below `num_frames`. Each call of `images` or `ignore`
    starts anew and reads no further than its iterator is consumed.
    """

    times: tuple[float, ...]
    """Times of the frames in seconds; NaN in every frame for photos without times."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    source: ClipSource
    """File or folder of the clip with the names and numbers of its frames."""
    images: Callable[[Sequence[int]], Iterator[UInt8[Tensor, "3 height width"]]]
    """Yields the RGB image (3, height, width) at each of the given positions."""
    priors: Priors | None = None
    """Known intrinsics and cameras of all frames, without maps."""
    ignore: Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]] | None = None
    """Yields a mask (height, width) of the pixels to ignore at each of the given positions. None ignores nothing."""
    depths: Callable[[Sequence[int]], Iterator[Float[Tensor, "height width"]]] | None = None
    """Yields the known depth (height, width) at each of the given positions; NaN if unknown. None if none is known."""

    @property
    def placeholder_clip(self) -> Clip:
        """A clip with the same times, size, priors and source but black images that take no memory."""
        black = torch.zeros((), dtype=torch.uint8).expand(self.num_frames, 3, *self.size)
        return Clip(black, torch.tensor(self.times), self.priors, self.source)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    def frames(self, numbers: Sequence[int]) -> "LongClip":
        """Select some frames.

        Args:
            numbers: Positions of the frames in ascending order.

        Returns:
            The clip of these frames.
        """
        images, ignore, depths = self.images, self.ignore, self.depths
        return LongClip(
            times=tuple(self.times[number] for number in numbers),
            size=self.size,
            source=replace(
                self.source,
                names=tuple(self.source.names[number] for number in numbers),
                numbers=tuple(self.source.numbers[number] for number in numbers),
            ),
            images=lambda positions: images([numbers[position] for position in positions]),
            priors=None if self.priors is None else self.priors.frames(list(numbers)),
            ignore=None if ignore is None else lambda positions: ignore([numbers[position] for position in positions]),
            depths=None if depths is None else lambda positions: depths([numbers[position] for position in positions]),
        )


def as_long_clip(clip: Clip) -> LongClip:
    """Convert a clip in memory.

    Args:
        clip: The clip. Frames without a source are named by their numbers.

    Returns:
        The long clip with the priors of `clip`.
    """
    numbers = tuple(range(clip.num_frames))
    priors = None if clip.priors is None else Priors(clip.priors.intrinsics, clip.priors.world_from_cam)
    masks = None if clip.priors is None else clip.priors.ignore
    depths = None if clip.priors is None else clip.priors.depths
    return LongClip(
        times=tuple(clip.times.tolist()),
        size=clip.size,
        source=clip.source or ClipSource("clip", tuple(map(str, numbers)), numbers),
        images=lambda positions: (clip.images[position] for position in positions),
        priors=priors,
        ignore=None if masks is None else lambda positions: (masks[position] for position in positions),
        depths=None if depths is None else lambda positions: (depths[position] for position in positions),
    )


def open_long_clip(
    path: str | Path | Sequence[str | Path],
    fps: float | None = None,
    start: float | None = None,
    stop: float | None = None,
    num_frames: int | None = None,
) -> LongClip:
    """Open a video, an animation or a folder of pictures as a long clip.

    Args:
        path: As for `read_clip`.
        fps: For a video, selects the frames nearest to start, start + 1 / fps, ... instead of every frame. For
            pictures, the rate at which they were taken; without it they have no times.
        start: Seconds from the first frame. None means the first frame.
        stop: Seconds from the first frame. None means the last frame.
        num_frames: Number of frames, evenly spaced; with `fps` the largest number, from the start. None takes all.

    Returns:
        The long clip. Pictures of different sizes are brought to a common frame, as `read_clip` does.

    Raises:
        UserError: If an option is out of range, the path does not exist or is not a clip, or the range has no frames.
    """
    check_selection(fps, start, stop)
    if num_frames is not None and num_frames < 1:
        raise UserError(f"num_frames = {num_frames}; wanted at least 1")
    files = find_clip_files(path)
    if files.video is not None:
        refuse_panorama(files.video)
        clip = _open_video(files.video, fps, start, stop)
    elif files.animation is not None:
        clip = _open_animation(files.animation, fps, start, stop)
    else:
        clip = _open_photos(files, fps, start, stop)
        refuse_panorama(Path(clip.source.path), clip.source.names)
    if num_frames is None or num_frames >= clip.num_frames:
        return clip
    times = clip.times if math.isfinite(clip.times[0]) else range(clip.num_frames)
    return clip.frames(range(num_frames) if fps is not None else select_evenly(times, num_frames))


def _open_video(path: Path, fps: float | None, start: float | None, stop: float | None) -> LongClip:
    def open_scanned(video: ScannedVideo) -> LongClip:
        in_range = select_range(str(path), video.times, start, stop)
        times = [video.times[i] for i in in_range]
        chosen = range(len(times)) if fps is None else select_at_rate(times, start or 0.0, fps)
        numbers = tuple(in_range[i] for i in chosen)
        # Damage must show now and not after hours of computing.
        check_frames(video, numbers)

        def images(positions: Sequence[int]) -> Iterator[Tensor]:
            return read_frames(video, [numbers[i] for i in positions])

        height, width = next(images([0])).shape[-2:]
        source = ClipSource(str(path), tuple(f"{path.stem}_{number:06d}" for number in numbers), numbers)
        return LongClip(tuple(times[i] for i in chosen), (height, width), source, images)

    return use_video(path, stop, open_scanned)


def _open_animation(animation: Animation, fps: float | None, start: float | None, stop: float | None) -> LongClip:
    numbers, times = select_animation_frames(animation, fps, start, stop)
    names = tuple(f"{animation.path.stem}_{number:06d}" for number in numbers)

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        return read_animation(animation, [numbers[i] for i in positions])

    height, width = next(images([0])).shape[-2:]
    return LongClip(tuple(times), (height, width), ClipSource(str(animation.path), names, tuple(numbers)), images)


def _open_photos(files: ClipFiles, fps: float | None, start: float | None, stop: float | None) -> LongClip:
    photos = files.photos
    check_photo_range(files.name, fps, start, stop)
    numbers = select_range(files.name, [i / (fps or 1.0) for i in range(len(photos))], start, stop)
    placements = place_pictures([photo_size(photos[number]) for number in numbers])
    is_mixed = any(placement.own != placement.frame for placement in placements)

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            image, placement = read_photo(photos[numbers[position]]), placements[position]
            if (image.shape[1], image.shape[2]) != placement.own:
                raise UserError(f"{photos[numbers[position]]} has changed since the clip was opened")
            yield placement.place(image)

    def padding(positions: Sequence[int]) -> Iterator[Tensor]:
        return (placements[position].padding() for position in positions)

    times = tuple(i / fps if fps else math.nan for i in numbers)
    source = ClipSource(
        files.name,
        tuple(files.photo_names[i] for i in numbers),
        tuple(numbers),
        sizes=tuple(placement.own for placement in placements) if is_mixed else (),
    )
    return LongClip(times, placements[0].frame, source, images, ignore=padding if is_mixed else None)
