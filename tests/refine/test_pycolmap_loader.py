"""Tests of pycolmap sessions: the log level is restored, and the seed makes results reproducible."""

import numpy as np
import pycolmap
import pytest

from recon4d.refine.pycolmap_loader import load_pycolmap, pycolmap_session


@pytest.fixture(autouse=True)
def restored_log_level():
    level = pycolmap.logging.minloglevel
    yield
    pycolmap.logging.minloglevel = level


@pytest.mark.parametrize("level", [0, 2])
def test_the_log_level_is_restored(level: int) -> None:
    pycolmap.logging.minloglevel = level
    with pycolmap_session() as module:
        assert module is pycolmap
        assert pycolmap.logging.minloglevel == int(pycolmap.logging.FATAL)
        with pycolmap_session(seed=3):
            pass
        assert pycolmap.logging.minloglevel == int(pycolmap.logging.FATAL)
    assert pycolmap.logging.minloglevel == level


def test_the_log_level_is_restored_after_an_error() -> None:
    pycolmap.logging.minloglevel = 1
    with pytest.raises(RuntimeError, match="stop"), pycolmap_session():
        raise RuntimeError("stop")
    assert pycolmap.logging.minloglevel == 1


def test_loading_does_not_change_the_log_level() -> None:
    pycolmap.logging.minloglevel = 1
    assert load_pycolmap() is pycolmap
    assert pycolmap.logging.minloglevel == 1


def test_equal_seeds_give_equal_random_numbers() -> None:
    def synthesize() -> np.ndarray:
        options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=2, num_points3D=5)
        points = pycolmap.synthesize_dataset(options).points3D
        return np.stack([points[number].xyz for number in sorted(points)])

    results = []
    for seed in (1, 1, 2):
        with pycolmap_session(seed):
            results.append(synthesize())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
