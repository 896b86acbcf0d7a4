"""Optional loss terms of published methods (VGGT, MoGe and St4RTrack) against the ground truth."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d import losses
from recon4d.geometry import unproject_map
from recon4d.losses import Term
from recon4d.losses.confidence_regression import ConfidenceTerms
from recon4d.models import Outputs
from recon4d.records import Scene
from recon4d.train.terms import tracks_at_queries, zero_term

PublishedTerm = Callable[[Outputs, Scene, int], Term]
"""A function of the outputs, the ground truth from `losses.normalized`, and a random seed."""


def _depth_slopes(outputs: Outputs, truth: Scene) -> Term:
    depths = (outputs.scene.depths[..., None], truth.depths[..., None])
    return _over_scales(losses.gradient_terms(*depths, _valid_depth(truth), outputs.scene.depth_confidence))


def _point_normals(outputs: Outputs, truth: Scene) -> Term:
    return _over_scales(losses.normal_cosine_terms(outputs.scene.points, truth.points, _valid_points(truth)))


def _local_points(outputs: Outputs, truth: Scene, seed: int) -> Term:
    generator = torch.Generator().manual_seed(seed)
    focal = truth.cameras.intrinsics[..., 0, 0]
    focal = torch.where(torch.isfinite(focal), focal, torch.ones_like(focal))
    # Levels are weighted by their numbers of points; a region of any size has at most 16 x 16 of them.
    return losses.merge_terms(*losses.local_point_terms(*_camera_points(outputs, truth), focal, generator))


def _tracked_points(outputs: Outputs, truth: Scene) -> Term:
    sampled = tracks_at_queries(outputs, truth)
    if sampled is None:
        return zero_term(outputs)
    tracks, scene = sampled
    assert scene.tracks is not None
    return losses.tracking_point_term(tracks, scene.tracks, losses.depths_at_anchors(scene))


PUBLISHED_TERMS: dict[str, PublishedTerm] = {
    "confident_depth": lambda outputs, truth, _: _depth_regression(outputs, truth).weighted,
    "plain_depth": lambda outputs, truth, _: _depth_regression(outputs, truth).plain,
    "depth_slopes": lambda outputs, truth, _: _depth_slopes(outputs, truth),
    "confident_points": lambda outputs, truth, _: _point_regression(outputs, truth).weighted,
    "plain_points": lambda outputs, truth, _: _point_regression(outputs, truth).plain,
    "point_normals": lambda outputs, truth, _: _point_normals(outputs, truth),
    "affine_points": lambda outputs, truth, _: losses.affine_invariant_point_term(*_camera_points(outputs, truth)),
    "local_points": _local_points,
    "normal_angles": lambda outputs, truth, _: losses.normal_angle_term(*_camera_points(outputs, truth)),
    "tracked_points": lambda outputs, truth, _: _tracked_points(outputs, truth),
}
"""All terms by their names in `LossWeights`, which documents them."""


def _depth_regression(outputs: Outputs, truth: Scene) -> ConfidenceTerms:
    scene = outputs.scene
    maps = (scene.depths[..., None], truth.depths[..., None], scene.depth_confidence)
    return losses.confidence_terms(*maps, _valid_depth(truth))


def _point_regression(outputs: Outputs, truth: Scene) -> ConfidenceTerms:
    scene = outputs.scene
    return losses.confidence_terms(scene.points, truth.points, scene.point_confidence, _valid_points(truth))


def _valid_depth(truth: Scene) -> Bool[Tensor, "batch time height width"]:
    return (truth.depth_confidence > 0) & (truth.depths > 0)


def _valid_points(truth: Scene) -> Bool[Tensor, "batch time height width"]:
    return (truth.point_confidence > 0) & _valid_depth(truth)


def _camera_points(outputs: Outputs, truth: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Unproject predicted and true depth into the camera frame of each image, with a mask of valid true points."""
    predicted, true = (unproject_map(scene.depths, scene.cameras.intrinsics) for scene in (outputs.scene, truth))
    return predicted, true, _valid_depth(truth) & torch.isfinite(true).all(dim=-1)


def _over_scales(terms: tuple[Term, ...]) -> Term:
    """Combine terms over every 1st, 2nd, 4th, ... pixel into one whose mean is about the sum of their means.

    A pixel is weighted by the area that it represents at its scale.
    """
    areas = [4**scale for scale in range(len(terms))]
    total = sum(len(terms) * area * term.total for area, term in zip(areas, terms, strict=True))
    return Term(torch.as_tensor(total), torch.stack([a * t.count for a, t in zip(areas, terms, strict=True)]).sum())
