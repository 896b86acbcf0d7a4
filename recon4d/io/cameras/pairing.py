"""Assignment of the cameras of a file to the frames of a clip: by name, by time, by frame number or by order."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.file_errors import is_there
from recon4d.io.frame_pairing import bare_name, match_by_name, natural_order
from recon4d.io.photos import list_photos
from recon4d.io.videos import use_video
from recon4d.records import Clip, ClipSource

NEAREST_SECONDS = 0.02
"""Largest difference in seconds between a frame and its camera, the default of TUM's ``associate.py``."""
EPOCH_UNITS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e9, 1.0))
"""Seconds per unit of times since 1970 that are at least so large: in nanoseconds, micro-, milliseconds, seconds."""
MAX_OVERHANG = 1.5
"""Largest duration of a trajectory, relative to the clip's, if its stamps may also be frame numbers. Hand-tuned."""

PairingRule = Literal["auto", "name", "time", "number", "number-from-1", "order"]
"""How cameras are assigned to frames; ``auto`` chooses from what is in the file and refuses if it cannot tell."""


@dataclass(frozen=True)
class CameraKeys:
    """What a camera file says about the frames of its cameras."""

    place: str
    """The file, at the beginning of messages."""
    count: int
    """Number of cameras."""
    names: tuple[str, ...] | None = None
    """Name of each camera's picture. None if the file has no names."""
    seconds: Float64[Tensor, "camera"] | None = None
    """Time of each camera in seconds. None if the file has no times."""


@dataclass(frozen=True)
class Pairing:
    """A camera for each frame."""

    indices: tuple[int | None, ...]
    """Index of the camera of each frame; None for frames without a camera."""
    rule: str
    """How they were assigned, such as "by name"."""


def pair_cameras(clip: Clip, keys: CameraKeys, rule: PairingRule = "auto", offset: float = 0.0) -> Pairing:
    """Assign a camera to each frame of a clip.

    With ``auto`` the first of these counts: equal names; times within `NEAREST_SECONDS` if every frame has one; frame
    numbers (in the names, as whole stamps, or as the number of the row in a file with as many cameras as the video or
    folder has frames); order among all frames of the video or folder if it has as many as the file; order if the
    numbers of cameras and frames agree; times if some frames have one.

    Args:
        clip: The clip.
        keys: Names, times and number of the cameras.
        rule: The rule.
        offset: Seconds to add to the times of the cameras.

    Returns:
        The pairing; at least one frame has a camera.

    Raises:
        UserError: If the rule fits no frame, or if rules disagree and none is evidently right.
    """
    pairing = _Pairer(clip, keys, offset).pair(rule)
    if all(index is None for index in pairing.indices):
        raise UserError(f"{keys.place}: no frame of the clip has a camera {pairing.rule}")
    return pairing


def count_frames(source: ClipSource | None) -> int | None:
    """Count the frames of the video or folder that a clip comes from.

    Args:
        source: Source of the clip.

    Returns:
        The number, or None if the files are not there or cannot be counted.
    """
    if source is None or not Path(source.path).exists():
        return None
    try:
        if not Path(source.path).is_dir():
            return use_video(source.path, None, lambda video: len(video.times))
        photos = [photo.name for photo in list_photos(source.path)]
    except UserError:  # a single picture, or a video that was damaged in the meantime
        return None
    is_whole_folder = all(
        number < len(photos) and photos[number] == Path(name).name
        for name, number in zip(source.names, source.numbers, strict=True)
    )
    return len(photos) if is_whole_folder else None


def times_of_names(names: tuple[str, ...]) -> list[float] | None:
    """Read the times that pictures are named by, as in TUM's folders (seconds) and EuRoC's (nanoseconds).

    Args:
        names: File names.

    Returns:
        Seconds, or None unless all names are numbers with a decimal point or times since 1970. Whole numbers such as
        ``000012`` are frame numbers and no times.
    """
    bare = [bare_name(name) for name in names]
    if not all(re.fullmatch(r"\d+\.\d+|\d{10,}", name) for name in bare):
        return None
    return (np.array([float(name) for name in bare]) * seconds_per_unit(np.array([float(bare[0])]))).tolist()


