"""Selection of frames from their times alone.

Times are seconds in ascending order. Results are indices into the given times, ascending and without repetition.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from recon4d.errors import UserError

TIME_TOLERANCE = 5e-4
"""Largest deviation in seconds between a requested time and a frame: half the last digit of a time printed in ms."""


def check_selection(fps: float | None, start: float | None, stop: float | None) -> None:
    """Check the options of a selection of frames.

    Args:
        fps: Frames per second, above 0. None means no rate.
        start: Seconds from the first frame, at least 0. None means the first frame.
        stop: Seconds from the first frame, above `start`. None means the last frame.

    Raises:
        UserError: If a value is out of range.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps = {fps:g}; wanted a number above 0")
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise UserError(f"start = {start:g} s; wanted seconds from 0")
    if stop is not None and not stop > (start or 0):
        raise UserError(f"stop = {stop:g} s is not after start = {start or 0:g} s")


def select_range(name: str, times: Sequence[float], start: float | None, stop: float | None) -> range:
    """Select the frames between two times.

    Args:
        name: Name of the sequence, for the message.
        times: Times of the frames.
        start: First time, included. None leaves this side open.
        stop: Last time, included. None leaves this side open.

    Returns:
        Indices of the frames with times in [start, stop], up to `TIME_TOLERANCE`.

    Raises:
        UserError: If there is no such frame.
    """
    first = 0 if start is None else bisect_left(times, start - TIME_TOLERANCE)
    end = len(times) if stop is None else bisect_right(times, stop + TIME_TOLERANCE)
    if first == len(times):
        raise UserError(f"{name}: start = {start:g} s is beyond the last frame, which is at {times[-1]:.3f} s")
    if first >= end:
        raise UserError(
            f"{name}: no frame between start = {start or 0:g} s and stop = {stop:g} s; choose a longer range"
        )
    return range(first, end)


def select_evenly(times: Sequence[float], num_frames: int) -> list[int]:
    """Select frames that are evenly distributed in time, the first and the last included.

    Args:
        times: Times of the frames.
        num_frames: Number of frames to select. One selects the first frame.

    Returns:
        Indices of `num_frames` frames, or of all frames if there are fewer.
    """
    last = len(times) - 1
    if num_frames > last:
        return list(range(last + 1))
    chosen: list[int] = []
    for k in range(num_frames):
        wanted = times[0] + (times[-1] - times[0]) * k / max(num_frames - 1, 1)
        # Times may be dense in places: leave one frame for each selection before and after, so that none repeats.
        earliest = chosen[-1] + 1 if chosen else 0
        latest = last - (num_frames - 1 - k)
        chosen.append(min(max(_nearest(times, wanted), earliest), latest))
    return chosen


def select_at_rate(times: Sequence[float], start: float, frames_per_second: float) -> list[int]:
    """Select the frames nearest to start, start + 1 / frames_per_second, ... up to the last time.

    Args:
        times: Times of the frames.
        start: First wanted time in seconds.
        frames_per_second: Rate of the wanted times.

    Returns:
        Indices of the frames, each at most once, also if the sequence is slower than the rate.
    """
    boundaries = [(before + after) / 2 for before, after in pairwise(times)] + [times[-1]]
    # Number of wanted times before the boundary to the next frame. A frame at which it grows is nearest to one.
    counts = [math.floor((boundary + TIME_TOLERANCE - start) * frames_per_second) for boundary in boundaries]
    return [i for i, (before, now) in enumerate(pairwise([-1, *counts])) if now > before]


def _nearest(times: Sequence[float], wanted: float) -> int:
    after = min(max(bisect_left(times, wanted), 1), len(times) - 1)
    before = after - 1
    # Ties select the earlier frame. Without the tolerance, rounding would decide them.
    return before if wanted - times[before] <= times[after] - wanted + TIME_TOLERANCE else after
