"""Benchmarks by name: the clips to evaluate, and the published protocols to apply to them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recon4d.datasets import (
    CameraFolder,
    ColmapModels,
    DynamicReplica,
    Kubric,
    KubricTracks,
    NerfstudioFolders,
    PointOdyssey,
    Sample,
    SequenceDataset,
    SevenScenes,
    Sintel,
    TapVid3D,
    Tum,
)
from recon4d.errors import UserError
from recon4d.eval.metrics.score import Protocol

BENCHMARK_SEED = 20261131
"""Seed of the benchmark `worlds`; training, validation, calibration and `worlds-v1` use other seeds."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Part of a benchmark to evaluate; None uses the benchmark's own choice."""

    split: str | None = None
    """Split of the data set; see `docs/evaluation.md` for the splits of each benchmark."""
    data: Path | None = None
    """Folder of the data set."""
    clips: int | None = None
    """Number of clips, from the first one on."""
    num_frames: int | None = None
    """Largest number of frames of each clip."""
    stride: int | None = None
    """Step from one frame to the next."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels, for data sets whose files do not contain them."""


@dataclass(frozen=True)
class Benchmark:
    """Clips with ground truth."""

    name: str
    """Name of the benchmark."""
    split: str
    """Split of the benchmark; empty if it has none."""
    clips: tuple[str, ...]
    """Names of the clips."""
    read: Callable[[str], Sample]
    """Reads the clip of a name with its ground truth; raises `DataError` if its files are damaged."""
    protocols: tuple[Protocol, ...] = ()
    """Published protocols to evaluate in addition to the project's own metrics."""
    max_depth: float | None = None
    """Published depth protocols skip pixels that are farther than this, in meters; None: no limit."""


@dataclass(frozen=True)
class _DataSet:
    """How clips are taken from a data set: the first `num_frames` frames, `stride` apart, of every sequence."""

    open: Callable[[Path, BenchmarkConfig], SequenceDataset]
    num_frames: int
    stride: int = 1
    protocols: tuple[Protocol, ...] = ()
    max_depth: float | None = None
    default_split: str = ""


def load_benchmark(name: str, config: BenchmarkConfig) -> Benchmark:
    """Open a benchmark by name.

    Args:
        name: One of `benchmark_names`.
        config: Which part of it to use.

    Returns:
        The benchmark; its clips are read on demand.

    Raises:
        UserError: If the name is unknown, an option does not apply to this benchmark, or its data is missing.
    """
    if name == "worlds-v1":
        return _frozen_benchmark(config)
    if name == "worlds":
        return _synthetic_benchmark(config)
    if name not in DATA_SETS:
        raise UserError(f"unknown benchmark {name!r}; available are {', '.join(benchmark_names())}")
    if config.data is None:
        raise UserError(f"benchmark {name} needs the folder of its data set (`data`)")
    data_set = DATA_SETS[name]
    split = config.split or data_set.default_split
    if config.split is not None and not data_set.default_split:
        raise UserError(f"benchmark {name} has no splits, given {config.split!r}")
    sequences = data_set.open(config.data, config)
    num_frames = data_set.num_frames if config.num_frames is None else config.num_frames
    stride = data_set.stride if config.stride is None else config.stride
    if num_frames < 1 or stride < 1:
        raise UserError(f"num_frames = {num_frames} and stride = {stride}; wanted at least 1")

    def read(clip: str) -> Sample:
        return sequences.read(clip, range(0, sequences.num_frames(clip), stride)[:num_frames])

    return Benchmark(name, split, _first_clips(sequences.names(), config), read, data_set.protocols, data_set.max_depth)


def benchmark_names() -> list[str]:
    """List the benchmarks that `load_benchmark` opens.

    Returns:
        Their names.
    """
    return ["worlds-v1", "worlds", *DATA_SETS]


