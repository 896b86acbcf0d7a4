"""Reading of clips: a video, an animation, a folder of pictures or a list of them becomes a `Clip`."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.animations import Animation, read_animation
from recon4d.io.clip_files import ClipFiles, find_clip_files
from recon4d.io.fitting import gather_photos
from recon4d.io.frame_selection import check_selection, select_at_rate, select_evenly, select_range
from recon4d.io.motion import MAX_AUTO_FRAMES, Cuts, MotionScan, max_scan_packets
from recon4d.io.panoramas import refuse_panorama
from recon4d.io.videos import ScannedVideo, read_frames, use_video
from recon4d.records import Clip, ClipSource

ClipInput = str | Path | np.ndarray | Tensor | Sequence[Any]
"""What `read_clip` reads: a file or folder, a list of files, or images in memory as `Clip.from_images` takes them."""
DEFAULT_NUM_FRAMES = 16
"""Number of frames of a clip unless given. Hand-tuned: one pass over them fits common GPUs."""


def read_clip(
    path: ClipInput,
    num_frames: int | Literal["auto"] | None = DEFAULT_NUM_FRAMES,
    fps: float | None = None,
    start: float | None = None,
    stop: float | None = None,
    keep_cuts: bool = False,
    keep_panoramas: bool = False,
) -> Clip:
    """Read a clip and select its frames.

    Without `fps`, frames are evenly distributed in time over [start, stop], the first and the last frame of that range
    included. With `fps`, the frames of a video nearest to start, start + 1 / fps, ... are taken instead. Pictures have
    no times (NaN). Given `fps`, they are a sequence taken at that rate: they have times, and `start` and `stop` apply.
    Pictures of different sizes are brought to a common frame whose padding is ignored (`fit_images`), with a warning.
    Animations with times are treated as videos, others as pictures. Files that are passed over in a folder are named in
    a warning.

    With ``num_frames="auto"``, 8 to 48 frames of a video are chosen by motion, so that neighbors have about two thirds
    of their corners in common: many in fast motion, few if the camera stands still. `Clip.source.selection` tells the
    result. If a video has cuts between scenes, the longest part without a cut is used, with a warning. For a number of
    frames, cuts are searched for only as far as that adds little to the time of reading.

    Args:
        path: A video file, a picture file or animation, a folder of pictures or with one video, a list of picture
            files; or images in memory as `Clip.from_images` takes them, which are treated as pictures.
        num_frames: Number of frames, or the maximum with `fps` for a video. None takes every frame; so does a range
            with fewer frames. "auto" chooses the frames of a video by motion; with `fps`, for pictures and for
            animations it means a maximum of 48.
        fps: Frames per second.
        start: Seconds from the first frame. None means the first frame.
        stop: Seconds from the first frame. None means the last frame.
        keep_cuts: Whether to use the whole range even if it has cuts.
        keep_panoramas: Whether to read pictures and videos whose metadata say that they are 360 degree panoramas. They
            are refused otherwise; `split_panoramas` converts them.

    Returns:
        The clip with its source.

    Raises:
        UserError: If an option is out of range, the path does not exist, is not a video or picture or holds no
            pictures, if the range has no frames, or for panoramas that are not kept.
    """
    if num_frames not in ("auto", None) and not (isinstance(num_frames, int) and num_frames >= 1):
        raise UserError(f'num_frames = {num_frames}; wanted at least 1, or "auto"')
    check_selection(fps, start, stop)
    num_photos = MAX_AUTO_FRAMES if num_frames == "auto" else num_frames
    if not names_files(path):
        return _select_images(Clip.from_images(path), num_photos, fps, start, stop)
    files = find_clip_files(path)  # pyright: ignore[reportArgumentType]
    if files.video is not None:
        if not keep_panoramas:
            refuse_panorama(files.video)
        return _read_video(files.video, _Options(num_frames, fps, start, stop, keep_cuts))
    if files.animation is not None:
        return _read_animation(files.animation, num_photos, fps, start, stop)
    clip = _read_photos(files, num_photos, fps, start, stop)
    if not keep_panoramas and clip.source is not None:
        refuse_panorama(Path(clip.source.path), clip.source.names)
    return clip


def names_files(clip: object) -> bool:
    """Check whether an input of `read_clip` names files, rather than being images in memory.

    Args:
        clip: Any value.

    Returns:
        True for a path, and for lists of paths, the empty one included.
    """
    first = next(iter(clip), "") if isinstance(clip, list | tuple) else clip
    return isinstance(first, str | Path)


def _select_images(
    clip: Clip, num_frames: int | None, fps: float | None, start: float | None, stop: float | None
) -> Clip:
    """Select frames of images in memory, as of a folder of pictures."""
    check_photo_range("in memory", fps, start, stop)
    times = [i / (fps or 1.0) for i in range(clip.num_frames)]
    in_range = select_range("images", times, start, stop)
    numbers = [in_range[i] for i in select_evenly([times[i] for i in in_range], num_frames or len(in_range))]
    return replace(clip.frames(numbers), times=torch.tensor([times[i] if fps else math.nan for i in numbers]))


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


@dataclass(frozen=True)
class _Options:
    """Options of `read_clip` for a video."""

    num_frames: int | Literal["auto"] | None
    fps: float | None
    start: float | None
    stop: float | None
    keep_cuts: bool


def _read_video(path: Path, options: _Options) -> Clip:
    clip, message = use_video(path, options.stop, lambda video: _read_scanned(video, options))
    if message:
        warnings.warn(message, stacklevel=3)  # the caller of read_clip
    return clip


def _read_scanned(video: ScannedVideo, options: _Options) -> tuple[Clip, str]:
    """Read a clip. Also return the warning about its cuts, or ""."""
    in_range = select_range(str(video.path), video.times, options.start, options.stop)
    evenly = _select(video, in_range, options.start or 0.0, options)
    is_by_motion = options.num_frames == "auto" and options.fps is None
    max_packets = max_scan_packets(video.index, None if is_by_motion else evenly)
    if not max_packets or (options.keep_cuts and not is_by_motion):
        return _read_numbers(video, evenly), ""
    scan = MotionScan(video, in_range, max_packets)
    part, message = in_range, ""
    if not options.keep_cuts:
        cuts = scan.find_cuts()
        part = cuts.longest_part(video.times, in_range)
        message = _describe_cuts(video, cuts, part, in_range)
    if is_by_motion:
        chosen = scan.choose_frames(part)
        return _read_numbers(video, chosen.numbers, chosen.summary), message
    numbers = evenly if part == in_range else _select(video, part, video.times[part[0]], options)
    return _read_numbers(video, numbers), message


def _read_numbers(video: ScannedVideo, numbers: Sequence[int], selection: str = "") -> Clip:
    names = [f"{video.path.stem}_{number:06d}" for number in numbers]
    images = _gather(zip(names, read_frames(video, numbers), strict=True), len(numbers))
    source = ClipSource(str(video.path), tuple(names), tuple(numbers), selection)
    return Clip(images=images, times=torch.tensor([video.times[i] for i in numbers]), source=source)


def _select(video: ScannedVideo, part: range, first_time: float, options: _Options) -> list[int]:
    """Select frames of a part of a video by their times; a rate counts from `first_time`."""
    times = [video.times[i] for i in part]
    most = MAX_AUTO_FRAMES if options.num_frames == "auto" else options.num_frames
    if options.fps is None:
        return [part[i] for i in select_evenly(times, most or len(times))]
    return [part[i] for i in select_at_rate(times, first_time, options.fps)[:most]]


def _describe_cuts(video: ScannedVideo, cuts: Cuts, part: range, in_range: range) -> str:
    """The warning about the cuts and fades of a video, or ""."""
    sentences = []
    if part != in_range:
        places = ", ".join(f"{video.times[cut]:.2f} s" for cut in cuts.cuts)
        used = f"{video.times[part[0]]:.2f} s to {video.times[part[-1]]:.2f} s"
        cut_word = "a cut" if len(cuts.cuts) == 1 else "cuts"
        sentences.append(
            f"{video.path} has {cut_word} at {places}; the longest part without a cut, {used}, is used "
            "(keep_cuts uses all, start and stop choose another part)"
        )
    fades = [fade for fade in cuts.fades if fade in part]
    if fades:
        places = ", ".join(f"{video.times[fade]:.2f} s" for fade in fades)
        sentences.append(f"{video.path} seems to fade from one scene to another at {places}; choose start and stop")
    return "; ".join(sentences)


def _read_photos(
    files: ClipFiles, num_frames: int | None, fps: float | None, start: float | None, stop: float | None
) -> Clip:
    check_photo_range(files.name, fps, start, stop)
    # Photos without times are distributed evenly by their position in the list.
    times = [i / (fps or 1.0) for i in range(len(files.photos))]
    in_range = select_range(files.name, times, start, stop)
    numbers = [in_range[i] for i in select_evenly([times[i] for i in in_range], num_frames or len(in_range))]
    chosen = [files.photos[i] for i in numbers]
    gathered = gather_photos(files.name, chosen)
    names = tuple(files.photo_names[i] for i in numbers)
    return Clip(
        images=gathered.images,
        times=torch.tensor([times[i] if fps else math.nan for i in numbers]),
        priors=gathered.priors,
        source=ClipSource(files.name, names, tuple(numbers), sizes=gathered.sizes),
    )


def _read_animation(
    animation: Animation, num_frames: int | None, fps: float | None, start: float | None, stop: float | None
) -> Clip:
    in_range, times = select_animation_frames(animation, fps, start, stop)
    # Frames without times are distributed evenly by their position.
    order = times if math.isfinite(times[0]) else [float(i) for i in range(len(times))]
    chosen = select_evenly(order, num_frames or len(order))
    if fps is not None and animation.has_times:
        chosen = list(range(len(order)))[:num_frames]
    numbers = [in_range[i] for i in chosen]
    names = tuple(f"{animation.path.stem}_{number:06d}" for number in numbers)
    return Clip(
        images=_gather(zip(names, read_animation(animation, numbers), strict=True), len(numbers)),
        times=torch.tensor([times[i] for i in chosen]),
        source=ClipSource(str(animation.path), names, tuple(numbers)),
    )


def select_animation_frames(
    animation: Animation, fps: float | None, start: float | None, stop: float | None
) -> tuple[list[int], list[float]]:
    """Select frames of an animation: those with times as of a video, others as of a folder of pictures.

    Args:
        animation: The animation.
        fps: With times, selects the frames nearest to start, start + 1 / fps, ...; without, the rate of the frames.
        start: Seconds from the first frame. None means the first frame.
        stop: Seconds from the first frame. None means the last frame.

    Returns:
        Frame numbers, and their times in seconds; NaN for frames without times.

    Raises:
        UserError: If the range has no frame, or is given for frames without times.
    """
    if animation.has_times:
        in_range = select_range(str(animation.path), animation.times, start, stop)
        times = [animation.times[i] for i in in_range]
        chosen = range(len(times)) if fps is None else select_at_rate(times, start or 0.0, fps)
        return [in_range[i] for i in chosen], [times[i] for i in chosen]
    check_photo_range(animation.path, fps, start, stop)
    times = [i / (fps or 1.0) for i in range(len(animation.pages))]
    numbers = list(select_range(str(animation.path), times, start, stop))
    return numbers, [times[i] if fps else math.nan for i in numbers]


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
