"""Clips of worlds-v1 at a small size, shared by the tests of evaluation."""

from dataclasses import replace

import pytest
import torch

from recon4d.datasets import Sample
from recon4d.eval import Benchmark, BenchmarkConfig, load_benchmark


def small(sample: Sample) -> Sample:
    """Return the clip at a quarter of its size with a few of its tracks, so that metrics are fast."""
    scene = sample.scene
    tracks = scene.tracks
    some = torch.arange(0, tracks.pixels.shape[1], 97)
    tracks = replace(
        tracks,
        points=tracks.points[:, :, some],
        visibility=tracks.visibility[:, :, some],
        confidence=tracks.confidence[:, :, some],
        pixels=tracks.pixels[:, some],
    )
    return Sample(sample.clip.resized(48, 64), replace(scene, tracks=tracks).resized(48, 64))


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """Return the first three clips; tests must not change them."""
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(clips=3))
    return {name: small(benchmark.read(name)) for name in benchmark.clips}


@pytest.fixture
def benchmark(samples: dict[str, Sample]) -> Benchmark:
    """Return the clips as a benchmark without published protocols."""
    return Benchmark("small worlds", "", tuple(samples), samples.__getitem__)
