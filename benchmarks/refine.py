"""Refinement beside COLMAP on the same pictures: ``python -m benchmarks.refine --data FOLDER``.

Prints, for each clip, the accuracy of the single pass, of refinement and of the better of COLMAP's models with and
without radial distortion; then the seconds and the peak memory of each stage. A clip is a folder with the pictures in
``images/`` and ``gt.npz`` (``world_from_cam`` with OpenCV axes, optionally ``depth_mm`` at a lower resolution), a
folder of pictures with ``groundtruth.txt`` (a TUM trajectory stamped with the names of the pictures), or a video, which
has no scores.
"""

import math
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from recon4d.eval import camera_scores
from recon4d.eval.baselines.colmap import reconstruct_with_colmap
from recon4d.geometry import rigid, rotation_from_quaternion
from recon4d.inference import ReconstructConfig, reconstruct_and_match
from recon4d.io import read_clip
from recon4d.models import SceneModel
from recon4d.records import Cameras, Clip, Scene
from recon4d.refine import ColmapConfig, ColmapFailure, refine_clip
from recon4d.zoo import find_model

SAMPLING_SECONDS = 0.02
"""Time between two measurements of the memory, in seconds."""


@dataclass(frozen=True)
class Benchmark:
    """Compare refinement with COLMAP on real clips."""

    data: tuple[Path, ...] = (Path("examples/freiburg2_desk"),)
    """Clips, folders of clips, or videos."""
    model: str = "recon4d_mini"
    """Name of a model, or a checkpoint file."""
    num_frames: int = 8
    """Number of frames, evenly spaced."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the pictures relative to their own, for time and memory against picture size."""
    colmap: bool = True
    """Whether to run COLMAP."""


@dataclass
class Stages:
    """Seconds and peak memory of each stage, in the order in which they started."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    _current: str = ""
    _started: float = 0.0

    def start(self, stage: str) -> None:
        """End the current stage and start another one; an empty name only ends it."""
        now = time.perf_counter()
        if self._current:
            self.seconds[self._current] = self.seconds.get(self._current, 0.0) + now - self._started
        self._current, self._started = stage, now

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the memory of the process in the background."""
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLING_SECONDS):
                if self._current:
                    self.peak_mib[self._current] = max(self.peak_mib.get(self._current, 0.0), resident_mib())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            self.start("")
            stop.set()
            thread.join()


@dataclass(frozen=True)
class Scores:
    """Accuracy of one method on one clip."""

    auc_30: float
    auc_5: float
    abs_rel: float = math.nan


def main(benchmark: Benchmark) -> None:
    """Print the comparison."""
    model = find_model(benchmark.model, allow_untrained=True)
    warm_up(model)
    totals: dict[str, list[Scores]] = {}
    print(f"{'clip':28}{'pictures':>12}{'method':>14}{'AUC@30':>8}{'AUC@5':>8}{'AbsRel':>8}{'seconds':>9}  how")
    for path in find_clips(benchmark.data):
        whole = read_clip(path / "images" if (path / "images").is_dir() else path, benchmark.num_frames)
        for scale in benchmark.scales:
            clip = whole.resized(*(round(scale * side) for side in whole.size))
            for method, scores, seconds, how in run_methods(model, clip, path, benchmark):
                totals.setdefault(method, []).append(scores)
                size = f"{clip.num_frames}x{clip.size[1]}x{clip.size[0]}"
                numbers = "".join(f"{value:8.3f}" for value in (scores.auc_30, scores.auc_5, scores.abs_rel))
                print(f"{path.name[:27]:28}{size:>12}{method:>14}{numbers}{seconds:9.1f}  {how}", flush=True)
    for method, scores in totals.items():
        values = torch.tensor([[s.auc_30, s.auc_5, s.abs_rel] for s in scores])
        numbers = "".join(f"{value:8.3f}" for value in values.nanmean(dim=0).tolist())
        print(f"{'mean of ' + str(len(scores)):40}{method:>14}{numbers}")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def run_methods(
    model: SceneModel, clip: Clip, path: Path, benchmark: Benchmark
) -> Iterator[tuple[str, Scores, float, str]]:
    """Yield the name of each method, its scores, its seconds and a description of its result."""
    stages = Stages()
    with stages.measuring():
        stages.start("network")
        scene, matches = reconstruct_and_match(model, clip, ReconstructConfig(anchors=()))
        refinement = refine_clip(clip, scene, matches, on_stage=stages.start)
    yield "single pass", score(scene, clip, path), stages.seconds["network"], ""
    seconds = sum(stages.seconds.values())
    details = ", ".join(
        f"{name} {stages.seconds[name]:.1f} s {stages.peak_mib[name]:.0f} MiB" for name in stages.seconds
    )
    yield "refined", score(refinement.scene, clip, path), seconds, f"{refinement}; {details}"
    if not benchmark.colmap:
        return
    results = []
    for camera_model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL"):
        started = time.perf_counter()
        try:
            scene = reconstruct_with_colmap(clip, ColmapConfig(camera_model=camera_model))
        except ColmapFailure:
            continue
        results.append((score(scene, clip, path), time.perf_counter() - started, camera_model))
    # Without scores, the first model counts.
    best = max(results, key=lambda result: (result[0].auc_30, result[0].auc_5), default=None)
    yield ("COLMAP", *best) if best else ("COLMAP", Scores(0.0, 0.0), 0.0, "no model")


