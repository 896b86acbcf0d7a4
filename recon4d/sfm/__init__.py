"""Classical structure from motion: COLMAP on a clip, and a network's cameras adjusted to corners followed exactly."""

from recon4d.sfm.candidates import RefineConfig
from recon4d.sfm.colmap import (
    ColmapConfig,
    ColmapFailure,
    map_database,
    reconstruct_with_colmap,
    scene_of_model,
    with_colmap_intrinsics,
)
from recon4d.sfm.following import FollowConfig, follow_corners, scene_guides
from recon4d.sfm.mapping import map_tracks
from recon4d.sfm.package import NoPycolmapError, load_pycolmap
from recon4d.sfm.refinement import Refinement, knows_cameras, refine, refine_clip, static_tracks
from recon4d.sfm.stereo import StereoConfig, StereoDepths, stereo_depths

__all__ = [
    "ColmapConfig",
    "ColmapFailure",
    "FollowConfig",
    "NoPycolmapError",
    "RefineConfig",
    "Refinement",
    "StereoConfig",
    "StereoDepths",
    "follow_corners",
    "knows_cameras",
    "load_pycolmap",
    "map_database",
    "map_tracks",
    "reconstruct_with_colmap",
    "refine",
    "refine_clip",
    "scene_guides",
    "scene_of_model",
    "static_tracks",
    "stereo_depths",
    "with_colmap_intrinsics",
]
