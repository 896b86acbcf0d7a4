"""Classical structure from motion: COLMAP on a clip, and bundle adjustment of the cameras a network predicted."""

from recon4d.sfm.colmap import (
    ColmapConfig,
    ColmapFailure,
    map_database,
    reconstruct_with_colmap,
    scene_of_model,
    with_colmap_intrinsics,
)
from recon4d.sfm.package import NoPycolmapError, load_pycolmap
from recon4d.sfm.refinement import RefineConfig, Refinement, refine, static_tracks

__all__ = [
    "ColmapConfig",
    "ColmapFailure",
    "NoPycolmapError",
    "RefineConfig",
    "Refinement",
    "load_pycolmap",
    "map_database",
    "reconstruct_with_colmap",
    "refine",
    "scene_of_model",
    "static_tracks",
    "with_colmap_intrinsics",
]
