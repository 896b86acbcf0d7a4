"""Seconds and memory of sampled motion beside those of the single pass that it continues.

python -m benchmarks.motion_samples
"""

import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import tyro

from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.inference import reconstruct, sample_motions
from recon4d.motion import fit_trajectories
from recon4d.records import Scene
from recon4d.zoo import create_model, load_motion_flow


@dataclass(frozen=True)
class Benchmark:
    """Options of the benchmark."""

    frames: int = 8
    """Number of frames of the clip."""
    samples: tuple[int, ...] = (1, 8, 32)
    """Numbers of samples."""
    curves: tuple[int, ...] = (100, 300, 5000)
    """Largest numbers of curves."""
    threads: int = 2
    """Number of threads."""
    repeats: int = 3
    """The fastest of so many runs counts."""


def main(benchmark: Benchmark) -> None:
    """Print a row for each number of curves and samples, after that of the single pass."""
    torch.set_num_threads(benchmark.threads)
    warnings.simplefilter("ignore")
    sample = SyntheticScenes(SyntheticConfig(benchmark.frames, 144, 192, static_scene_share=0)).sample(1)
    model, flow = create_model(), load_motion_flow()
    print(f"{'':12}{'curves':>8}{'samples':>9}{'seconds':>9}{'peak MB':>9}")
    alone = fastest(benchmark.repeats, lambda: reconstruct(model, sample.clip))
    print(f"{'single pass':12}{'':8}{'':9}{alone:9.2f}{peak():9.0f}")
    for curves in benchmark.curves:
        scene = thinned(sample.scene, curves)
        count = fit_trajectories(scene, sample.clip.times).trajectories
        assert count is not None
        for samples in benchmark.samples:
            run = partial(sample_motions, model, sample.clip, samples, scene=scene, flow=flow)
            seconds = fastest(benchmark.repeats, run)
            print(f"{'motions':12}{count.num_curves:8}{samples:9}{seconds:9.2f}{peak():9.0f}", flush=True)


def thinned(scene: Scene, curves: int) -> Scene:
    """Keep so many tracks of pixels that move."""
    tracks = scene.tracks
    assert tracks is not None
    is_dynamic = scene.is_dynamic[0].flatten().nonzero()[:, 0]
    chosen = is_dynamic[torch.linspace(0, len(is_dynamic) - 1, min(curves, len(is_dynamic))).long()]
    kept = {name: getattr(tracks, name)[:, :, chosen] for name in ("points", "visibility", "confidence")}
    return replace(scene, tracks=replace(tracks, **kept, pixels=tracks.pixels[:, chosen]))


def fastest(repeats: int, run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


def peak() -> float:
    """Return the largest memory of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
