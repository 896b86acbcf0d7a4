"""Scores of cameras by their tracks: reprojection errors and likelihoods, each with re-triangulated points."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Cameras
from recon4d.refine.cameras.bundle_adjustment import reprojection_errors
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.cameras.radial_distortion import NO_DISTORTION, RadialDistortion
from recon4d.refine.tracks.located_tracks import LocatedTracks

MAX_ERROR = 1.0
"""Upper bound of a reprojection error, in pixels; larger errors are outliers, whose size does not matter."""
NOISE = 0.0005
"""Scale of the Cauchy distribution of reprojection errors, as a fraction of the longer side. Hand-tuned."""


@dataclass(frozen=True)
class TrackScores:
    """Scores of tracks under given cameras, after re-triangulation."""

    errors: Float[Tensor, " track"]
    """Mean reprojection error over the frames that observe the track, in pixels, with each error clipped to
    `MAX_ERROR`."""
    costs: Float[Tensor, " track"]
    """Mean negative log-likelihood over the frames that observe the track. Reprojection errors have a Cauchy
    distribution with the scale `NOISE`; its constant factor is left out, so that a track without errors has the value
    0."""
    points: Float[Tensor, "track 3"]
    """Triangulated points in world coordinates."""


def score_tracks(
    cameras: Cameras,
    tracks: LocatedTracks,
    size: tuple[int, int],
    distortion: RadialDistortion = NO_DISTORTION,
    max_error: float = MAX_ERROR,
) -> TrackScores:
    """Score tracks by their reprojection errors.

    Args:
        cameras: Cameras of all frames, fixed.
        tracks: The tracks.
        size: Height and width of the maps that pixels and intrinsics refer to.
        distortion: Distortion of the lens.
        max_error: Upper bound of a single error, in pixels.

    Returns:
        Errors, costs and points of the tracks.
    """
    noise = NOISE * max(size)
    points = refine_points(cameras, tracks.tracks, tracks.points(cameras), distortion=distortion)
    errors, is_observed = reprojection_errors(cameras, tracks.tracks, points, distortion)
    clipped = torch.where(is_observed, errors.clamp(max=max_error), 0.0)
    count = is_observed.sum(dim=0)
    return TrackScores(clipped.sum(dim=0) / count, (clipped / noise).square().log1p().sum(dim=0) / count, points)
