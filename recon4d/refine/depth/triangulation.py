"""Triangulated depths of tracks: fitted ones to align depth maps to, and held-out ones to check them with."""

from dataclasses import dataclass

import torch

from recon4d.geometry import transform_points
from recon4d.records import Scene
from recon4d.refine.cameras.bundle_adjustment import (
    LOSS_SCALES,
    MIN_TRIANGULATION_ANGLE,
    reprojection_errors,
    triangulation_angles,
)
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.depth.alignment import PointDepths
from recon4d.refine.tracks.located_tracks import LocatedTracks

MAX_POINT_ERROR = 0.004
"""Largest reprojection error of a point in any frame, as a fraction of the longer side; points with larger errors are
not used. Hand-tuned."""


@dataclass(frozen=True)
class SparseDepths:
    """Triangulated depths of two groups of tracks."""

    fitted: PointDepths
    """Depths that maps are aligned to."""
    held_out: PointDepths
    """Depths that changes of the maps are checked with."""


def triangulate_depths(scene: Scene, fitted: LocatedTracks, held_out: LocatedTracks) -> SparseDepths | None:
    """Triangulate tracks with the cameras of a scene.

    Args:
        scene: A scene with exact cameras.
        fitted: Tracks that cameras and depth are fitted to.
        held_out: Tracks that they are checked with.

    Returns:
        The depths of both groups; None if no track of one of the groups has sufficient parallax.

    Raises:
        NoSolution: If the triangulation fails.
    """
    depths = SparseDepths(_point_depths(scene, fitted), _point_depths(scene, held_out))
    return depths if depths.fitted.is_valid.any() and depths.held_out.is_valid.any() else None


def _point_depths(scene: Scene, located: LocatedTracks) -> PointDepths:
    """Compute depths that are valid where parallax is sufficient and the errors are small in all frames."""
    cameras, tracks = scene.cameras, located.tracks
    points = refine_points(cameras, tracks, located.points(cameras), LOSS_SCALES[-1])
    errors, is_observed = reprojection_errors(cameras, tracks, points)
    is_consistent = torch.where(is_observed, errors, 0.0).amax(dim=0) <= MAX_POINT_ERROR * max(scene.size)
    has_depth = is_consistent & (triangulation_angles(cameras, tracks, points) >= MIN_TRIANGULATION_ANGLE)
    in_camera = transform_points(cameras.cam_from_world.double(), points.double().expand(len(is_observed), -1, -1))
    return PointDepths(tracks.pixels, in_camera[..., 2].to(scene.depths), is_observed & has_depth)
