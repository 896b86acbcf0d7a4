"""Which frames each window takes, which of them it shares with an earlier one, and whose answer for a frame is kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames of the long clip that are reconstructed together, in the order in which they are given to the model.

    `partner` is the earlier window that this one is joined to (None for the first), `shared` the frames that both
    have, and `owned` the ones for which this window's answer is kept: every frame of the clip has one owner.
    """

    number: int
    frames: tuple[int, ...]
    partner: int | None
    shared: tuple[int, ...]
    owned: tuple[int, ...]

    def positions(self, frames: tuple[int, ...]) -> list[int]:
        """Where `frames` of the long clip stand in this window."""
        return [self.frames.index(frame) for frame in frames]

    def __str__(self) -> str:
        return f"window {self.number} (frames {self.frames[0]} to {self.frames[-1]})"


def overlapping_windows(num_frames: int, window: int, overlap: int) -> list[Window]:
    """Windows of `window` frames, each beginning with the last `overlap` frames of the one before.

    The last may be shorter; it always has a frame that no other has. Of an overlap the earlier window owns the first
    half and the later one the second, so that every frame is answered where it has the most neighbors on both sides.
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


def anchored_windows(num_frames: int, frames_per_call: int) -> list[Window]:
    """Windows of the first frame, the anchor, and `frames_per_call` others each; all are joined to the first window."""
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
