"""Opening of a video file with PyAV, and the error for its damage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.errors import UserError
from recon4d.io.containers import open_container

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MISSING_SECONDS = 0.5
"""Largest difference in seconds between the end of the last packet and the duration that an undamaged file declares.
Hand-tuned."""


class DamageError(Exception):
    """Raised at the first part of a video that cannot be decoded, with the reason."""


@contextmanager
def opened_video(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """Open a video for demuxing and decoding.

    Args:
        path: The file.

    Yields:
        The container and its first video stream that is no cover picture.

    Raises:
        UserError: If the file is missing, cannot be read, is not a video or has no stream that can be decoded.
        DamageError: In place of an error of FFmpeg inside the block.
    """
    from av.error import FFmpegError
    from av.stream import Disposition

    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        # Absolute, because FFmpeg would take text before a colon as the name of a protocol.
        container = open_container(path.absolute())
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except FFmpegError as error:
        raise UserError(f"{path} is not a video: {error.strerror}") from error
    with container:
        # FFmpeg also lists cover pictures of audio files. A stream without a decoder has no codec context.
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        streams = [stream for stream in videos if stream.codec_context is not None]
        if not streams:
            raise UserError(f"{path} has no video stream{' that PyAV can decode' if videos else ''}")
        # Frame threads are not used. They report damage late, after later frames have been decoded. And a thread that
        # logs a message while the decoder is closed waits for Python's lock, which the closing thread holds: deadlock.
        streams[0].thread_type = "SLICE"
        try:
            yield container, streams[0]
        except FFmpegError as error:
            raise DamageError(str(error.strerror)) from error


def missing_end(found: float, container: "InputContainer") -> str:
    """Compare the end of the packets of a file with its declared duration.

    Args:
        found: End of the last packet in seconds.
        container: The open file.

    Returns:
        A description of the missing end, or "" if nothing is missing or no duration is declared.
    """
    import av

    if container.duration is None:
        return ""
    # Formats differ in whether the duration includes a late start. Measured from zero, no complete file is too short.
    declared = container.duration / av.time_base
    return f"it declares {declared:.2f} s but has {found:.2f} s" if declared - found > MISSING_SECONDS else ""


def declared_seconds(path: Path) -> float | None:
    """Return the duration that a video declares, without reading all of it.

    Args:
        path: The file.

    Returns:
        Seconds; None if the file declares none.

    Raises:
        UserError: As `opened_video`.
        DamageError: As `opened_video`.
    """
    import av

    with opened_video(path) as (container, _):
        return None if container.duration is None else container.duration / av.time_base
