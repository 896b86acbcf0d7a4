"""The clips of windows one after the other, with no frame read twice and none held longer than a window wants it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from recon4d.inference.windows.layout import Window
from recon4d.io.long_clips import LongClip
from recon4d.records import (
    Clip,
    ClipSource,
    Priors,
    Scene,
)

Frame = tuple[Tensor, Tensor | None]
"""An image, and the mask of what is to be ignored in it."""


def clips_of_windows(long_clip: LongClip, windows: Sequence[Window]) -> Iterator[Clip]:
    """The clip of each of the windows, whose frames ascend within a window and from one to the next.

    Images and masks are read on as the windows are asked for; those that the next window has too are kept for it.
    """
    wanted = sorted({frame for window in windows for frame in window.frames})
    frames = zip(wanted, _read(long_clip, wanted), strict=True)
    held: dict[int, Frame] = {}
    for window in windows:
        held = {number: held[number] for number in window.frames if number in held}
        while window.frames[-1] not in held:
            number, frame = next(frames)
            held[number] = frame
        yield _clip(long_clip, window.frames, [held[number] for number in window.frames])


def clip_of_frames(long_clip: LongClip, numbers: Sequence[int]) -> Clip:
    """The clip of some ascending frames alone."""
    return _clip(long_clip, numbers, list(_read(long_clip, numbers)))


def masked(scene: Scene, clip: Clip) -> Scene:
    """The answer for a clip with nothing believed where the clip is to be ignored, whatever answered it."""
    if clip.priors is None or clip.priors.ignore is None:
        return scene
    ignore = clip.priors.resized(clip.size, scene.size).ignore
    assert ignore is not None
    return scene.ignoring(ignore)


def _read(long_clip: LongClip, numbers: Sequence[int]) -> Iterator[Frame]:
    masks = (None for _ in numbers) if long_clip.ignore is None else long_clip.ignore(numbers)
    return zip(long_clip.images(numbers), masks, strict=True)


def _clip(long_clip: LongClip, numbers: Sequence[int], frames: list[Frame]) -> Clip:
    source = long_clip.source
    return Clip(
        images=torch.stack([image for image, _ in frames]),
        times=torch.tensor([long_clip.times[number] for number in numbers]),
        priors=_known(long_clip, numbers, [mask for _, mask in frames if mask is not None]),
        source=ClipSource(
            source.path,
            tuple(source.names[number] for number in numbers),
            tuple(source.numbers[number] for number in numbers),
        ),
    )


def _known(long_clip: LongClip, numbers: Sequence[int], masks: list[Tensor]) -> Priors | None:
    if long_clip.priors is None and not masks:
        return None
    nothing = Priors.nothing(len(numbers))
    known = nothing if long_clip.priors is None else long_clip.priors.frames(list(numbers))
    return Priors(known.intrinsics, known.world_from_cam, ignore=torch.stack(masks) if masks else None)