def _frozen_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Open the frozen synthetic benchmark."""
    from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1

    split = config.split or "8"
    if split not in WORLDS_V1:
        raise UserError(f"worlds-v1 has the splits {', '.join(WORLDS_V1)}, given {split!r}")
    unsuitable = [name for name in ("data", "num_frames", "stride", "intrinsics") if getattr(config, name) is not None]
    if unsuitable:
        raise UserError(f"worlds-v1 is frozen and takes no {', '.join(unsuitable)}")
    scenes = WORLDS_V1[split]
    names = [f"world_{position:02d}" for position in range(len(scenes.indices))]
    return Benchmark("worlds-v1", split, _first_clips(names, config), lambda name: scenes.sample(names.index(name)))


def _synthetic_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Open the benchmark `worlds`: synthetic scenes with any number of frames, from a seed of their own."""
    from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes

    unsuitable = [name for name in ("split", "data", "stride", "intrinsics") if getattr(config, name) is not None]
    if unsuitable:
        raise UserError(f"benchmark worlds takes clips and num_frames, and no {', '.join(unsuitable)}")
    scene_config = SyntheticConfig(
        num_frames=8 if config.num_frames is None else config.num_frames, height=192, width=256
    )
    clips = 16 if config.clips is None else config.clips
    names = [f"world_{number:03d}" for number in range(clips)]

    def read(clip: str) -> Sample:
        scene = make_scenes(scene_config, BENCHMARK_SEED, [names.index(clip)])
        return render_scenes(scene, scene_config)[0]

    return Benchmark("worlds", f"{scene_config.num_frames} frames", _first_clips(names, config), read)


def _first_clips(names: list[str], config: BenchmarkConfig) -> tuple[str, ...]:
    if config.clips is not None and config.clips < 1:
        raise UserError(f"clips = {config.clips}; wanted at least 1")
    return tuple(names[: config.clips])


def _open_tum(root: Path, config: BenchmarkConfig) -> SequenceDataset:
    return Tum(root, config.intrinsics)


def _open_seven_scenes(root: Path, config: BenchmarkConfig) -> SequenceDataset:
    return SevenScenes(root) if config.intrinsics is None else SevenScenes(root, config.intrinsics)


DATA_SETS: dict[str, _DataSet] = {
    # 64 frames, as in WorldTrack (Feng et al. 2025).
    "point-odyssey": _DataSet(
        lambda root, config: PointOdyssey(root, config.split or "test"),
        num_frames=64,
        protocols=("worldtrack",),
        default_split="test",
    ),
    "dynamic-replica": _DataSet(
        lambda root, config: DynamicReplica(root, config.split or "test"),
        num_frames=64,
        protocols=("worldtrack",),
        default_split="test",
    ),
    "kubric": _DataSet(lambda root, config: Kubric(root), num_frames=24),
    "kubric-tracks": _DataSet(lambda root, config: KubricTracks(root), num_frames=24),
    "worldtrack": _DataSet(lambda root, config: TapVid3D(root), num_frames=64, protocols=("worldtrack",)),
    "tapvid3d": _DataSet(lambda root, config: TapVid3D(root), num_frames=64, protocols=("tapvid3d",)),
    # TUM: 90 frames, every third one, as in MonST3R. Sintel: whole sequences, depth up to 70 m.
    "tum": _DataSet(_open_tum, num_frames=90, stride=3, protocols=("video-depth",)),
    "sintel": _DataSet(lambda root, config: Sintel(root), num_frames=50, protocols=("video-depth",), max_depth=70.0),
    # Every 200th frame, as in DUSt3R and CUT3R.
    "7-scenes": _DataSet(_open_seven_scenes, num_frames=64, stride=200, protocols=("multiview-points",)),
    "folder": _DataSet(lambda root, config: CameraFolder(root), num_frames=64),
    "colmap": _DataSet(lambda root, config: ColmapModels(root), num_frames=64),
    "nerfstudio": _DataSet(lambda root, config: NerfstudioFolders(root), num_frames=64),
}
"""Benchmarks that read a data set from disk, by name."""
