"""Benchmarks by name: which clips of which data set are scored, and by which published protocols beside our own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon4d.datasets import (
    CameraFolder,
    ColmapModels,
    DynamicReplica,
    Kubric,
    KubricTracks,
    PointOdyssey,
    Sample,
    SequenceDataset,
    SevenScenes,
    Sintel,
    TapVid3D,
    Tum,
)

WORLDS_SEED = 20261131
"""Of the benchmark `worlds`; training, validation and worlds-v1 have others."""

Protocol = Literal["video-depth", "multiview-points", "worldtrack", "tapvid3d"]
"""Published protocols, by the modules of this room."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which part of a benchmark; None leaves it to the benchmark."""

    split: str | None = None
    data: Path | None = None
    """The folder of the data set."""
    clips: int | None = None
    """Only the first so many clips."""
    num_frames: int | None = None
    """Frames of each clip."""
    stride: int | None = None
    """Step from one frame to the next."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels, for data sets that do not say."""


@dataclass(frozen=True)
class Benchmark:
    """Clips with truth by name."""

    name: str
    split: str
    clips: tuple[str, ...]
    read: Callable[[str], Sample]
    """A clip and its truth; raises `DataError` for one that is damaged."""
    protocols: tuple[Protocol, ...] = ()
    max_depth: float | None = None
    """In meters; what lies farther is not scored by published depth protocols."""


@dataclass(frozen=True)
class _Source:
    """How clips are taken from a data set: the first `num_frames` frames, `stride` apart, of every sequence."""

    open: Callable[[Path, BenchmarkConfig], SequenceDataset]
    num_frames: int
    stride: int = 1
    protocols: tuple[Protocol, ...] = ()
    max_depth: float | None = None
    default_split: str = ""


def load_benchmark(name: str, config: BenchmarkConfig) -> Benchmark:
    """The benchmark of that name. Raises ``ValueError`` or ``FileNotFoundError`` where it is unknown or not there."""
    if name == "worlds-v1":
        return _worlds_v1(config)
    if name == "worlds":
        return _worlds(config)
    if name not in SOURCES:
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(benchmark_names())}")
    if config.data is None:
        raise ValueError(f"benchmark {name} needs --data, the folder of the data set")
    source = SOURCES[name]
    split = config.split or source.default_split
    if config.split is not None and not source.default_split:
        raise ValueError(f"benchmark {name} has no splits, asked for {config.split!r}")
    sequences = source.open(config.data, config)
    num_frames = source.num_frames if config.num_frames is None else config.num_frames
    stride = source.stride if config.stride is None else config.stride
    if num_frames < 1 or stride < 1:
        raise ValueError(f"num_frames = {num_frames} and stride = {stride}; wanted at least 1")

    def read(clip: str) -> Sample:
        return sequences.read(clip, range(0, sequences.num_frames(clip), stride)[:num_frames])

    return Benchmark(name, split, _first(sequences.names(), config), read, source.protocols, source.max_depth)


def benchmark_names() -> list[str]:
    """The names that `load_benchmark` knows."""
    return ["worlds-v1", "worlds", *SOURCES]


def _worlds_v1(config: BenchmarkConfig) -> Benchmark:
    from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1

    split = config.split or "8"
    if split not in WORLDS_V1:
        raise ValueError(f"worlds-v1 has the splits {', '.join(WORLDS_V1)}, asked for {split!r}")
    foreign = [name for name in ("data", "num_frames", "stride", "intrinsics") if getattr(config, name) is not None]
    if foreign:
        raise ValueError(f"worlds-v1 is frozen and takes no {', '.join(foreign)}")
    worlds = WORLDS_V1[split]
    names = [f"world_{position:02d}" for position in range(len(worlds.indices))]
    return Benchmark("worlds-v1", split, _first(names, config), lambda name: worlds.sample(names.index(name)))


def _worlds(config: BenchmarkConfig) -> Benchmark:
    """Worlds of any number of frames, of a seed that nothing else draws from."""
    from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes

    foreign = [name for name in ("split", "data", "stride", "intrinsics") if getattr(config, name) is not None]
    if foreign:
        raise ValueError(f"benchmark worlds takes clips and num_frames, and no {', '.join(foreign)}")
    world_config = SyntheticConfig(
        num_frames=8 if config.num_frames is None else config.num_frames, height=192, width=256
    )
    clips = 16 if config.clips is None else config.clips
    names = [f"world_{number:03d}" for number in range(clips)]

    def read(clip: str) -> Sample:
        world = make_scenes(world_config, WORLDS_SEED, [names.index(clip)])
        return render_scenes(world, world_config)[0]

    return Benchmark("worlds", f"{world_config.num_frames} frames", _first(names, config), read)


def _first(names: list[str], config: BenchmarkConfig) -> tuple[str, ...]:
    if config.clips is not None and config.clips < 1:
        raise ValueError(f"clips = {config.clips}; wanted at least 1")
    return tuple(names[: config.clips])


def _open_tum(root: Path, config: BenchmarkConfig) -> SequenceDataset:
    return Tum(root, config.intrinsics)


def _open_seven_scenes(root: Path, config: BenchmarkConfig) -> SequenceDataset:
    return SevenScenes(root) if config.intrinsics is None else SevenScenes(root, config.intrinsics)


SOURCES: dict[str, _Source] = {
    # 64 frames, as in WorldTrack (Feng et al. 2025).
    "point-odyssey": _Source(
        lambda root, config: PointOdyssey(root, config.split or "test"),
        num_frames=64,
        protocols=("worldtrack",),
        default_split="test",
    ),
    "dynamic-replica": _Source(
        lambda root, config: DynamicReplica(root, config.split or "test"),
        num_frames=64,
        protocols=("worldtrack",),
        default_split="test",
    ),
    "kubric": _Source(lambda root, config: Kubric(root), num_frames=24),
    "kubric-tracks": _Source(lambda root, config: KubricTracks(root), num_frames=24),
    "worldtrack": _Source(lambda root, config: TapVid3D(root), num_frames=64, protocols=("worldtrack",)),
    "tapvid3d": _Source(lambda root, config: TapVid3D(root), num_frames=64, protocols=("tapvid3d",)),
    # 90 frames, every third, as MonST3R takes them; Sintel whole, farther than 70 m left out.
    "tum": _Source(_open_tum, num_frames=90, stride=3, protocols=("video-depth",)),
    "sintel": _Source(lambda root, config: Sintel(root), num_frames=50, protocols=("video-depth",), max_depth=70.0),
    # Every 200th frame, as DUSt3R and CUT3R take them.
    "7-scenes": _Source(_open_seven_scenes, num_frames=64, stride=200, protocols=("multiview-points",)),
    "folder": _Source(lambda root, config: CameraFolder(root), num_frames=64),
    "colmap": _Source(lambda root, config: ColmapModels(root), num_frames=64),
}
"""A new benchmark is one line here."""
