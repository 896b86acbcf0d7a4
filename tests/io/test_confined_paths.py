"""Paths from data files stay in the folder of the data."""

from pathlib import Path

import pytest

from recon4d.errors import DataError
from recon4d.io.confined_paths import confined_path


@pytest.mark.parametrize("name", ["0.png", "images/0.png", "./images/../0.png", "a/b/../../0.png", "..png"])
def test_paths_inside_pass(name: str) -> None:
    assert confined_path(Path("room"), name, "cameras.json") == Path("room") / name


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../0.png", "images/../../0.png", "a/../../room/0.png", "C:/0.png", "\\\\host\\0.png"]
)
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"^room: cameras\.json: refers to .* outside of its folder") as refusal:
        confined_path(Path("data/room"), name, "cameras.json")
    assert repr(name) in str(refusal.value)
    with pytest.raises(DataError, match=r"^kitchen: cameras\.json: "):
        confined_path(Path("data/room"), name, "cameras.json", "kitchen")
