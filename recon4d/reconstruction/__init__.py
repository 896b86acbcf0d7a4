"""From a clip to a scene for people: one pass, what is known beforehand honoured, and many clips one after another."""

from recon4d.reconstruction.camera_files import CameraFile, read_camera_file
from recon4d.reconstruction.honouring import honour
from recon4d.reconstruction.known_files import KnownFiles, long_clip_with_known_files, with_known_files
from recon4d.reconstruction.many_clips import Outcome, finished_frames, output_folders, reconstruct_each, table_of
from recon4d.reconstruction.one_pass import (
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
    "CameraFile",
    "KnownFiles",
    "Outcome",
    "Precision",
    "ReconstructConfig",
    "finished_frames",
    "honour",
    "is_out_of_memory",
    "long_clip_with_known_files",
    "output_folders",
    "processing_size",
    "read_camera_file",
    "reconstruct",
    "reconstruct_and_match",
    "reconstruct_each",
    "runs_in_bfloat16",
    "table_of",
    "with_known_files",
]