def warm_up(model: SceneModel) -> None:
    """Run everything once, so that imports do not count."""
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = Clip(images, torch.arange(2.0))
    refine_clip(clip, *reconstruct_and_match(model, clip, ReconstructConfig(anchors=())))


def find_clips(folders: tuple[Path, ...]) -> list[Path]:
    """List the clips in folders, and videos."""
    found = []
    for folder in folders:
        is_clip = folder.is_file() or (folder / "gt.npz").exists() or (folder / "groundtruth.txt").exists()
        found += [folder] if is_clip else find_clips(tuple(sorted(p for p in folder.iterdir() if p.is_dir())))
    return found


def score(scene: Scene, clip: Clip, path: Path) -> Scores:
    """Score the cameras of a scene, and its depth if it is known; NaN without measured cameras."""
    if path.is_file():
        return Scores(math.nan, math.nan)
    poses = true_poses(clip, path)
    # Without depth, pairs have a baseline if it is at least 1 % of the largest one: the same pairs for every method.
    unknown = torch.zeros_like(scene.depths)
    truth = replace(
        scene, tracks=None, depth_confidence=unknown, cameras=Cameras(poses, torch.eye(3).expand(len(poses), 3, 3))
    )
    values = {score.metric: score.value for score in camera_scores(scene, truth)}
    return Scores(values["auc_30"], values["auc_5"], depth_error(scene, clip, path))


def true_poses(clip: Clip, path: Path) -> Tensor:
    """Read the measured camera poses of a clip's frames."""
    assert clip.source is not None
    if (path / "gt.npz").exists():
        with np.load(path / "gt.npz") as arrays:
            return torch.from_numpy(arrays["world_from_cam"][list(clip.source.numbers)]).float()
    lines = [line.split() for line in (path / "groundtruth.txt").read_text().splitlines() if line[:1] != "#"]
    stamps = np.array([float(line[0].removesuffix(".jpg").removesuffix(".png")) for line in lines])
    rows = [int(np.abs(stamps - float(Path(name).stem)).argmin()) for name in clip.source.names]
    values = torch.tensor([[float(value) for value in lines[row][1:8]] for row in rows], dtype=torch.float64)
    rotations = rotation_from_quaternion(values[:, [6, 3, 4, 5]])
    return rigid(rotations, values[:, :3]).float()


def depth_error(scene: Scene, clip: Clip, path: Path) -> float:
    """Compute the mean relative error of depth after one median scale; NaN if no depth is known."""
    assert clip.source is not None
    if not (path / "gt.npz").exists():
        return math.nan
    with np.load(path / "gt.npz") as arrays:
        if "depth_mm" not in arrays or not (scene.depth_confidence > 0).float().mean() > 0.5:
            return math.nan
        truth = torch.from_numpy(arrays["depth_mm"][list(clip.source.numbers)].astype(np.float32))
    predicted = F.interpolate(scene.depths[:, None], truth.shape[1:], mode="nearest-exact")[:, 0]
    is_known = (truth > 0) & (predicted > 0)
    predicted, truth = predicted[is_known], truth[is_known]
    return float((predicted * (truth.median() / predicted.median()) / truth - 1).abs().mean())


def resident_mib() -> float:
    """Return the memory that the process uses now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