def seconds_per_unit(stamps: np.ndarray) -> float:
    """Tell the unit of times by their size or, if they do not count from 1970, by their steps.

    Args:
        stamps: Times in the order of the file.

    Returns:
        Seconds per unit: 1e-9, 1e-6, 1e-3 or 1.
    """
    largest = float(np.abs(stamps).max())
    for smallest, unit in EPOCH_UNITS:
        if largest >= smallest and unit < 1:
            return unit
    steps = np.abs(np.diff(stamps))
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    # Trajectories have 1 to 1000 poses a second: steps of 1e6 to 1e9 ns, or of 1e3 to 1e6 us.
    is_whole = bool((stamps == np.round(stamps)).all())
    return 1e-9 if is_whole and step >= 1e6 else 1e-6 if is_whole and step >= 1e3 else 1.0


class _Pairer:
    def __init__(self, clip: Clip, keys: CameraKeys, offset: float) -> None:
        self.clip, self.keys = clip, keys
        self.seconds = None if keys.seconds is None else keys.seconds + offset
        self.total = count_frames(clip.source)
        self.numbers = range(clip.num_frames) if clip.source is None else clip.source.numbers

    def pair(self, rule: PairingRule) -> Pairing:
        rules = {
            "name": lambda: Pairing(tuple(self._by_name()), "by name"),
            "time": self._by_any_time,
            "number": lambda: self._by_number(0),
            "number-from-1": lambda: self._by_number(1),
            "order": self._by_order,
        }
        return self._by_the_best_rule() if rule == "auto" else rules[rule]()

    def _by_the_best_rule(self) -> Pairing:
        by_name = self._by_name()
        if any(index is not None for index in by_name):
            return Pairing(tuple(by_name), "by name")
        by_time = self._by_any_time() if self.seconds is not None else None
        by_number = self._by_evident_number()
        found = self._choose(by_time, by_number)
        if found is not None:
            return found
        if self.keys.count == self.total:
            order = self._order()
            return Pairing(tuple(order[number] for number in self.numbers), "by order among all frames")
        if self.keys.count == self.clip.num_frames:
            return self._by_order()
        if by_time is not None and any(index is not None for index in by_time.indices):
            return by_time
        raise UserError(f"{self.keys.place}: {self._mismatch()}")

    def _choose(self, by_time: Pairing | None, by_number: Pairing | None) -> Pairing | None:
        """Choose between complete pairings by time and by number."""
        complete = [pairing for pairing in (by_time, by_number) if pairing is not None and None not in pairing.indices]
        if len(complete) < 2 or complete[0].indices == complete[1].indices:
            if complete and complete[0] is by_time and by_number is not None and not self._times_fit():
                return by_number
            return complete[0] if complete else None
        if not self._times_fit():
            return by_number
        raise UserError(
            f"{self.keys.place}: its stamps may be seconds or frame numbers, and the cameras would differ; say which "
            "(cameras_by: time, number or number-from-1)"
        )

    def _times_fit(self) -> bool:
        """Whether the stamps, taken as seconds, last about as long as the clip."""
        times, numbers = self.clip.times.double(), torch.tensor([float(number) for number in self.numbers])
        if self.seconds is None or not times.isfinite().all():
            return False
        duration = float(times.max())
        if self.total is not None and numbers.max() > 0:
            duration *= self.total / float(numbers.max())
        return float(self.seconds.max()) <= MAX_OVERHANG * duration + NEAREST_SECONDS

    def _by_name(self) -> list[int | None]:
        by_name = match_by_name(self.clip, self.keys.names or (), self.keys.place)
        first = next((frame for frame, index in enumerate(by_name) if index is not None), None)
        if first is not None and self.clip.source is not None and self.keys.names is not None:
            _check_folder(self.keys.place, self.keys.names[by_name[first] or 0], self.clip.source)
        return by_name

    def _by_any_time(self) -> Pairing:
        """By the times of the clip, or else by the times that its pictures are named by."""
        if self.seconds is None:
            raise UserError(f"{self.keys.place}: its cameras have no times")
        by_time = nearest_in_time(self.seconds, self.clip.times.double())
        if all(index is None for index in by_time) and self.clip.source is not None:
            named = times_of_names(self.clip.source.names)
            if named is not None:
                by_name_time = nearest_in_time(self.seconds, torch.tensor(named, dtype=torch.float64))
                return Pairing(by_name_time, "by the times that the pictures are named by")
        return Pairing(by_time, "by time")

    def _frame_numbers(self) -> list[int] | None:
        """The frame numbers that the file states, of any first number."""
        if self.keys.names is not None:
            found = [re.findall(r"\d+", bare_name(name)) for name in self.keys.names]
            numbers = [int(digits[-1]) for digits in found if digits and len(digits[-1]) <= 9]
        elif self.seconds is not None:
            numbers = [int(value) for value in self.seconds.tolist() if value == round(value) and abs(value) < 1e9]
        else:
            numbers = list(range(self.keys.count))
        return numbers if len(numbers) == self.keys.count and len(set(numbers)) == self.keys.count else None

    def _by_number(self, first: int) -> Pairing:
        numbers = self._frame_numbers()
        if numbers is None:
            raise UserError(f"{self.keys.place}: its cameras have no frame numbers, or some have the same")
        index_of = {number - first: index for index, number in enumerate(numbers)}
        indices = tuple(index_of.get(number) for number in self.numbers)
        return Pairing(indices, f"by frame number, from {first}")

    def _by_evident_number(self) -> Pairing | None:
        """By number if the file evidently counts all frames of the clip's file, from 0 or from 1."""
        numbers = self._frame_numbers()
        if numbers is None or self.total is None or len(numbers) > self.total:
            return None
        smallest, largest = min(numbers), max(numbers)
        if largest - smallest + 1 == self.total:
            return self._by_number(smallest)
        if smallest == 0 and largest < self.total:
            # A file of every n-th frame is one of seconds as well; only whole stamps of a trajectory can be both.
            return self._by_number(0) if self.keys.names is None and self.seconds is not None else None
        return None

    def _by_order(self) -> Pairing:
        count, frames = self.keys.count, self.clip.num_frames
        if count != frames:
            raise UserError(f"{self.keys.place}: {self._mismatch()}")
        return Pairing(tuple(self._order()), "by order" if self.keys.names is None else "by the order of the names")

    def _order(self) -> list[int]:
        """The cameras in natural order of their names, or else as they are in the file."""
        order, names = list(range(self.keys.count)), self.keys.names
        return order if names is None else sorted(order, key=lambda index: natural_order(names[index]))

    def _mismatch(self) -> str:
        hint = ""
        if self.keys.names is not None and self.clip.source is not None:
            hint = f" (cameras of {self.keys.names[0]} ..., frames {self.clip.source.names[0]} ...)"
        elif self.seconds is not None and self.clip.times.isfinite().any():
            hint = (
                f" (the first camera is at {float(self.seconds[0]):.6g} s and the first frame at "
                f"{float(self.clip.times[0]):.6g} s; cameras_offset shifts the cameras)"
            )
        elif self.seconds is not None:
            hint = " (the pictures have no times; fps gives them)"
        return (
            f"{self.keys.count} cameras, and the clip has {self.clip.num_frames} frames; neither names nor times tell "
            f"which belongs to which{hint}; cameras_by tells how they are to be paired"
        )


