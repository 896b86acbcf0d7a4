"""Errors are told in one line."""

import pytest

from recon4d.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file or directory", "clip.mp4"), "No such file or directory: clip.mp4"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("said by us"), "said by us"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(error: BaseException, line: str) -> None:
    assert one_line(error) == line
