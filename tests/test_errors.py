"""Errors of the user: described in one line, and converted from errors of the operating system."""

import pickle
from pathlib import Path

import pytest

from recon4d.errors import DataError, UserError, one_line, os_errors_as_user_errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file or directory", "clip.mp4"), "No such file or directory: clip.mp4"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("message of our own"), "message of our own"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_one_line_gives_the_reason_and_the_file(error: BaseException, line: str) -> None:
    assert one_line(error) == line


def test_errors_of_the_operating_system_become_user_errors(tmp_path: Path) -> None:
    missing = tmp_path / "clip.mp4"
    message = r"^cannot read the clip: No such file or directory: .*clip\.mp4$"
    with pytest.raises(UserError, match=message) as raised, os_errors_as_user_errors("cannot read the clip"):
        missing.read_bytes()
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    with pytest.raises(UserError, match=r"^No such file or directory: "), os_errors_as_user_errors():
        missing.read_bytes()


def test_other_errors_are_not_converted() -> None:
    with pytest.raises(ValueError, match="a defect") as raised, os_errors_as_user_errors():
        raise ValueError("a defect")
    assert not isinstance(raised.value, UserError)


def test_a_data_error_names_sequence_file_and_reason() -> None:
    error = DataError("kitchen", "pose.txt", "row 3 has 6 numbers, expected 7")
    assert one_line(error) == "kitchen: pose.txt: row 3 has 6 numbers, expected 7"
    assert isinstance(error, UserError)


def test_a_data_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DataError("desk", "groundtruth.txt", "is empty")))
    assert str(error) == "desk: groundtruth.txt: is empty"
    assert (error.sequence, error.file, error.reason) == ("desk", "groundtruth.txt", "is empty")
