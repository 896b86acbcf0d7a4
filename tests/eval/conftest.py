"""Small clips with the cameras and objects of worlds-v1, shared by the tests of evaluation."""

from dataclasses import replace

import pytest

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import Lattice, render_scenes
from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.eval import Benchmark


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """Return the first three clips; tests must not change them."""
    split, samples = WORLDS_V1["8"], {}
    config = replace(split.config, height=48, width=64)
    for number in range(3):
        scene = split.scene(number)
        scene = replace(scene, cameras=scene.cameras.resized((192, 256), (48, 64)))
        samples[f"world_{number:02d}"] = render_scenes(scene, config, query_lattice=Lattice(5))[0]
    return samples


@pytest.fixture
def benchmark(samples: dict[str, Sample]) -> Benchmark:
    """Return the clips as a benchmark without published protocols."""
    return Benchmark("small worlds", "", tuple(samples), samples.__getitem__)
