"""Opening of video containers by PyAV, for versions that differ in how they decode tags."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer


def open_container(path: str | Path) -> "InputContainer":
    """Open a video for reading. Tags of a file may be in any encoding, and do not matter.

    Args:
        path: The file.

    Returns:
        The container, to be closed by the caller.

    Raises:
        FFmpegError: If the file is no video that FFmpeg reads.
        OSError: If the file cannot be opened.
    """
    import av

    # From version 19 on, PyAV replaces what it cannot decode, and the option is gone.
    if int(av.__version__.split(".")[0]) >= 19:
        return av.open(str(path))
    return av.open(str(path), metadata_errors="replace")
