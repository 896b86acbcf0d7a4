"""Uploaded files of one clip: checked, linked into the folder of their session, and previewed."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recon4d.app.options import Limits
from recon4d.errors import UserError, os_errors_as_user_errors

MAX_PICTURES = 1000
"""Largest number of pictures of a clip. Hand-tuned."""
MIN_FREE_MEGABYTES = 300
"""Free space that a reconstruction needs at least, in megabytes (10^6 bytes): maps, pictures and exports of 24 frames
take about 200. Hand-tuned."""
PREVIEW_PICTURES = 6
"""Number of pictures in the preview of a clip."""
PREVIEW_SIDE = 320
"""Longer side of the pictures of the preview in pixels."""


@dataclass(frozen=True)
class Upload:
    """The files of one clip."""

    folder: Path
    """Folder that holds them and nothing else."""
    names: tuple[str, ...]
    """Names of the files."""
    summary: str
    """What they are, in one line."""
    previews: tuple[Path, ...]
    """Small pictures of the clip."""

    @property
    def clip(self) -> Path:
        """What `recon4d.read_clip` reads: the video, or the folder of the pictures."""
        return clip_in(self.folder)


def clip_in(folder: Path) -> Path:
    """Return what `recon4d.read_clip` reads from a folder of uploaded files.

    Args:
        folder: The folder.

    Returns:
        The file if there is only one, else the folder.

    Raises:
        UserError: If the folder is empty.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        raise UserError("the files are gone; choose them again")
    return files[0] if len(files) == 1 else folder


def check_space(folder: Path) -> None:
    """Check that a reconstruction has room on the disk.

    Args:
        folder: An existing folder on the disk.

    Raises:
        UserError: If less than `MIN_FREE_MEGABYTES` are free.
    """
    free = shutil.disk_usage(folder).free / 1e6
    if free < MIN_FREE_MEGABYTES:
        raise UserError(
            f"the server's disk is full: {free:.0f} MB are free, {MIN_FREE_MEGABYTES} are needed; try again later"
        )


def take_upload(paths: Sequence[str | Path], folder: Path, limits: Limits) -> Upload:
    """Check uploaded files and link them into the folder of a session.

    Args:
        paths: The files: one video or animation, or pictures.
        folder: The folder to make; its subfolder ``clip`` gets the files.
        limits: Limits of the app.

    Returns:
        The clip.

    Raises:
        UserError: If the files are no clip, exceed a limit, or do not fit the disk.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise UserError("choose a video or pictures first")
    _check_size(files, limits)
    check_space(folder.parent)
    clip_folder = folder / "clip"
    with os_errors_as_user_errors("the files cannot be stored"):
        clip_folder.mkdir(parents=True)
        for file in files:
            _link(file, clip_folder / _free_name(clip_folder, file.name))
    try:
        return _describe(clip_folder, folder / "preview", limits)
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        # People know their files by name, not by where the server keeps them.
        raise UserError(str(error).replace(f"{clip_folder}{os.sep}", "").replace(str(clip_folder), "")) from error


def _check_size(files: list[Path], limits: Limits) -> None:
    with os_errors_as_user_errors("the files cannot be read"):
        megabytes = sum(file.stat().st_size for file in files) / 1e6
    if megabytes > limits.upload_megabytes:
        raise UserError(f"the files have {megabytes:.0f} MB; at most {limits.upload_megabytes} MB are allowed")
    if len(files) > MAX_PICTURES:
        raise UserError(f"{len(files)} files were chosen; at most {MAX_PICTURES} are allowed")


def _describe(clip_folder: Path, preview_folder: Path, limits: Limits) -> Upload:
    """Find out what the files are, and write the preview."""
    from recon4d.io import read_clip, write_jpeg
    from recon4d.io.clip_files import VIDEO_SUFFIXES, find_clip_files

    files = sorted(clip_folder.iterdir())
    if len(files) > 1 and any(file.suffix.lower() in VIDEO_SUFFIXES for file in files):
        raise UserError(f"choose either one video or pictures; {len(files)} files with a video were chosen")
    found = find_clip_files(clip_in(clip_folder))
    if found.video is not None:
        _check_duration(found.video, limits)
    clip = read_clip(clip_in(clip_folder), PREVIEW_PICTURES, keep_cuts=True)
    height, width = clip.size
    if found.photos:
        count = len(found.photos)
        summary = f"{count} picture{'s' if count > 1 else ''} of {width} x {height} pixels"
    else:
        seconds = float(clip.times.max() - clip.times.min())
        summary = f"{files[0].name}: {seconds:.1f} s, {width} x {height} pixels"
    scale = min(1.0, PREVIEW_SIDE / max(clip.size))
    small = clip.resized(max(1, round(scale * height)), max(1, round(scale * width)))
    with os_errors_as_user_errors("the preview cannot be stored"):
        preview_folder.mkdir()
    previews = []
    for number, image in enumerate(small.images):
        previews.append(preview_folder / f"{number}.jpg")
        write_jpeg(previews[-1], image)
    return Upload(clip_folder, tuple(file.name for file in files), summary, tuple(previews))


def _check_duration(video: Path, limits: Limits) -> None:
    """Refuse a video that is too long by the duration that it declares, before all of it is read."""
    from recon4d.io.video_streams import DamageError, declared_seconds

    with suppress(DamageError):  # what can be read of a damaged video is read later
        seconds = declared_seconds(video)
        if seconds is not None and seconds > limits.seconds:
            raise UserError(
                f"{video.name} is {_duration(seconds)} long; at most {_duration(limits.seconds)} are allowed, "
                "so cut it first"
            )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _free_name(folder: Path, name: str) -> str:
    """A name that no file in the folder has, on file systems that do not distinguish a.jpg from A.jpg either."""
    taken = {file.name.lower() for file in folder.iterdir()}
    path, number = Path(name), 2
    while name.lower() in taken:
        name, number = f"{path.stem}_{number}{path.suffix}", number + 1
    return name


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where links are impossible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