def _check_folder(place: str, name: str, source: ClipSource) -> None:
    """Refuse a camera that evidently belongs to the picture of the same name in a neighboring folder.

    Smaller copies of pictures in ``images_2``, ``images_4`` and ``images_8`` have the cameras of ``images``.
    """
    folder, parents = Path(source.path), PurePosixPath(name.replace("\\", "/")).parent.parts
    if not parents or not folder.is_dir() or parents[-1] in (folder.resolve().name, "..", "."):
        return
    other = folder.resolve().parent / parents[-1]
    is_smaller_copy = re.fullmatch(re.escape(parents[-1]) + r"[_-]?\d+", folder.resolve().name) is not None
    if is_smaller_copy or not (is_there(other) and other.is_dir()):
        return
    if any(bare_name(photo.name) == bare_name(name) for photo in list_photos(other)):
        raise UserError(
            f"{place}: its cameras are those of {other} ({name} ...), and the clip is {folder}, which has pictures of "
            "the same names; give that folder, or the cameras of this one (cameras_by: order pairs them in any case)"
        )


def nearest_in_time(times: Float64[Tensor, "camera"], wanted: Float64[Tensor, "time"]) -> tuple[int | None, ...]:
    """Pair times that are each other's nearest, and at most `NEAREST_SECONDS` apart.

    Args:
        times: Times in seconds; NaN is nearest to none.
        wanted: Other times in seconds.

    Returns:
        For each of `wanted` an index into `times`, or None.
    """
    differences = (wanted[:, None] - times).abs().nan_to_num(nan=torch.inf)
    nearest_camera, nearest_frame = differences.argmin(dim=1), differences.argmin(dim=0)
    frames = range(len(wanted))
    return tuple(
        int(camera) if differences[frame, camera] <= NEAREST_SECONDS and nearest_frame[camera] == frame else None
        for frame, camera in zip(frames, nearest_camera, strict=True)
    )
