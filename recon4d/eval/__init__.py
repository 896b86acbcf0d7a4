"""Evaluation: alignments, metrics, COLMAP beside networks, and a report. Predict, then score."""

from recon4d.eval.alignment import Alignment, align_scale, align_scale_by_ratios, align_se3, align_sim3, no_alignment
from recon4d.eval.benchmarks import Benchmark, BenchmarkConfig, benchmark_names, load_benchmark
from recon4d.eval.cameras import camera_scores
from recon4d.eval.depth import depth_scores
from recon4d.eval.evaluation import Evaluation, evaluate, processes
from recon4d.eval.methods import Method, MethodConfig, Request, make_method, make_refined_method
from recon4d.eval.moving import moving_scores
from recon4d.eval.pixel_tracks import pixel_track_scores
from recon4d.eval.points import point_scores
from recon4d.eval.prediction import Prediction, PredictionStore
from recon4d.eval.protocol import METRICS, ClipResult, score_prediction
from recon4d.eval.report import headline_table, write_report
from recon4d.eval.robust_alignment import align_inverse_depth, align_sim3_ransac
from recon4d.eval.score import Metric, Score
from recon4d.eval.summary import Summary, summarise
from recon4d.eval.tracks import track_scores
from recon4d.eval.trajectory import trajectory_scores
from recon4d.eval.window_methods import make_anchored_method, make_windowed_method

__all__ = [
    "METRICS",
    "Alignment",
    "Benchmark",
    "BenchmarkConfig",
    "ClipResult",
    "Evaluation",
    "Method",
    "MethodConfig",
    "Metric",
    "Prediction",
    "PredictionStore",
    "Request",
    "Score",
    "Summary",
    "align_inverse_depth",
    "align_scale",
    "align_scale_by_ratios",
    "align_se3",
    "align_sim3",
    "align_sim3_ransac",
    "benchmark_names",
    "camera_scores",
    "depth_scores",
    "evaluate",
    "headline_table",
    "load_benchmark",
    "make_anchored_method",
    "make_method",
    "make_refined_method",
    "make_windowed_method",
    "moving_scores",
    "no_alignment",
    "pixel_track_scores",
    "point_scores",
    "processes",
    "score_prediction",
    "summarise",
    "track_scores",
    "trajectory_scores",
    "write_report",
]
