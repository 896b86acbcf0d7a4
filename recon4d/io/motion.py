"""Selection of the frames of a video by motion, and its cuts.

The share of corners that survive from one frame to another tells how much the two overlap. Frames are chosen such that
neighbors keep `TARGET_SURVIVAL`: densely in fast motion, sparsely otherwise. Between two scenes nearly no corner
survives, which fast motion can cause as well: a cut also changes the image as a whole, between two frames and for good.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recon4d.io.corner_survival import (
    LONGER_SIDE,
    MIN_CORNERS,
    Thumbnail,
    difference,
    survival,
)
from recon4d.io.frame_selection import select_evenly
from recon4d.io.packet_index import PacketIndex
from recon4d.io.videos import ScannedVideo, read_thumbnails

MIN_AUTO_FRAMES, MAX_AUTO_FRAMES = 8, 48
"""Smallest and largest number of frames that are chosen by motion, if the video has so many. Hand-tuned."""
TARGET_SURVIVAL = 0.65
"""Share of corners that neighboring frames should have in common. Hand-tuned."""
CHEAP_SHARE, CHEAP_PIXELS = 0.1, 5e7
"""Cost of the look for cuts, if frames are not chosen by motion: a share of the packets that reading decodes, or a
number of pixels (a fraction of a second), whichever is larger. Tuned with `benchmarks.reading`."""
UNINDEXED_PACKETS = 2000.0
"""Number of frames that may be decoded to locate cuts in a video that is decoded from its beginning each time.
Hand-tuned."""
MAX_SAMPLES = 240
"""Largest number of frames that are looked at, apart from those around possible cuts. Hand-tuned."""
SCAN_PIXELS = 6e8
"""Largest number of pixels that the look at a video decodes to choose frames: about 3 s on one core. Hand-tuned."""
CUT_SURVIVAL, CUT_DIFFERENCE = 0.15, 0.2
"""Largest survival and smallest difference of the images before and after a cut. Hand-tuned: frames of unrelated videos
differ by 0.43 or more and share up to 0.06 of their corners."""
CUT_CONTRAST = 3.0
"""Smallest ratio between the difference at a cut and those of the frames next to it. Hand-tuned."""
FLASH_SECONDS = 0.4
"""Longest flash or cover of the camera, in seconds. After it the scene returns, so that it is no cut. Hand-tuned."""
CLOSE_FRAMES = 24
"""Largest number of frames between two samples of which all are decoded to locate a cut. Longer gaps are halved."""
FADE_SECONDS = 1.0
"""Time over which a fade is searched for, in seconds. Hand-tuned."""
FADE_RESIDUAL = 0.25
"""Largest deviation of the frames in a fade from a mixture of its ends, relative to the difference of the ends.
Hand-tuned."""


@dataclass(frozen=True)
class MotionSelection:
    """Frames of a video that were chosen by motion."""

    numbers: tuple[int, ...]
    """Frame numbers in ascending order."""
    num_available: int
    """Number of frames from which they were chosen."""
    survival: float
    """Median share of corners that successive chosen frames have in common; NaN if there are too few corners."""

    @property
    def summary(self) -> str:
        """One sentence for people, without a period."""
        chosen = f"{len(self.numbers)} of {self.num_available} frames"
        if len(self.numbers) == self.num_available:
            return f"all {self.num_available} frames"
        if math.isnan(self.survival):
            return f"{chosen}, evenly spaced in time (too few corners to measure motion)"
        return f"{chosen}, chosen by motion (neighbors share about {self.survival:.0%} of their corners)"


@dataclass(frozen=True)
class Cuts:
    """Changes between the scenes of a video."""

    cuts: tuple[int, ...]
    """Number of the first frame after each cut, ascending."""
    fades: tuple[int, ...]
    """Number of a frame in the middle of each fade from one scene to another, ascending."""

    def longest_part(self, times: Sequence[float], in_range: range) -> range:
        """Find the longest part without a cut.

        Args:
            times: Times of all frames of the video.
            in_range: Frame numbers to choose from.

        Returns:
            The frame numbers of the longest part in time, the first of them if several are equally long.
        """
        inner = [cut for cut in self.cuts if in_range.start < cut < in_range.stop]
        parts = [range(*ends) for ends in pairwise([in_range.start, *inner, in_range.stop])]
        return max(parts, key=lambda part: (times[part[-1]] - times[part[0]], len(part)))


class MotionScan:
    """Low-resolution images of some frames of a video, from which frames are chosen and cuts found."""

    def __init__(self, video: ScannedVideo, in_range: range, max_packets: float) -> None:
        """Decode the samples.

        Args:
            video: A scanned video.
            in_range: Frame numbers of the part to look at.
            max_packets: Number of packets to decode for samples, and as many again to locate cuts, if the video has a
                packet index. It is exceeded only to look once after each key frame and once for a cut.

        Raises:
            UserError: If the file has changed.
        """
        self._video, self._range, self._max_packets = video, in_range, max_packets
        self._images: dict[int, Thumbnail] = {}
        samples = _samples(video.index, video.times, in_range, max_packets)
        self._look(samples)

    def choose_frames(self, part: range) -> MotionSelection:
        """Choose frames such that neighbors have enough corners in common.

        Args:
            part: Frame numbers to choose from, within the range of the scan.

        Returns:
            From `MIN_AUTO_FRAMES` to `MAX_AUTO_FRAMES` frames (or all if there are fewer), the first and last included.
        """
        if len(part) <= MIN_AUTO_FRAMES:
            numbers = tuple(part)
        else:
            samples = self._samples_of(part)
            if len(samples) < MIN_AUTO_FRAMES:
                evenly = select_evenly([self._video.times[i] for i in part], MIN_AUTO_FRAMES)
                samples = sorted({*samples, *(part[i] for i in evenly)})
            images = self._look(samples)
            times = [self._video.times[number] for number in samples]
            numbers = tuple(samples[i] for i in select_by_motion(times, _accumulated_motion(images)))
        shared = [survival(before, after) for before, after in pairwise(self._look(numbers))]
        known = [share for share in shared if not math.isnan(share)]
        return MotionSelection(numbers, len(part), float(np.median(known)) if known else math.nan)

    def find_cuts(self) -> Cuts:
        """Find the changes between scenes.

        Returns:
            The cuts between two frames, and fades. Changes inside gaps that are not decoded closely are not found.
        """
        samples = sorted(self._images)
        gaps = [gap for gap in pairwise(samples) if self._is_change(*gap)]
        gaps = sorted(gaps, key=lambda gap: -difference(self._images[gap[0]], self._images[gap[1]]))
        cuts: set[int] = set()
        spent = 0
        for gap in gaps:
            if spent > self._max_packets:
                break
            spent += self._cost_of(gap)
            cuts |= set(self._cuts_between(*gap))
        return Cuts(tuple(sorted(cuts)), tuple(self._fades(samples, sorted(cuts))))

    def _cost_of(self, gap: tuple[int, int]) -> int:
        """Estimate the number of packets to decode to locate a cut between two samples."""
        index = self._video.index
        close = range(gap[0], min(gap[1], gap[0] + CLOSE_FRAMES) + 1)
        return close[-1] if index is None else index.decoding_cost(close)

    def _samples_of(self, part: range) -> list[int]:
        """Frames of a part that have been decoded, and its first and last."""
        return sorted({part[0], part[-1], *(number for number in self._images if number in part)})

    def _look(self, numbers: Sequence[int]) -> list[Thumbnail]:
        """The images of frames in ascending order; those that are missing are decoded."""
        missing = [number for number in numbers if number not in self._images]
        if missing:
            images = read_thumbnails(self._video, missing, LONGER_SIDE)
            self._images |= {number: Thumbnail(pixels) for number, pixels in zip(missing, images, strict=True)}
        return [self._images[number] for number in numbers]

    def _is_change(self, before: int, after: int) -> bool:
        """Whether two frames differ as those of two scenes, or of fast motion."""
        first, second = self._look([before, after])
        return difference(first, second) >= CUT_DIFFERENCE and survival(first, second) <= CUT_SURVIVAL

    def _cuts_between(self, before: int, after: int) -> list[int]:
        """The first frames after cuts between two samples."""
        while after - before > CLOSE_FRAMES:
            middle = (before + after) // 2
            first, inner, last = self._look([before, middle, after])
            before, after = (before, middle) if difference(first, inner) > difference(inner, last) else (middle, after)
        times = self._video.times
        flash = [
            bisect_left(times, times[number] + sign * FLASH_SECONDS) for number, sign in ((before, -1), (after, 1))
        ]
        around = range(max(flash[0] - 1, self._range.start), min(flash[1] + 2, self._range.stop))
        images = self._look(around)
        changes = [difference(one, other) for one, other in pairwise(images)]
        return [
            around[i] for i in range(before + 1 - around.start, after + 1 - around.start) if _is_cut(images, changes, i)
        ]

    def _fades(self, samples: list[int], cuts: list[int]) -> Iterator[int]:
        """Find stretches without a cut in which one scene is mixed into another."""
        times = [self._video.times[number] for number in samples]
        end_of_last = -1
        for start, time in enumerate(times):
            end = bisect_left(times, time + FADE_SECONDS)
            if start < end_of_last or end >= len(samples) or end - start < 4:
                continue
            if any(samples[start] < cut <= samples[end] for cut in cuts):
                continue
            images = self._look(samples[start : end + 1])
            if _is_fade(images):
                end_of_last = end
                yield samples[(start + end) // 2]


def max_scan_packets(index: PacketIndex | None, numbers: Sequence[int] | None) -> float:
    """Choose how many packets the scan of a video may decode.

    Args:
        index: Packet index of the video. None if it has none, so that everything must be decoded.
        numbers: Frames that will be read. None if the scan chooses them.

    Returns:
        Number of packets, for `MotionScan`; 0 if a scan costs too much in relation to the frames that will be read.
    """
    if index is None:
        return 0.0 if numbers is not None else UNINDEXED_PACKETS
    largest = SCAN_PIXELS / index.frame_pixels
    if numbers is None:
        return largest
    return min(largest, max(CHEAP_SHARE * index.decoding_cost(numbers), CHEAP_PIXELS / index.frame_pixels))


def select_by_motion(times: Sequence[float], motion: Sequence[float]) -> list[int]:
    """Select frames evenly in accumulated motion.

    Args:
        times: Times of the frames in seconds, ascending.
        motion: Accumulated motion up to each frame, from 0; 1 is the motion that neighbors may be apart.

    Returns:
        Indices of the chosen frames, the first and the last included: as many as the motion asks for, within
        `MIN_AUTO_FRAMES` and `MAX_AUTO_FRAMES`. If the motion asks for fewer, the others are evenly spaced in time.
    """
    evenly = max(MIN_AUTO_FRAMES - 1 - motion[-1], 1e-3)
    duration = max(times[-1] - times[0], 1e-9)
    position = [moved + evenly * (time - times[0]) / duration for time, moved in zip(times, motion, strict=True)]
    wanted = math.ceil(motion[-1] - 1e-6) + 1
    return select_evenly(position, min(max(wanted, MIN_AUTO_FRAMES), MAX_AUTO_FRAMES))


def _samples(index: PacketIndex | None, times: Sequence[float], in_range: range, max_packets: float) -> list[int]:
    """Choose frames to look at: evenly spaced if that is cheap, otherwise the frames just after key frames."""
    evenly = [in_range[i] for i in select_evenly([times[i] for i in in_range], MAX_SAMPLES)]
    if index is None or index.decoding_cost(evenly) <= max_packets:
        return evenly
    groups: dict[int, list[int]] = {}
    for number in evenly:
        groups.setdefault(index.key_position(number), []).append(number)
    # A group of pictures is decoded from its key frame on as far as its share of the packets reaches.
    share = max(max_packets / len(evenly), len(groups) / len(evenly))
    samples = []
    for key, numbers in groups.items():
        first = max(in_range.start, bisect_left(index.stamps, index.packets[key].pts))
        length = min(max(int(share * len(numbers)), 1), numbers[-1] - first + 1)
        samples += [first + i * length // len(numbers) for i in range(len(numbers))]
    return sorted(set(samples))


def _accumulated_motion(images: Sequence[Thumbnail]) -> list[float]:
    """Accumulate motion over a sequence of images.

    Each image is compared with a key image: the last one that lost at most the target of the corners of the key image
    before it.

    Returns:
        For each image the sum up to it; 1 is the loss of as many corners as `TARGET_SURVIVAL` allows.
    """
    motion, key, motion_of_key = [0.0], images[0], 0.0
    for before, after in pairwise(images):
        moved = _motion(key, after)
        if moved > 1 and key is not before:
            key, motion_of_key = before, motion[-1]
            moved = _motion(key, after)
        motion.append(max(motion[-1], motion_of_key + moved))
        if len(key.corners) < MIN_CORNERS:
            key, motion_of_key = after, motion[-1]
    return motion


def _motion(first: Thumbnail, second: Thumbnail) -> float:
    """Share of lost corners, relative to the share that may be lost; 0 if there are too few corners."""
    share = survival(first, second)
    return 0.0 if math.isnan(share) else (1 - share) / (1 - TARGET_SURVIVAL)


def _is_cut(images: Sequence[Thumbnail], changes: Sequence[float], after: int) -> bool:
    """Whether a scene begins at the image `after`, to which it changes abruptly and from which it does not return."""
    change = changes[after - 1]
    near = [changes[i] for i in range(max(after - 3, 0), min(after + 2, len(changes))) if i != after - 1]
    if change < CUT_DIFFERENCE or change < CUT_CONTRAST * max(near, default=0.0):
        return False
    shares = [survival(images[after - 1], images[i]) for i in range(after, len(images))]
    shares += [survival(images[i], images[after]) for i in range(after - 1)]
    # An unknown share, of images without corners, is no proof.
    return shares[0] <= CUT_SURVIVAL and not any(share > CUT_SURVIVAL for share in shares)


def _is_fade(images: Sequence[Thumbnail]) -> bool:
    """Whether the images between the first and the last are mixtures of them, or dark."""
    first, last = images[0], images[-1]
    if difference(first, last) < CUT_DIFFERENCE or not survival(first, last) <= CUT_SURVIVAL:
        return False
    across = last.tiny - first.tiny
    scale = float(np.linalg.norm(across))
    weights = [float(np.clip((image.tiny - first.tiny) @ across / scale**2, 0, 1)) for image in images]
    residuals = [
        float(np.linalg.norm(image.tiny - first.tiny - weight * across)) / scale
        for image, weight in zip(images, weights, strict=True)
    ]
    is_mixture = max(residuals) <= FADE_RESIDUAL and sum(0.2 < weight < 0.8 for weight in weights) >= 2
    is_dark = min(float(image.tiny.std()) for image in images[1:-1]) < 4.0
    return is_mixture or is_dark
