"""Alignment of a prediction with its truth by a scale or a similarity transform of corresponding points.

Two global median scales are in use: the ratio of the medians of ||G|| and ||P||, and the median of the ratios
||G|| / ||P||. They differ by several percent if errors are not uniform. Both scale about the origin, which is the first
camera. The median of an even number of values is the lower of the two middle ones, as in `torch.median` and in
published evaluation scripts. P are the predicted and G the true points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_similarity, rigid, similarity, similarity_scale
from recon4d.records import Scene
from recon4d.refine.no_solution import NoSolution

MIN_NORM = 1e-12
"""Distance from the origin up to which a point counts as lying at the origin, in the unit of the points."""

MIN_CORRELATION = 1e-9
"""Smallest correlation of two clouds for which a similarity transform is meaningful: the extent of the aligned
prediction as a share of the extent of the truth. Hand-tuned."""


@dataclass(frozen=True)
class Alignment:
    """Similarity transform from a prediction to its truth."""

    name: str
    """Name of the method, as shown in reports."""
    truth_from_prediction: Float[Tensor, "4 4"]
    """Transform from the world of the prediction to the world of the truth."""
    count: int
    """Number of corresponding points that were fitted."""

    def apply(self, prediction: Scene) -> Scene:
        """Align a predicted scene.

        Args:
            prediction: Predicted scene.

        Returns:
            The prediction in the world and unit of the truth.
        """
        return prediction.transformed(self.truth_from_prediction.to(prediction.depths))


def align_scale(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Compute the global median scale as a ratio of medians, s = median ||G|| / median ||P||, about the origin.

    Args:
        predicted: Predicted points.
        true: True points in the same order.

    Returns:
        The alignment, a pure scale.

    Raises:
        NoSolution: If half of the predicted or of the true points lie at the origin.
        ValueError: If there are no points, their numbers differ or they are not finite.
    """
    _validate(predicted, true)
    scale = _norms(true).median() / _norms(predicted).median()
    return _scale_only("median scale", scale, true)


def align_scale_by_ratios(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Compute the global median scale as a median of ratios, s = median(||G_i|| / ||P_i||), about the origin.

    The ratio of a point predicted at the origin is infinite.

    Args:
        predicted: Predicted points.
        true: True points in the same order.

    Returns:
        The alignment, a pure scale.

    Raises:
        NoSolution: If the median is infinite or zero.
        ValueError: If there are no points, their numbers differ or they are not finite.
    """
    _validate(predicted, true)
    norms = _norms(predicted)
    ratios = torch.where(norms > 0, _norms(true) / norms, torch.inf)
    return _scale_only("median of ratios", ratios.median(), true)


def align_sim3(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Fit a similarity transform without reflection by least squares in float64 (Umeyama 1991).

    For points on a line, the rotation about it is not determined and one solution is returned. In degenerate cases only
    the means are aligned, with identity rotation and scale 1: a single point, coinciding points (predicted or true, up
    to rounding), and uncorrelated clouds, for which the best scale is 0.

    Args:
        predicted: Predicted points.
        true: True points in the same order.

    Returns:
        The alignment.

    Raises:
        ValueError: If there are no points, their numbers differ or they are not finite.
    """
    _validate(predicted, true)
    a, b = predicted.double(), true.double()
    fitted = fit_similarity(a, b)
    extent_a, extent_b = ((points - points.mean(dim=0)).norm() for points in (a, b))
    is_uncorrelated = similarity_scale(fitted) * extent_a <= MIN_CORRELATION * extent_b
    if _is_one_place(predicted) or _is_one_place(true) or is_uncorrelated:
        fitted = _translation_of_means(a, b)
    return Alignment("sim3", fitted.to(true.dtype), len(true))


def corresponding_points(prediction: Scene, truth: Scene) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Collect the points of all pixels that are known in both point maps.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        Predicted and true points in their world frames.
    """
    known = (prediction.point_confidence > 0) & (truth.point_confidence > 0)
    return prediction.points[known], truth.points[known]


def _norms(points: Tensor) -> Tensor:
    """Return distances from the origin, 0 up to `MIN_NORM`, in float64: float32 squares overflow beyond 1e19."""
    norms = points.double().norm(dim=-1)
    return torch.where(norms > MIN_NORM, norms, torch.zeros_like(norms))


def _scale_only(name: str, scale: Tensor, true: Tensor) -> Alignment:
    if not (torch.isfinite(scale) and scale > 0):
        raise NoSolution(f"the {name} is {float(scale):g}: too many true or predicted points lie at the origin")
    fitted = similarity(scale, torch.eye(3).to(scale), torch.zeros(3).to(scale))
    return Alignment(name, fitted.to(true.dtype), len(true))


def _is_one_place(points: Tensor) -> bool:
    """Check whether all points coincide up to rounding in their dtype."""
    rounding = torch.finfo(points.dtype).eps * points.abs().max()
    return bool((points - points[0]).abs().max() <= 4 * rounding)


def _translation_of_means(points_a: Tensor, points_b: Tensor) -> Tensor:
    return rigid(torch.eye(3).to(points_a), points_b.mean(dim=0) - points_a.mean(dim=0))


def _validate(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape or len(true) < 1:
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true points cannot be aligned; their numbers must be equal "
            "and at least 1"
        )
    for name, points in (("predicted", predicted), ("true", true)):
        if not points.isfinite().all():
            wrong = int((~points.isfinite().all(dim=-1)).sum())
            raise ValueError(f"{wrong} of {len(points)} {name} points are not finite; exclude them from the alignment")
