"""Inference: from a clip to a scene, in a single pass or in windows, with priors, for one clip or many."""

from recon4d.inference.localization import locate
from recon4d.inference.many_clips import (
    ClipOutcome,
    finished_frames,
    format_outcomes,
    output_folders,
    reconstruct_each,
)
from recon4d.inference.metric_depth import MetricFit, fit_metric_scale
from recon4d.inference.motion_samples import sample_motions, sample_with_tokens
from recon4d.inference.prior_files import PriorFiles, long_clip_with_prior_files, with_prior_files
from recon4d.inference.priors import apply_priors
from recon4d.inference.processes import Processes, start_processes
from recon4d.inference.scene_statistics import (
    ExpectedErrors,
    ExpectedSceneErrors,
    SceneStatistics,
    expected_scene_errors,
    measure_long,
    measure_scene,
)
from recon4d.inference.single_pass import (
    MAX_FRAMES,
    MIN_SIDE,
    Precision,
    ReconstructConfig,
    assumptions,
    is_out_of_memory,
    predict_scene,
    processing_size,
    reconstruct,
    reconstruct_and_match,
    runs_in_bfloat16,
)

__all__ = [
    "MAX_FRAMES",
    "MIN_SIDE",
    "ClipOutcome",
    "ExpectedErrors",
    "ExpectedSceneErrors",
    "MetricFit",
    "Precision",
    "PriorFiles",
    "Processes",
    "ReconstructConfig",
    "SceneStatistics",
    "apply_priors",
    "assumptions",
    "expected_scene_errors",
    "finished_frames",
    "fit_metric_scale",
    "format_outcomes",
    "is_out_of_memory",
    "locate",
    "long_clip_with_prior_files",
    "measure_long",
    "measure_scene",
    "output_folders",
    "predict_scene",
    "processing_size",
    "reconstruct",
    "reconstruct_and_match",
    "reconstruct_each",
    "runs_in_bfloat16",
    "sample_motions",
    "sample_with_tokens",
    "start_processes",
    "with_prior_files",
]
