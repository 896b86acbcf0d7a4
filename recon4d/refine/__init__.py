"""Refinement of cameras and depth by the pictures themselves: corner tracks, bundle adjustment, plane-sweep stereo."""

from recon4d.refine.cameras.colmap_models import ColmapConfig, ColmapFailure, map_database, scene_of_model
from recon4d.refine.cameras.hypotheses import RefineConfig
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.depth.plane_sweep import StereoConfig, StereoDepths, stereo_depths
from recon4d.refine.pipeline import Refinement, knows_cameras, refine_clip, refine_scene, static_tracks
from recon4d.refine.pycolmap_loader import NoPycolmapError, load_pycolmap
from recon4d.refine.tracks.corner_tracking import CornerTrackingConfig, scene_guides, track_corners

__all__ = [
    "ColmapConfig",
    "ColmapFailure",
    "CornerTrackingConfig",
    "NoPycolmapError",
    "RefineConfig",
    "Refinement",
    "StereoConfig",
    "StereoDepths",
    "knows_cameras",
    "load_pycolmap",
    "map_database",
    "map_tracks",
    "refine_clip",
    "refine_scene",
    "scene_guides",
    "scene_of_model",
    "static_tracks",
    "stereo_depths",
    "track_corners",
]
