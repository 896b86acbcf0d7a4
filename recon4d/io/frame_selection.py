"""Which frames of a sequence are taken, decided from their times alone.

Times are seconds and ascend. Answers are positions in the sequence that was given, ascending and each only once.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

TIME_TOLERANCE = 5e-4
"""Seconds by which a wish may miss a frame: a time printed with three digits still finds its frame."""


def positions_within(times: Sequence[float], start: float | None, stop: float | None) -> range:
    """The positions whose times lie in [start, stop]; None leaves that side open.

    Raises `ValueError` where no time does.
    """
    first = 0 if start is None else bisect_left(times, start - TIME_TOLERANCE)
    end = len(times) if stop is None else bisect_right(times, stop + TIME_TOLERANCE)
    if first == len(times):
        raise ValueError(f"start = {start:g} s is beyond the last frame, which is at {times[-1]:.3f} s")
    if first >= end:
        raise ValueError(f"no frame between start = {start or 0:g} s and stop = {stop:g} s; choose a longer stretch")
    return range(first, end)


def spread_evenly(times: Sequence[float], num_frames: int) -> list[int]:
    """`num_frames` positions spread evenly over the time from the first to the last, both included.

    One frame is the first; fewer times than `num_frames` are all taken.
    """
    last = len(times) - 1
    if num_frames > last:
        return list(range(last + 1))
    chosen: list[int] = []
    for k in range(num_frames):
        wish = times[0] + (times[-1] - times[0]) * k / max(num_frames - 1, 1)
        # Frames may crowd in time: leave one for each wish before and after, so that none is taken twice.
        earliest = chosen[-1] + 1 if chosen else 0
        latest = last - (num_frames - 1 - k)
        chosen.append(min(max(_nearest(times, wish), earliest), latest))
    return chosen


def at_rate(times: Sequence[float], start: float, frames_per_second: float) -> list[int]:
    """The positions nearest to start, start + 1 / frames_per_second, ... up to the last time.

    Where the sequence is slower than the rate, each of its frames is taken once.
    """
    boundaries = [(before + after) / 2 for before, after in pairwise(times)] + [times[-1]]
    # How many wishes lie before the boundary to the next frame; where the number grows, this frame is nearest to one.
    counts = [math.floor((boundary + TIME_TOLERANCE - start) * frames_per_second) for boundary in boundaries]
    return [i for i, (before, now) in enumerate(pairwise([-1, *counts])) if now > before]


def _nearest(times: Sequence[float], wish: float) -> int:
    after = min(max(bisect_left(times, wish), 1), len(times) - 1)
    before = after - 1
    # Ties go to the earlier frame; without the tolerance rounding would decide, now this way and now that.
    return before if wish - times[before] <= times[after] - wish + TIME_TOLERANCE else after
