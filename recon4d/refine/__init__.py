"""Refinement of predicted cameras and depth: corner tracks, bundle adjustment and plane-sweep stereo."""

from recon4d.refine.cameras.colmap_models import ColmapConfig, ColmapFailure, map_database, scene_of_model
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.config import MAP_SIDE, RefineConfig
from recon4d.refine.depth.plane_sweep import StereoConfig, StereoDepths, stereo_depths
from recon4d.refine.depth.upsampling import output_size, upsample_scene
from recon4d.refine.pipeline import has_camera_priors, refine_clip, refine_scene
from recon4d.refine.pycolmap_loader import NoPycolmapError, load_pycolmap, pycolmap_session
from recon4d.refine.refinement import Refinement
from recon4d.refine.tracks.corner_tracking import CornerTrackingConfig, scene_guides, track_corners

__all__ = [
    "MAP_SIDE",
    "ColmapConfig",
    "ColmapFailure",
    "CornerTrackingConfig",
    "NoPycolmapError",
    "RefineConfig",
    "Refinement",
    "StereoConfig",
    "StereoDepths",
    "has_camera_priors",
    "load_pycolmap",
    "map_database",
    "map_tracks",
    "output_size",
    "pycolmap_session",
    "refine_clip",
    "refine_scene",
    "scene_guides",
    "scene_of_model",
    "stereo_depths",
    "track_corners",
    "upsample_scene",
]
