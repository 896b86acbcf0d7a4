"""The clips of windows one after the other, with no frame read twice and none held longer than a window wants it."""

from collections.abc import Iterator, Sequence

import torch

from recon4d.media.long_clips import LongClip
from recon4d.records import Clip, Source
from recon4d.windows.spans import Window


def clips_of_windows(long_clip: LongClip, windows: Sequence[Window]) -> Iterator[Clip]:
    """The clip of each of the windows, whose frames ascend within a window and from one to the next.

    Images are read on as the windows are asked for; those that the next window has too are kept for it.
    """
    wanted = sorted({frame for window in windows for frame in window.frames})
    images = zip(wanted, long_clip.images(wanted), strict=True)
    held: dict[int, torch.Tensor] = {}
    for window in windows:
        held = {frame: held[frame] for frame in window.frames if frame in held}
        while window.frames[-1] not in held:
            frame, image = next(images)
            held[frame] = image
        yield _clip(long_clip, window.frames, [held[frame] for frame in window.frames])


def clip_of_frames(long_clip: LongClip, frames: Sequence[int]) -> Clip:
    """The clip of some ascending frames alone."""
    return _clip(long_clip, frames, list(long_clip.images(frames)))


def _clip(long_clip: LongClip, frames: Sequence[int], images: list[torch.Tensor]) -> Clip:
    source = long_clip.source
    return Clip(
        images=torch.stack(images),
        times=torch.tensor([long_clip.times[frame] for frame in frames]),
        source=Source(
            source.path,
            tuple(source.names[frame] for frame in frames),
            tuple(source.numbers[frame] for frame in frames),
        ),
    )
