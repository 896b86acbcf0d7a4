"""Benchmarks read the configured frames and are documented."""

from dataclasses import replace
from pathlib import Path

from recon4d.eval import BenchmarkConfig, benchmark_names, load_benchmark

ROOT = Path(__file__).parents[2]


def test_benchmarks_use_the_configured_frames(tmp_path: Path) -> None:
    config = BenchmarkConfig(data=ROOT / "examples" / "freiburg2_desk", num_frames=3, stride=2)
    desk = load_benchmark("tum", config)
    assert desk.clips == ("freiburg2_desk",)
    sample = desk.read("freiburg2_desk")
    assert sample.clip.source.numbers == (0, 2, 4)
    longer = load_benchmark("tum", replace(config, num_frames=90, stride=None)).read("freiburg2_desk")
    assert longer.clip.source.numbers == (0, 3, 6)


def test_every_benchmark_is_documented() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for name in benchmark_names():
        assert f"`{name}`" in page
