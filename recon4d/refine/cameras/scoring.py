"""Scores of cameras by their tracks: reprojection errors and likelihoods, each with re-triangulated points."""

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


def track_errors(
    cameras: Cameras, tracks: LocatedTracks, max_error: float = MAX_ERROR, distortion: RadialDistortion = NO_DISTORTION
) -> Float[Tensor, " track"]:
    """Compute the mean reprojection error of each track after re-triangulation.

    Args:
        cameras: Cameras of all frames, fixed.
        tracks: The tracks.
        max_error: Upper bound of a single error, in pixels.
        distortion: Distortion of the lens.

    Returns:
        Mean error of each track over the frames that observe it, in pixels.
    """
    points = refine_points(cameras, tracks.tracks, tracks.points(cameras), distortion=distortion)
    errors, is_observed = reprojection_errors(cameras, tracks.tracks, points, distortion)
    return torch.where(is_observed, errors.clamp(max=max_error), 0.0).sum(dim=0) / is_observed.sum(dim=0)


def negative_log_likelihoods(
    cameras: Cameras, tracks: LocatedTracks, size: tuple[int, int], distortion: RadialDistortion = NO_DISTORTION
) -> Float[Tensor, " track"]:
    """Compute the negative log-likelihood of each track after re-triangulation.

    Reprojection errors have a Cauchy distribution with the scale `NOISE`; its constant factor is left out, so that a
    track without errors has the value 0.

    Args:
        cameras: Cameras of all frames, fixed.
        tracks: The tracks.
        size: Height and width of the maps that pixels and intrinsics refer to.
        distortion: Distortion of the lens.

    Returns:
        Mean of each track over the frames that observe it; smaller is likelier.
    """
    noise = NOISE * max(size)
    points = refine_points(cameras, tracks.tracks, tracks.points(cameras), distortion=distortion)
    errors, is_observed = reprojection_errors(cameras, tracks.tracks, points, distortion)
    values = (errors.clamp(max=MAX_ERROR) / noise).square().log1p()
    return torch.where(is_observed, values, 0.0).sum(dim=0) / is_observed.sum(dim=0)
