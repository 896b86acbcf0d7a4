"""From a clip to a Scene: a single pass, priors, many clips and long clips."""

from recon4d.inference.many_clips import Outcome, finished_frames, output_folders, reconstruct_each, table_of
from recon4d.inference.prior_files import PriorFiles, long_clip_with_prior_files, with_prior_files
from recon4d.inference.priors import apply_priors
from recon4d.inference.processes import Processes, start_processes
from recon4d.inference.scene_statistics import (
    ExpectedErrors,
    ExpectedOfScene,
    SceneFacts,
    expected_of_scene,
    measure_scene,
)
from recon4d.inference.single_pass import (
    MAX_FRAMES,
    MIN_SIDE,
    Precision,
    ReconstructConfig,
    is_out_of_memory,
    processing_size,
    reconstruct,
    reconstruct_and_match,
    runs_in_bfloat16,
)

__all__ = [
    "MAX_FRAMES",
    "MIN_SIDE",
    "ExpectedErrors",
    "ExpectedOfScene",
    "Outcome",
    "Precision",
    "PriorFiles",
    "Processes",
    "ReconstructConfig",
    "SceneFacts",
    "apply_priors",
    "expected_of_scene",
    "finished_frames",
    "is_out_of_memory",
    "long_clip_with_prior_files",
    "measure_scene",
    "output_folders",
    "processing_size",
    "reconstruct",
    "reconstruct_and_match",
    "reconstruct_each",
    "runs_in_bfloat16",
    "start_processes",
    "table_of",
    "with_prior_files",
]
