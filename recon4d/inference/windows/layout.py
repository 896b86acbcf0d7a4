"""Layout of the windows: the frames of each window, the frames it shares with an earlier one and those it owns."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Window:
    """Frames of the long clip that are reconstructed together."""

    number: int
    """Index of the window, from 0."""
    frames: tuple[int, ...]
    """Frame numbers in the long clip, in the order in which the model gets them."""
    partner: int | None
    """Number of the earlier window that this one is aligned to; None for the first window."""
    shared: tuple[int, ...]
    """Frames that both this window and its partner contain."""
    owned: tuple[int, ...]
    """Frames whose final result comes from this window; every frame of the clip has exactly one owner."""

    def positions(self, frames: tuple[int, ...]) -> list[int]:
        """Convert frame numbers of the long clip to positions in this window.

        Args:
            frames: Frame numbers; all must be in this window.

        Returns:
            The index of each frame in `Window.frames`.
        """
        return [self.frames.index(frame) for frame in frames]

    def __str__(self) -> str:
        return f"window {self.number} (frames {self.frames[0]} to {self.frames[-1]})"


def overlapping_windows(num_frames: int, window: int, overlap: int) -> list[Window]:
    """Divide a clip into overlapping windows.

    The earlier window owns the first half of an overlap and the later window the second half, so that each frame comes
    from the window in which it has more neighbors on both sides.

    Args:
        num_frames: Number of frames of the clip.
        window: Number of frames of a window. The last window may be shorter.
        overlap: Number of frames that a window shares with the previous one, from 1 to `window` - 1.

    Returns:
        The windows in the order of time. Each contains at least one frame that no earlier window contains.
    """
    stride = window - overlap
    assert overlap >= 1
    assert stride >= 1
    last_start = max(0, num_frames - window + stride - 1) // stride * stride
    starts = range(0, last_start + 1, stride)
    borders = [0, *(start + (overlap + 1) // 2 for start in starts[1:]), num_frames]
    return [
        Window(
            number,
            frames=tuple(range(start, min(start + window, num_frames))),
            partner=number - 1 if number else None,
            shared=tuple(range(start, start + overlap)) if number else (),
            owned=tuple(range(borders[number], borders[number + 1])),
        )
        for number, start in enumerate(starts)
    ]


def with_best_borders(windows: Sequence[Window], unknown: Sequence[AbstractSet[int]]) -> list[Window]:
    """Move the borders between overlapping windows so that as few frames as possible are unknown to their owners.

    Args:
        windows: Overlapping windows in the order of time.
        unknown: Frames that each window does not determine.

    Returns:
        The windows with other owned frames. Among equally good borders, the one nearest to the old border is taken.
        Each window keeps at least one frame.
    """
    borders = [0]
    for early, late in pairwise(windows):
        first, last = max(late.shared[0], borders[-1] + 1), min(late.shared[-1] + 1, windows[-1].frames[-1])
        costs = {
            border: (
                sum(frame in unknown[(early if frame < border else late).number] for frame in late.shared),
                abs(border - late.owned[0]),
            )
            for border in range(first, last + 1)
        }
        borders.append(min(costs, key=lambda border, costs=costs: costs[border]))
    borders.append(windows[-1].frames[-1] + 1)
    return [
        replace(window, owned=tuple(range(start, stop)))
        for window, (start, stop) in zip(windows, pairwise(borders), strict=True)
    ]


def anchored_windows(num_frames: int, frames_per_call: int) -> list[Window]:
    """Divide a clip into windows that all begin with the first frame, the anchor.

    Args:
        num_frames: Number of frames of the clip.
        frames_per_call: Number of frames of a window besides the anchor, at least 1. The last window may be shorter.

    Returns:
        The windows in the order of time. All are aligned to the first one, which owns the anchor.
    """
    assert frames_per_call >= 1
    groups = [range(k, min(k + frames_per_call, num_frames)) for k in range(1, num_frames, frames_per_call)] or [
        range(0)
    ]
    return [
        Window(
            number,
            frames=(0, *group),
            partner=0 if number else None,
            shared=(0,) if number else (),
            owned=(*group,) if number else (0, *group),
        )
        for number, group in enumerate(groups)
    ]
