"""Uncertainty of a located camera that is due to the cameras of the scene, which bundle adjustment takes for exact."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import rotation_angle
from recon4d.refine.localization.pose_adjustment import AdjustedCamera, PointObservations, adjust_camera

MAX_GROUPS = 5
"""Number of groups of views that are left out in turn to measure their agreement. Hand-tuned."""
MIN_POINTS = 12
"""Smallest number of points from which a camera is estimated without a group of views. Hand-tuned."""


def covariance_of_views(
    camera: AdjustedCamera, observations: PointObservations, focal_error: float
) -> Float[Tensor, "7 7"]:
    """Estimate the covariance that is due to errors of the scene's cameras, which all points of a view share.

    It is the jackknife estimate over groups of views (Efron 1982): how much the camera changes if a group is left out.

    Args:
        camera: The adjusted camera.
        observations: The observations that it was adjusted to.
        focal_error: As for `adjust_camera`.

    Returns:
        The covariance of rotation, center and log focal length; 0 if there are too few views to tell.
    """
    views, count = observations.view.unique(return_counts=True)
    order = views[count.argsort(descending=True, stable=True)]
    groups = [order[first::MAX_GROUPS] for first in range(min(MAX_GROUPS, len(order)))]
    changes = []
    for group in groups:
        kept = ~torch.isin(observations.view, group)
        points, index = observations.points[kept].unique(return_inverse=True)
        if len(points) < MIN_POINTS:
            continue
        part = observations.take(kept, points, index)
        changed = adjust_camera(replace(camera, points=camera.points[points]), part, focal_error)
        turn = _axis_angle(changed.rotation @ camera.rotation.T)
        focal = camera.center.new_tensor([changed.log_focal - camera.log_focal])
        changes.append(torch.cat([turn, changed.center - camera.center, focal]))
    if len(changes) < 2:
        return torch.zeros(7, 7, dtype=torch.double)
    deviations = torch.stack(changes) - torch.stack(changes).mean(dim=0)
    return (len(changes) - 1) / len(changes) * deviations.T @ deviations


def _axis_angle(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "3"]:
    """Return the axis-angle vector of a small rotation."""
    skew = rotation - rotation.T
    axis = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    return axis / axis.norm().clamp(min=1e-12) * rotation_angle(rotation)
