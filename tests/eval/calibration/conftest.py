"""Shared truth of the tests of calibration."""

import pytest

from recon4d.datasets.synthetic import Lattice, SyntheticConfig, make_scenes, render_scenes
from recon4d.records import Scene


@pytest.fixture(scope="module")
def truth() -> Scene:
    config = SyntheticConfig(num_frames=3, height=32, width=48, attempts=1)
    return render_scenes(make_scenes(config, 5, [1]), config, (0,), query_lattice=Lattice(4))[0].scene
