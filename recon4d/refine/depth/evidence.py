"""How deep followed corners are, by cameras that are exact: some to fit depth to, others to judge it by."""

from dataclasses import dataclass

import torch

from recon4d.geometry import transform_points
from recon4d.records import Scene
from recon4d.refine.cameras.bundle_adjustment import (
    Problem,
    adjust_points,
    parallax,
    residuals,
)
from recon4d.refine.cameras.hypotheses import LocatedTracks, RefineConfig
from recon4d.refine.depth.alignment import PointDepths


@dataclass(frozen=True)
class SparseDepths:
    """Points whose depth in each frame cameras prove."""

    fitted: PointDepths
    held_out: PointDepths


def sparse_depths(
    scene: Scene, fitted: LocatedTracks, held_out: LocatedTracks, config: RefineConfig
) -> SparseDepths | None:
    """The points of both groups of tracks; None where parallax tells the depth of none in one of them."""
    evidence = SparseDepths(_point_depths(scene, fitted, config), _point_depths(scene, held_out, config))
    return evidence if evidence.fitted.known.any() and evidence.held_out.known.any() else None


def _point_depths(scene: Scene, located: LocatedTracks, config: RefineConfig) -> PointDepths:
    """How deep the tracks' points are in the frames that see them, where parallax tells and all frames agree."""
    cameras, tracks = scene.cameras, located.tracks
    problem = Problem(cameras, tracks, located.points(cameras), scene.size, config.loss_scales[-1])
    points = adjust_points(problem)
    distance, seen = residuals(cameras, tracks, points)
    agrees = torch.where(seen, distance, 0.0).amax(dim=0) <= config.largest_point_error * max(scene.size)
    is_told = agrees & (parallax(cameras, tracks, points) >= config.least_parallax)
    in_camera = transform_points(cameras.cam_from_world.double(), points.double().expand(len(seen), -1, -1))
    return PointDepths(tracks.pixels, in_camera[..., 2].to(scene.depths), seen & is_told)
