"""A small benchmark for tests of `recon4d evaluate`."""

import pytest

import recon4d.eval
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.eval import Benchmark


@pytest.fixture
def small_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clips of every benchmark by two small ones of two frames."""
    source = SyntheticScenes(SyntheticConfig(num_frames=2, height=32, width=48, attempts=1))
    clips = {f"world_{number}": source.sample(number) for number in range(2)}
    benchmark = Benchmark("small worlds", "", tuple(clips), clips.__getitem__)
    monkeypatch.setattr(recon4d.eval, "load_benchmark", lambda name, config: benchmark)
