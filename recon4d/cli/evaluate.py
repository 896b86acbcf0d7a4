"""`recon4d evaluate`: score methods on clips with ground truth, with a table and a report."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from recon4d.cli.arguments import AttentionName, find_kernel
from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.eval import Benchmark, Method
    from recon4d.layers import Kernel


@dataclass(frozen=True)
class EvaluateCommand:
    """Score methods on a benchmark: predict, store the predictions, compute metrics, write a report."""

    out: Path
    """Folder for predictions, scores and the report; a second run continues where the first one stopped."""
    method: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """static, colmap, colmap-global, colmap-true-mask, a model's name, a checkpoint, or a folder of predictions; may be
    repeated."""
    benchmark: str = "worlds-v1"
    """worlds-v1, worlds (any number of frames), or a data set to read from --data: point-odyssey, dynamic-replica,
    kubric, worldtrack, tum, sintel, 7-scenes ..."""
    split: str | None = None
    """Split of the benchmark, if it has splits (worlds-v1: 8 or 32 frames)."""
    data: Path | None = None
    """Folder of the data set; worlds-v1 needs none."""
    clips: int | None = None
    """Use only the first clips, up to this number."""
    num_frames: int | None = None
    """Frames of each clip; the default depends on the benchmark."""
    stride: int | None = None
    """Distance between frames in the sequence; the default depends on the benchmark."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels, for data sets without intrinsics."""
    refine: bool = False
    """Score every network also with cameras and depth refined on the clip, as NAME+refine."""
    windows: tuple[int, int] | None = None
    """FRAMES OVERLAP: score every network also in overlapping windows, as NAME+windows-FRAMES-OVERLAP; with --refine
    also with each window refined, as NAME+windows-FRAMES-OVERLAP+refine."""
    loops: bool = False
    """With --windows: detect loops (places that the camera returns to) and distribute the drift."""
    anchored: bool = False
    """Score every network also with each frame processed together with the first one only, as NAME+anchored."""
    processing_size: int | None = None
    """Networks process about the area of a square with sides of this many pixels; the default depends on the model."""
    attention: AttentionName = "auto"
    """Kernel of the networks' attention: PyTorch's (sdpa) or that of xformers, which needs CUDA. auto: sdpa."""
    max_seconds: float = 600
    """Time limit of COLMAP for one clip, after which the clip counts as timed out."""
    motions: int = 0
    """Instead of the other metrics, score this number of sampled motions of every network (by default recon4d_mini).
    The first part of each clip is observed; dynamic points are predicted while they are hidden and afterwards."""
    motion_weights: Path | None = None
    """Weights of the generative head of --motions (recon4d train-motions); by default those of the package."""
    all_metrics: bool = False
    """Print every metric, not only the main ones; the report contains all of them in any case."""

    @property
    def interrupted(self) -> str:
        """The line to print after an interrupt."""
        return f"interrupted; finished predictions stay in {self.out}, and the same command continues from there"

    def run(self) -> None:
        """Evaluate the methods and write the report.

        Raises:
            UserError: If a method, the benchmark or its data is unknown or unsuitable.
        """
        from recon4d.eval import BenchmarkConfig, evaluate, load_benchmark, print_tables, write_report
        from recon4d.inference import start_processes

        if not self.method and not self.motions:
            raise UserError("give at least one --method, such as --method static")
        settings = BenchmarkConfig(self.split, self.data, self.clips, self.num_frames, self.stride, self.intrinsics)
        benchmark = load_benchmark(self.benchmark, settings)
        if self.motions:
            self._evaluate_motion(benchmark)
            return
        processes = start_processes()
        kernel = find_kernel(self.attention, processes.device)
        methods = self._methods(str(processes.device), kernel)
        try:
            evaluation = evaluate(benchmark, methods, self.out, processes)
        finally:
            for method in methods:
                method.close()
        if processes.is_main:
            write_report(self.out, evaluation, self._settings(kernel))
            print_tables(evaluation, self.all_metrics)
            print(f"{self.out}: report.html, report.json, report.csv, clips.csv")

    def _methods(self, device: str, kernel: "Kernel") -> "list[Method]":
        from recon4d.eval import MethodConfig, NetworkVariants, make_methods
        from recon4d.inference.windows import LoopConfig, WindowConfig

        config = MethodConfig(device, self.processing_size, self.max_seconds, kernel)
        if self.loops and self.windows is None:
            raise UserError("--loops needs windows; give --windows FRAMES OVERLAP too")
        loops = LoopConfig() if self.loops else None
        windows = None if self.windows is None else WindowConfig(*self.windows, loops=loops)
        variants = NetworkVariants(self.refine, windows, self.anchored)
        return [method for name in self.method for method in make_methods(name, config, variants)]

    def _evaluate_motion(self, benchmark: "Benchmark") -> None:
        """Score sampled motion of every network."""
        from tqdm import tqdm

        from recon4d.eval.motion_evaluation import MotionEvaluation, evaluate_motion
        from recon4d.eval.report.motion_tables import motion_tables
        from recon4d.zoo import DEFAULT_MODEL, find_model, load_motion_flow

        flow = load_motion_flow() if self.motion_weights is None else load_motion_flow(self.motion_weights)
        for name in self.method or (DEFAULT_MODEL,):
            evaluation = MotionEvaluation(find_model(name), flow, self.motions, self.refine)
            folder = self.out / "motions" / Path(name).stem
            clips = tqdm(benchmark.clips, desc=name, unit="clip", disable=not sys.stderr.isatty())
            results = evaluate_motion(benchmark, clips, evaluation, folder)
            print(f"{name}: {folder / 'motions.json'}")
            print(motion_tables(results, self.motions))

    def _settings(self, kernel: "Kernel") -> tuple[tuple[str, str], ...]:
        """The options that determine the results, as (name, value), for the report."""
        shown = {"benchmark": self.benchmark, "split": self.split, "data": self.data, "clips": self.clips}
        shown |= {"num_frames": self.num_frames, "stride": self.stride, "intrinsics": self.intrinsics}
        shown |= {"processing_size": self.processing_size, "max_seconds": self.max_seconds, "attention": kernel}
        return tuple((name, str(value)) for name, value in shown.items() if value is not None)
