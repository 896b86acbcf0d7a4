"""Evaluation of methods: benchmarks, baselines, alignment, metrics and the report."""

from recon4d.eval.alignment.ransac import align_sim3_ransac
from recon4d.eval.alignment.similarity import Alignment, align_scale, align_scale_by_ratios, align_sim3
from recon4d.eval.baselines.colmap import reconstruct_with_colmap, with_colmap_intrinsics
from recon4d.eval.benchmarks import Benchmark, BenchmarkConfig, benchmark_names, load_benchmark
from recon4d.eval.methods import LoadedNetwork, Method, MethodConfig, Network, Request, load_network, make_method
from recon4d.eval.metrics.cameras import camera_scores
from recon4d.eval.metrics.depth import depth_scores
from recon4d.eval.metrics.dynamic_mask import dynamic_mask_scores
from recon4d.eval.metrics.pixel_tracks import pixel_track_scores
from recon4d.eval.metrics.points import point_scores
from recon4d.eval.metrics.score import Metric, Score
from recon4d.eval.metrics.tracks import track_scores
from recon4d.eval.metrics.trajectory import trajectory_scores
from recon4d.eval.predictions import Prediction, PredictionStore
from recon4d.eval.report.files import write_report
from recon4d.eval.report.summary import Summary, summarize
from recon4d.eval.report.tables import headline_table, print_tables
from recon4d.eval.runner import Evaluation, evaluate
from recon4d.eval.scoring import METRICS, ClipResult, score_prediction
from recon4d.eval.window_methods import AnchoredNetwork, NetworkVariants, RefinedWindows, WindowedNetwork, make_methods

__all__ = [
    "METRICS",
    "Alignment",
    "AnchoredNetwork",
    "Benchmark",
    "BenchmarkConfig",
    "ClipResult",
    "Evaluation",
    "LoadedNetwork",
    "Method",
    "MethodConfig",
    "Metric",
    "Network",
    "NetworkVariants",
    "Prediction",
    "PredictionStore",
    "RefinedWindows",
    "Request",
    "Score",
    "Summary",
    "WindowedNetwork",
    "align_scale",
    "align_scale_by_ratios",
    "align_sim3",
    "align_sim3_ransac",
    "benchmark_names",
    "camera_scores",
    "depth_scores",
    "dynamic_mask_scores",
    "evaluate",
    "headline_table",
    "load_benchmark",
    "load_network",
    "make_method",
    "make_methods",
    "pixel_track_scores",
    "point_scores",
    "print_tables",
    "reconstruct_with_colmap",
    "score_prediction",
    "summarize",
    "track_scores",
    "trajectory_scores",
    "with_colmap_intrinsics",
    "write_report",
]
