"""`recon4d evaluate`: methods beside each other on clips with truth, as one table and a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from recon4d.eval import Method


@dataclass(frozen=True)
class EvaluateCommand:
    """Score methods on a benchmark: predict (and keep the predictions), then score, then report."""

    out: Path
    """Folder for predictions, scores and the report; a second run goes on where the first stopped."""
    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """static, colmap, colmap-global, colmap-true-mask, a model's name, a checkpoint, a folder; may be repeated."""
    benchmark: str = "worlds-v1"
    """worlds-v1, worlds (of any length), or what reads --data: point-odyssey, dynamic-replica, kubric, worldtrack, tum,
    sintel, 7-scenes ..."""
    split: str | None = None
    """Part of the benchmark, where it has some (worlds-v1: 8 or 32 frames)."""
    data: Path | None = None
    """Folder of the data set; worlds-v1 needs none."""
    clips: int | None = None
    """Only the first so many clips."""
    num_frames: int | None = None
    """Frames of each clip; each benchmark has its own number."""
    stride: int | None = None
    """Step from one frame to the next; each benchmark has its own."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels, for data sets that do not say."""
    refine: bool = False
    """Score every network a second time with cameras and depth refined on the clip, as NAME+refine."""
    windows: tuple[int, int] | None = None
    """FRAMES OVERLAP: score every network once more in overlapping windows, as NAME+windows-FRAMES-OVERLAP."""
    loops: bool = False
    """With --windows: look for places that are seen again, and spread the drift."""
    anchored: bool = False
    """Score every network once more with each frame beside the first alone, as NAME+anchored."""
    processing_size: int | None = None
    """Networks work at about the area of a square of this many pixels a side; each has its own."""
    max_seconds: float = 600
    """COLMAP is stopped after so long on one clip, which then counts as timed out."""

    def run(self) -> None:
        from recon4d.eval import (
            BenchmarkConfig,
            evaluate,
            headline_table,
            load_benchmark,
            processes,
            write_report,
        )

        if not self.method:
            raise ValueError("give at least one --method, such as --method static")
        settings = BenchmarkConfig(self.split, self.data, self.clips, self.num_frames, self.stride, self.intrinsics)
        benchmark = load_benchmark(self.benchmark, settings)
        state = processes()
        methods = self._methods(str(state.device))
        try:
            evaluation = evaluate(benchmark, methods, self.out)
        finally:
            for method in methods:
                method.close()
        if state.is_main_process:
            write_report(self.out, evaluation, self._settings())
            print(headline_table(evaluation))
            print(f"{self.out}: report.html, report.json, report.csv, clips.csv")

    def _methods(self, device: str) -> "list[Method]":
        from recon4d.eval import (
            MethodConfig,
            make_anchored_method,
            make_method,
            make_refined_method,
            make_windowed_method,
        )
        from recon4d.inference.windows import LoopConfig, WindowConfig

        config = MethodConfig(device, self.processing_size, self.max_seconds)
        if self.loops and self.windows is None:
            raise ValueError("--loops is about windows; give --windows FRAMES OVERLAP too")
        loops = LoopConfig() if self.loops else None
        windows = None if self.windows is None else WindowConfig(*self.windows, loops=loops)
        methods = []
        for name in self.method:
            methods.append(make_method(name, config))
            if self.refine:
                methods.append(make_refined_method(name, config))
            if windows is not None:
                methods.append(make_windowed_method(name, config, windows))
            if self.anchored:
                methods.append(make_anchored_method(name, config))
        return [method for method in methods if method is not None]

    def _settings(self) -> tuple[tuple[str, str], ...]:
        """What was asked for, without where it is written to."""
        shown = {"benchmark": self.benchmark, "split": self.split, "data": self.data, "clips": self.clips}
        shown |= {"num_frames": self.num_frames, "stride": self.stride, "intrinsics": self.intrinsics}
        shown |= {"processing_size": self.processing_size, "max_seconds": self.max_seconds}
        return tuple((name, str(value)) for name, value in shown.items() if value is not None)
