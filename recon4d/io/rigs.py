"""Reading of rigs: a folder whose sub-folders are cameras that took their pictures at the same moments."""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.cameras.pairing import nearest_in_time, times_of_names
from recon4d.io.fitting import gather_photos
from recon4d.io.frame_pairing import bare_name, natural_order
from recon4d.io.frame_selection import check_selection, select_evenly
from recon4d.io.motion import MAX_AUTO_FRAMES
from recon4d.io.panoramas import refuse_panorama
from recon4d.io.photos import list_photos
from recon4d.records import Clip, ClipSource, Rig

MIN_SHARED = 0.5
"""Smallest fraction of the pictures of the smallest camera that must be shared with others for a rule of pairing to
apply. Hand-tuned."""


@dataclass(frozen=True)
class _Moments:
    """Pictures that were taken at once: for each moment, the index of each camera's picture, or None."""

    pictures: list[list[int | None]]
    rule: str
    seconds: list[float] | None = None

    def num_shared(self) -> int:
        return sum(sum(index is not None for index in moment) > 1 for moment in self.pictures)


def read_rig(
    folder: str | Path, num_frames: int | Literal["auto"] | None = "auto", fps: float | None = None
) -> tuple[Clip, str]:
    """Read the pictures of cameras that are fixed to each other.

    Pictures of different cameras belong to one moment if they have the same name, if the times that they are named by
    agree (`nearest_in_time`), or if the last numbers in their names are the same. The first rule that
    fits applies.

    Args:
        folder: A folder with a sub-folder for each camera. EuRoC's ``cam0/data`` is understood too.
        num_frames: Largest number of pictures of all cameras together, evenly spaced in time. "auto" is
            `MAX_AUTO_FRAMES`; None takes all.
        fps: Rate at which each camera took its pictures; None gives the times that pictures are named by, if any.

    Returns:
        The clip, camera after camera, with its rig; and a line for the user that tells how pictures were paired.

    Raises:
        UserError: If the folder has no two cameras with pictures, if pictures cannot be paired, or if a picture is
            damaged or a panorama.
    """
    check_selection(fps, None, None)
    folder = Path(folder)
    cameras = _find_cameras(folder)
    photos = [list_photos(camera) for camera in cameras]
    moments = _pair(folder, cameras, photos)
    shared = [moment for moment in moments.pictures if sum(index is not None for index in moment) > 1]
    seconds = moments.seconds
    if seconds is not None:
        seconds = [
            second
            for second, moment in zip(seconds, moments.pictures, strict=True)
            if sum(index is not None for index in moment) > 1
        ]
    _warn_of_single_pictures(folder, moments.pictures, photos)
    limit = MAX_AUTO_FRAMES if num_frames == "auto" else num_frames
    count = len(shared) if limit is None else max(1, limit // len(cameras))
    chosen = select_evenly([float(moment) for moment in range(len(shared))], count)
    frames = [
        (camera, moment)
        for camera in range(len(cameras))
        for moment in range(len(chosen))
        if shared[chosen[moment]][camera] is not None
    ]
    files = [photos[camera][shared[chosen[moment]][camera] or 0] for camera, moment in frames]
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    refuse_panorama(folder, names)
    gathered = gather_photos(str(folder), files)
    times = [math.nan] * len(frames)
    if fps is not None:
        times = [chosen[moment] / fps for _, moment in frames]
    elif seconds is not None:
        times = [seconds[chosen[moment]] - seconds[0] for _, moment in frames]
    numbers = tuple(shared[chosen[moment]][camera] or 0 for camera, moment in frames)
    rig = Rig(
        tuple(camera.relative_to(folder).parts[0] for camera in cameras),
        tuple(camera for camera, _ in frames),
        tuple(moment for _, moment in frames),
    )
    source = ClipSource(str(folder), names, numbers, sizes=gathered.sizes)
    report = (
        f"rig: {len(cameras)} cameras ({', '.join(rig.names)}), {len(chosen)} of {len(shared)} moments, paired "
        f"{moments.rule}"
    )
    return Clip(gathered.images, torch.tensor(times), gathered.priors, source, rig), report


def _find_cameras(folder: Path) -> list[Path]:
    """The folders of the cameras in natural order: sub-folders with pictures, or with a single folder of pictures."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; wanted a folder with a sub-folder of pictures for each camera of a rig"
        )
    found = []
    with os_errors_as_user_errors("cannot list the cameras of the rig"):
        subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(subfolders, key=lambda path: natural_order(path.name)):
            inner = [path, *sorted(inner for inner in path.iterdir() if inner.is_dir())]
            holding = [inner for inner in inner if list_photos(inner)]
            if holding and (holding[0] == path or len(holding) == 1):
                found.append(holding[0])
    if len(found) < 2:
        raise UserError(
            f"{folder} has {len(found)} sub-folder{'s' if len(found) != 1 else ''} with pictures; wanted one for each "
            "camera of a rig, at least 2"
        )
    return found


def _pair(folder: Path, cameras: Sequence[Path], photos: Sequence[Sequence[Path]]) -> _Moments:
    smallest = min(map(len, photos))
    for moments in (
        _by_key(photos, "by name", bare_name),
        _by_time(photos),
        _by_key(photos, "by number", _last_number),
    ):
        if moments is not None and moments.num_shared() >= MIN_SHARED * smallest:
            return moments
    shown = " and ".join(f"{camera.name}/{own[0].name}" for camera, own in zip(cameras[:2], photos[:2], strict=True))
    raise UserError(
        f"{folder}: nothing tells which pictures of its {len(cameras)} cameras were taken at once ({shown} ...); "
        "wanted equal names, names that are times, or equal numbers in the names"
    )


def _last_number(name: str) -> str | None:
    found = re.findall(r"\d+", bare_name(name))
    return str(int(found[-1])) if found else None


def _by_key(photos: Sequence[Sequence[Path]], rule: str, key_of: Callable[[str], str | None]) -> _Moments | None:
    """Pair pictures with equal keys; None if a camera has two pictures of one key, or a picture has none."""
    keys = [[key_of(photo.name) for photo in own] for own in photos]
    if any(None in own or len(set(own)) < len(own) for own in keys):
        return None
    places = [{key: index for index, key in enumerate(own)} for own in keys]
    every = sorted({key for own in keys for key in own if key is not None}, key=natural_order)
    seconds = times_of_names(tuple(f"{key}.png" for key in every)) if rule == "by name" else None
    return _Moments([[own.get(key) for own in places] for key in every], rule, seconds)


def _by_time(photos: Sequence[Sequence[Path]]) -> _Moments | None:
    """Pair pictures with the first camera's by the times that they are named by; None without such times."""
    times = [times_of_names(tuple(photo.name for photo in own)) for own in photos]
    if any(own is None for own in times):
        return None
    first = times[0] or []
    pictures: list[list[int | None]] = [[index, *[None] * (len(photos) - 1)] for index in range(len(first))]
    for camera, own in enumerate(times[1:], start=1):
        paired = nearest_in_time(torch.tensor(own, dtype=torch.float64), torch.tensor(first, dtype=torch.float64))
        for moment, index in zip(pictures, paired, strict=True):
            moment[camera] = index
    return _Moments(pictures, "by the times that they are named by", first)


def _warn_of_single_pictures(
    folder: Path, pictures: Sequence[Sequence[int | None]], photos: Sequence[Sequence[Path]]
) -> None:
    used = sum(
        sum(index is not None for index in moment)
        for moment in pictures
        if sum(index is not None for index in moment) > 1
    )
    total = sum(map(len, photos))
    if used < total:
        warnings.warn(
            f"{folder}: {total - used} of {total} pictures have no counterpart of another camera and are passed over",
            stacklevel=3,
        )
