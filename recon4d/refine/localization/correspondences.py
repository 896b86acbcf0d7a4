"""Correspondences between the features of a picture and the views of a scene, and which of them agree with a camera."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry import invert, transform_points
from recon4d.refine.localization.features import SIDE, Features, match_features
from recon4d.refine.localization.pose_adjustment import AdjustedCamera, PointObservations
from recon4d.refine.localization.scene_views import SceneView, unproject_pixels

DEPTH_STEPS = 13
"""Number of depths, within three standard deviations, at which a point is tried against a camera. Hand-tuned."""


@dataclass(frozen=True)
class Matches:
    """Matches of a picture with all views. Values are in float64."""

    query: Int[Tensor, " match"]
    """Feature of the picture."""
    pixels: Float[Tensor, "match 2"]
    """Its position in the picture."""
    view: Int[Tensor, " match"]
    """View that it matches."""
    view_pixels: Float[Tensor, "match 2"]
    """Position in the picture of the view."""
    depths: Float[Tensor, " match"]
    """Depth in the view."""
    depth_errors: Float[Tensor, " match"]
    """Assumed standard deviation of the logarithm of the depth."""
    points: Float[Tensor, "match 3"]
    """World point, by the depth."""

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.query)

    def take(self, chosen: Tensor) -> "Matches":
        """Select matches.

        Args:
            chosen: Mask or indices of the matches.

        Returns:
            The selected matches.
        """
        return Matches(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def match_views(features: Features, views: Sequence[SceneView]) -> Matches:
    """Match the features of a picture with those of all views.

    Args:
        features: Features of the picture.
        views: Views of the scene, at least one.

    Returns:
        The matches, view by view.
    """
    parts = []
    for number, view in enumerate(views):
        pairs = match_features(features, view.features)
        own, other = pairs.unbind(1)
        parts.append(
            Matches(
                own,
                features.pixels[own].double(),
                torch.full_like(own, number),
                view.features.pixels[other].double(),
                view.depths[other],
                view.depth_errors[other],
                view.points[other],
            )
        )
    return Matches(*(torch.cat([getattr(part, name) for part in parts]) for name in Matches.__dataclass_fields__))


def agreeing_matches(
    camera: AdjustedCamera, matches: Matches, views: Sequence[SceneView], tolerance: float
) -> tuple[Matches, Float[Tensor, " match"]]:
    """Select the matches that agree with a camera at some likely depth.

    Args:
        camera: The camera of the picture.
        matches: Matches.
        views: Views of the scene.
        tolerance: Largest distance between the point and the feature in the picture, in pixels.

    Returns:
        The matches that agree, and the depths at which they agree best.
    """
    steps = torch.linspace(-3, 3, DEPTH_STEPS, dtype=torch.double)
    depths = matches.depths[:, None] * (matches.depth_errors[:, None] * steps).exp()
    intrinsics = torch.stack([view.intrinsics for view in views])[matches.view]
    cam_from_world = torch.stack([view.cam_from_world for view in views])[matches.view]
    rays = unproject_pixels(matches.view_pixels, intrinsics)
    points = transform_points(invert(cam_from_world), rays[:, None] * depths[..., None])
    tried = replace(camera, points=points.reshape(-1, 3))
    pixels, in_front = tried.project()
    errors = (pixels.reshape(*depths.shape, 2) - matches.pixels[:, None]).norm(dim=-1)
    errors = torch.where(in_front.reshape(depths.shape) > 0, errors, torch.inf)
    least, best = errors.min(dim=1)
    chosen = least < tolerance
    return matches.take(chosen), depths.gather(1, best[:, None])[:, 0][chosen]


def observe_points(
    matches: Matches, depths: Float[Tensor, " match"], views: Sequence[SceneView], pixel_error: float
) -> tuple[Float[Tensor, "point 3"], PointObservations]:
    """Group matches by the feature of the picture.

    Args:
        matches: Matches that agree with one camera.
        depths: Initial depth of each match.
        views: Views of the scene.
        pixel_error: Standard deviation of positions in the picture.

    Returns:
        An initial point for each feature of the picture, and all observations.
    """
    queries, points = matches.query.unique(return_inverse=True)
    intrinsics = torch.stack([view.intrinsics for view in views])[matches.view]
    cam_from_world = torch.stack([view.cam_from_world for view in views])[matches.view]
    positions = transform_points(
        invert(cam_from_world), (unproject_pixels(matches.view_pixels, intrinsics) * depths[:, None])[:, None]
    )[:, 0]
    weights = matches.depth_errors**-2
    initial = torch.zeros(len(queries), 3).double().index_add(0, points, weights[:, None] * positions)
    total = torch.zeros(len(queries)).double().index_add(0, points, weights)
    query_pixels = torch.zeros(len(queries), 2).double()
    query_pixels[points] = matches.pixels
    scale = torch.tensor([feature_error(view.size) for view in views], dtype=torch.double)
    return initial / total[:, None], PointObservations(
        queries,
        query_pixels,
        pixel_error,
        points,
        matches.view,
        matches.view_pixels,
        scale[matches.view],
        cam_from_world,
        intrinsics,
        matches.depths.log(),
        matches.depth_errors,
    )


def feature_error(size: tuple[int, int]) -> float:
    """Return the standard deviation of feature positions: one pixel of the image in which they are detected.

    Args:
        size: Height and width of the picture.

    Returns:
        The standard deviation in pixels of the picture.
    """
    return max(1.0, math.sqrt(size[0] * size[1]) / SIDE)
