"""Speed and accuracy of plane-sweep stereo: ``python -m benchmarks.stereo --clips 16``.

Stereo runs with exact cameras on clips of worlds-v1, and with ``--data`` on real clips with measured depth. It starts
from the true depth after a strong blur and with reduced contrast, so that only near and far are known. Depth of real
clips is first scaled by the median ratio, since their cameras are measured. The printed errors are the mean relative
difference of depth (AbsRel) before stereo, after stereo and alignment, and at verified pixels; "wrong" is the share of
the verified pixels whose depth is off by more than 5 %.
"""

import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import resized_intrinsics
from recon4d.records import Cameras, Clip, Scene
from recon4d.refine.depth.multiview_consistency import plane_sweep_depth

BLUR = 0.25
"""Side of the blur of the initial depth, relative to the width."""
CONTRAST = 0.7
"""Contrast of the initial depth, in log depth."""
WRONG = 0.05
"""Relative error above which verified depth counts as wrong."""


@dataclass(frozen=True)
class Arguments:
    """Measure seconds, share of verified pixels and errors of stereo with exact cameras."""

    clips: int = 16
    """Number of clips of worlds-v1."""
    split: str = "8"
    """Split of worlds-v1."""
    data: Path | None = None
    """Folder of real clips: each a folder with `images` and `gt.npz` (world_from_cam, K, depth_mm). Clips without
    measured depth are skipped."""
    repeats: int = 1
    """Number of runs of each clip; the median time is printed."""


@dataclass(frozen=True)
class Example:
    """A clip with given cameras and true depth."""

    name: str
    kind: str
    clip: Clip
    truth: Scene
    has_exact_cameras: bool


@dataclass(frozen=True)
class Row:
    """Figures of one clip."""

    seconds: float
    verified: float
    error_before: float
    error: float
    verified_error: float
    wrong: float


def main(arguments: Arguments) -> None:
    """Run stereo on all clips, and print one row per clip and the mean of each kind."""
    print(f"{'':24}{'seconds':>9}{'verified':>10}{'before':>9}{'after':>9}{'at verified':>13}{'wrong':>8}")
    rows: dict[str, list[Row]] = {}
    for example in _examples(arguments):
        row = _measure(example, arguments.repeats)
        rows.setdefault(example.kind, []).append(row)
        _print(example.name, row)
    for kind, of_kind in rows.items():
        _print(f"mean of {kind}", _mean(of_kind))
    print(f"largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def _examples(arguments: Arguments) -> Iterator[Example]:
    for position in range(arguments.clips):
        sample = WORLDS_V1[arguments.split].sample(position)
        yield Example(f"worlds-v1 {position}", "worlds-v1", sample.clip, replace(sample.scene, tracks=None), True)
    for file in sorted(arguments.data.glob("*/gt.npz")) if arguments.data else []:
        if "depth_mm" in np.load(file):
            yield _read_real(file)


def _read_real(file: Path) -> Example:
    """Read a real clip; its maps have at most the area of 256 x 256 pixels, as in the pipeline."""
    from recon4d.io import read_clip
    from recon4d.refine.grayscale import working_size

    truth = np.load(file)
    clip = read_clip(file.parent / "images")
    size = working_size(clip.size, 256)
    intrinsics = resized_intrinsics(torch.from_numpy(truth["K"]).float(), clip.size, size)
    depths = torch.from_numpy(truth["depth_mm"].astype(np.float32)) / 1000
    depths = F.interpolate(depths[:, None], size, mode="nearest-exact")[:, 0]
    known = (depths > 0).float()
    scene = Scene(
        cameras=Cameras(torch.from_numpy(truth["world_from_cam"]).float(), intrinsics),
        depths=depths,
        depth_confidence=known,
        points=torch.zeros(*depths.shape, 3),
        point_confidence=known,
        dynamic=torch.zeros_like(depths),
        metres_per_unit=torch.tensor(1.0),
    )
    return Example(file.parent.name, "real clips", clip, scene, False)


def _degraded(truth: Scene) -> Scene:
    """Blur the true depth and reduce its contrast; pixels without depth get that of their surroundings."""
    known = (truth.depth_confidence > 0).float()[:, None]
    logs = truth.depths.clamp(min=1e-3).log()[:, None] * known
    half = int(BLUR * truth.size[1] / 2)
    total, weight = (F.avg_pool2d(one, 2 * half + 1, 1, half) for one in (logs, known))
    mean = logs.sum() / known.sum()
    blurred = torch.where(weight > 0, total / weight.clamp(min=1e-6), mean)[:, 0]
    return replace(truth, depths=(CONTRAST * blurred + (1 - CONTRAST) * mean).exp())


def _measure(example: Example, repeats: int) -> Row:
    before = _degraded(example.truth)
    start = time.perf_counter()
    after = plane_sweep_depth(example.clip, before)
    seconds = [time.perf_counter() - start]
    for _ in range(repeats - 1):
        start = time.perf_counter()
        plane_sweep_depth(example.clip, before)
        seconds.append(time.perf_counter() - start)
    known = example.truth.depth_confidence > 0
    verified = _errors(after.scene.depths, example, known & after.verified)
    return Row(
        statistics.median(seconds),
        float(after.verified.float().mean()),
        float(_errors(before.depths, example, known).mean()),
        float(_errors(after.scene.depths, example, known).mean()),
        float(verified.mean()),
        float((verified > WRONG).float().mean()),
    )


def _errors(depths: Tensor, example: Example, mask: Tensor) -> Tensor:
    ratio = depths[mask] / example.truth.depths[mask]
    return (ratio / (1.0 if example.has_exact_cameras else ratio.median()) - 1).abs()


def _mean(rows: list[Row]) -> Row:
    """Average over clips; clips without verified pixels have no error there."""
    columns = zip(*(vars(row).values() for row in rows), strict=True)
    return Row(*(float(np.nanmean(column)) for column in columns))


def _print(name: str, row: Row) -> None:
    print(
        f"{name:24}{row.seconds:9.2f}{row.verified:10.1%}{row.error_before:9.4f}{row.error:9.4f}"
        f"{row.verified_error:13.4f}{row.wrong:8.2%}",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
