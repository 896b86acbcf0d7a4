"""A camera that has turned right, and pictures of one gray, for tests of data sets on disk."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.datasets import Sample
from recon4d.errors import DataError

HEIGHT, WIDTH = 4, 6
ROOT_HALF = math.sqrt(0.5)
RIGHT = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
"""world_from_cam of a camera that has turned right by 90 degrees: its forward is the world's x."""


def picture(path: Path, level: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path)


def depth_picture(path: Path, values: list[int]) -> None:
    """The first row's first pixels are `values`, all others 1."""
    pixels = np.ones((HEIGHT, WIDTH), np.uint16)
    pixels[0, : len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def matrix(rotation: np.ndarray, center: list[float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, center
    return result


def check_turned_right(sample: Sample) -> None:
    """The second camera stands 2 to the right of the first and looks to the right of it."""
    expected = torch.from_numpy(matrix(RIGHT, [2.0, 0.0, 0.0])).float()
    torch.testing.assert_close(sample.scene.cameras.world_from_cam[1], expected, rtol=0, atol=1e-5)
    assert torch.equal(sample.scene.cameras.world_from_cam[0], torch.eye(4))


@contextmanager
def refused(sequence: str, named: str) -> Iterator[None]:
    """Expect a `DataError` of one line about a sequence, with certain words."""
    with pytest.raises(DataError) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(f"{sequence}: ")
    assert named in message
    assert "\n" not in message
