"""What the user means by a path: a video, the frames of an animation, or pictures; and which files are passed over."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.animations import Animation, has_several_frames, open_animation
from recon4d.io.photos import PHOTO_SUFFIXES, natural_order

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv"),
        *(".3gp", ".3g2", ".ogv", ".mxf", ".vob", ".y4m", ".asf", ".f4v", ".insv"),
    }
)
"""Lower-case suffixes of the files in a folder that count as videos."""
UNREADABLE_SUFFIXES = frozenset(
    {
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".raw"),
        *(".srw", ".pef", ".x3f", ".3fr", ".rwl", ".gpr", ".insp", ".jxl", ".jxr", ".psd", ".xcf", ".svg", ".exr"),
        *(".hdr", ".jxs", ".flif", ".bpg", ".eps", ".ai", ".mpo", ".icns", ".ico", ".livp"),
    }
)
"""Lower-case suffixes of pictures that are not read."""
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\xff\x0a", b"\x1aE\xdf\xa3")
"""First bytes of pictures and videos (JPEG, PNG, GIF, BMP, TIFF, JPEG XL, Matroska)."""
_CONTAINERS = (b"ftyp", b"WEBP", b"AVI ", b"JXL ")
"""Bytes 4 to 8 or 8 to 12 of pictures and videos (MP4, HEIF, AVIF; WebP, AVI; JPEG XL)."""
WANTED = "a video, a picture or a folder of pictures"
"""What a path may be, for messages."""
SHOWN_NAMES = 3
"""Number of file names that a message lists."""


@dataclass(frozen=True)
class ClipFiles:
    """The files of a clip: exactly one of `video`, `animation` and `photos` is given."""

    name: str
    """The path for messages and `ClipSource`."""
    video: Path | None = None
    """A file that PyAV decodes."""
    animation: Animation | None = None
    """A picture file with several frames."""
    photos: tuple[Path, ...] = ()
    """Pictures in the order of the clip."""
    photo_names: tuple[str, ...] = ()
    """Name of each picture: its path relative to the folder that holds all of them."""


def find_clip_files(path: str | Path | Sequence[str | Path]) -> ClipFiles:
    """Find the files of a clip, and warn of pictures and videos that are passed over.

    A folder with a single video means the video. A folder whose only picture is an animation means its frames.
    Otherwise a folder means its pictures, in natural order, of animations only the first frame.

    Args:
        path: A video, an animation, a picture, a folder, or a list of pictures.

    Returns:
        The files.

    Raises:
        UserError: If the path does not exist, or the folder or list holds nothing to read.
    """
    if not isinstance(path, str | Path):
        return _from_list([Path(photo) for photo in path])
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; wanted {WANTED}")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() not in PHOTO_SUFFIXES or path.suffix.lower() == ".gif":
        return ClipFiles(str(path), video=path)
    return _from_photos(str(path), [path])


def is_single_picture(path: Path) -> bool:
    """Check whether a path is a picture of a single frame, which is no clip of its own.

    Args:
        path: Any path.

    Returns:
        True for pictures other than animations, and for damaged ones.
    """
    if path.suffix.lower() not in PHOTO_SUFFIXES - {".gif"} or not path.is_file():
        return False
    try:
        return open_animation(path) is None
    except UserError:
        return True


def _from_list(photos: list[Path]) -> ClipFiles:
    if not photos:
        raise UserError("the list of pictures is empty; wanted at least one")
    for photo in photos:
        if not photo.is_file():
            problem = "is a folder" if photo.is_dir() else "does not exist"
            raise UserError(f"{photo} {problem}; wanted a list of picture files")
    folder = photos[0].parent
    if any(photo.parent != folder for photo in photos):
        folder = Path(os.path.commonpath([photo.parent.absolute() for photo in photos]))
    return _from_photos(str(folder), photos, folder)


def _from_photos(name: str, photos: Sequence[Path], folder: Path | None = None) -> ClipFiles:
    """Take pictures; a single one may be an animation."""
    if len(photos) == 1 and (animation := open_animation(photos[0])) is not None:
        return ClipFiles(str(photos[0]), animation=animation)
    if len(photos) > 1:
        _warn_of_animations(photos)
    names = tuple(_relative_name(photo, folder) for photo in photos)
    return ClipFiles(name, photos=tuple(photos), photo_names=names)


def _warn_of_animations(photos: Sequence[Path]) -> None:
    """Warn of animations among several pictures, of which only the first frame is used."""
    animated = [photo for photo in photos if has_several_frames(photo)]
    if animated:
        names = ", ".join(photo.name for photo in animated[:SHOWN_NAMES])
        more = ", ..." if len(animated) > SHOWN_NAMES else ""
        warnings.warn(
            f"only the first frame of each animation is used ({names}{more}); give an animation alone to use all of "
            "its frames",
            stacklevel=6,
        )


def _relative_name(photo: Path, folder: Path | None) -> str:
    if folder is None or photo.parent == folder:
        return photo.name
    return photo.absolute().relative_to(folder.absolute()).as_posix()


def _from_folder(folder: Path) -> ClipFiles:
    content = _list_folder(folder)
    if len(content.videos) == 1:
        video = content.videos[0]
        passed_over = _describe_passed_over(content, [*content.photos, *content.others])
        if passed_over:
            advice = "; give the pictures by name to use them instead" if content.photos else ""
            warnings.warn(f"{folder}: the video {video.name} is used; passed over: {passed_over}{advice}", stacklevel=4)
        return ClipFiles(str(video), video=video)
    if not content.photos:
        raise UserError(_describe_nothing(folder, content))
    files = _from_photos(str(folder), content.photos, folder)
    used = "the animation is" if files.animation is not None else f"{len(content.photos)} pictures are"
    used = "1 picture is" if used.startswith("1 ") else used
    if passed_over := _describe_passed_over(content, [*content.videos, *content.others]):
        warnings.warn(f"{folder}: {used} used; passed over: {passed_over}", stacklevel=4)
    return files


@dataclass(frozen=True)
class _FolderContent:
    """Visible entries of a folder that may be meant as part of a clip, each in natural order."""

    photos: list[Path]
    videos: list[Path]
    others: list[Path]
    """Pictures and videos of formats or with names that are not read."""
    subfolders: list[Path]
    """Folders that hold pictures or videos."""


def _list_folder(folder: Path) -> _FolderContent:
    with os_errors_as_user_errors("cannot list the pictures"):
        entries = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_order)
        files = [path for path in entries if path.is_file()]
        photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        known = {*photos, *videos}
        others = [path for path in files if path not in known and _is_media(path)]
        subfolders = [path for path in entries if path.is_dir() and _holds_media(path)]
    return _FolderContent(photos, videos, others, subfolders)


def _is_media(path: Path) -> bool:
    """Check whether a file that is not read is a picture or a video, by its suffix or its first bytes."""
    if path.suffix.lower() in UNREADABLE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            beginning = file.read(12)
    except OSError:
        return False
    return beginning.startswith(_SIGNATURES) or beginning[4:8] in _CONTAINERS or beginning[8:12] in _CONTAINERS


def _holds_media(folder: Path) -> bool:
    try:
        return any(path.suffix.lower() in PHOTO_SUFFIXES | VIDEO_SUFFIXES for path in folder.iterdir())
    except OSError:
        return False


def _describe_passed_over(content: _FolderContent, files: Sequence[Path]) -> str:
    """Describe files and folders that are not used, grouped by suffix; "" if there are none."""
    parts = []
    for suffix, count in Counter(path.suffix for path in files).items():
        names = [path.name for path in files if path.suffix == suffix]
        kind = f"{suffix} file" if suffix else "file without a suffix"
        more = ", ..." if count > SHOWN_NAMES else ""
        parts.append(f"{count} {kind}{'s' if count > 1 and suffix else ''} ({', '.join(names[:SHOWN_NAMES])}{more})")
    parts += [f"the folder {folder.name}" for folder in content.subfolders[:SHOWN_NAMES]]
    if len(content.subfolders) > SHOWN_NAMES:
        parts.append(f"{len(content.subfolders) - SHOWN_NAMES} more folders")
    return ", ".join(parts)


def _describe_nothing(folder: Path, content: _FolderContent) -> str:
    """Explain what a folder without pictures holds instead."""
    if content.videos:
        names = ", ".join(video.name for video in content.videos[:SHOWN_NAMES])
        more = ", ..." if len(content.videos) > SHOWN_NAMES else ""
        return f"{folder} holds {len(content.videos)} videos ({names}{more}) and no pictures; give one of the videos"
    wanted = "wanted JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, GIF, JPEG 2000, TGA or PNM files, or one video"
    if found := _describe_passed_over(content, content.others):
        advice = f"; give {content.subfolders[0]}" if content.subfolders else f"; {wanted}"
        return f"{folder} holds no pictures that are read, but {found}{advice}"
    return f"{folder} holds no pictures; {wanted}"
