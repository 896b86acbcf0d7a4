"""Reading of the frames of windows: each frame is decoded once and held only as long as a window needs it."""

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

Frame = tuple[Tensor, Tensor | None, Tensor | None]
"""An image (3, height, width), its ignore mask and its known depth (height, width); None if the clip has none."""


def read_windows(long_clip: LongClip, windows: Sequence[Window]) -> Iterator[Clip]:
    """Read the clips of windows one after the other.

    Images and masks are read when a window is requested. Frames that the next window needs as well stay in memory.

    Args:
        long_clip: The clip to read from.
        windows: Windows whose frame numbers ascend within each window and whose last frames ascend from window to
            window.

    Yields:
        The clip of each window.
    """
    required = sorted({frame for window in windows for frame in window.frames})
    frames = zip(required, _read(long_clip, required), strict=True)
    held: dict[int, Frame] = {}
    for window in windows:
        held = {number: held[number] for number in window.frames if number in held}
        while window.frames[-1] not in held:
            number, frame = next(frames)
            held[number] = frame
        yield _clip(long_clip, window.frames, [held[number] for number in window.frames])


def read_clip_of_frames(long_clip: LongClip, numbers: Sequence[int]) -> Clip:
    """Read a clip that consists of some frames of a long clip.

    Args:
        long_clip: The clip to read from.
        numbers: Frame numbers in ascending order.

    Returns:
        The clip of these frames.
    """
    return _clip(long_clip, numbers, list(_read(long_clip, numbers)))


def apply_ignore_mask(scene: Scene, clip: Clip) -> Scene:
    """Set the confidence of a scene to 0 where its clip is to be ignored.

    Args:
        scene: The reconstruction of `clip`, at any map size.
        clip: The clip, possibly with an ignore mask in its priors.

    Returns:
        The scene with confidence 0 at ignored pixels; `scene` itself if the clip has no mask.
    """
    if clip.priors is None or clip.priors.ignore is None:
        return scene
    ignore = clip.priors.resized(clip.size, scene.size).ignore
    assert ignore is not None
    return scene.with_unknown(ignore)


def _read(long_clip: LongClip, numbers: Sequence[int]) -> Iterator[Frame]:
    masks = (None for _ in numbers) if long_clip.ignore is None else long_clip.ignore(numbers)
    depths = (None for _ in numbers) if long_clip.depths is None else long_clip.depths(numbers)
    return zip(long_clip.images(numbers), masks, depths, strict=True)


def _clip(long_clip: LongClip, numbers: Sequence[int], frames: list[Frame]) -> Clip:
    source = long_clip.source
    return Clip(
        images=torch.stack([image for image, _, _ in frames]),
        times=torch.tensor([long_clip.times[number] for number in numbers]),
        priors=_priors(long_clip, numbers, frames),
        source=ClipSource(
            source.path,
            tuple(source.names[number] for number in numbers),
            tuple(source.numbers[number] for number in numbers),
        ),
    )


def _priors(long_clip: LongClip, numbers: Sequence[int], frames: list[Frame]) -> Priors | None:
    masks = [mask for _, mask, _ in frames if mask is not None]
    depths = [depth for _, _, depth in frames if depth is not None]
    if long_clip.priors is None and not masks and not depths:
        return None
    priors = Priors.unknown(len(numbers)) if long_clip.priors is None else long_clip.priors.frames(list(numbers))
    return Priors(
        priors.intrinsics,
        priors.world_from_cam,
        torch.stack(depths) if depths else None,
        torch.stack(masks) if masks else None,
    )
