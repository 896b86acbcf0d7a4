"""Bringing a prediction into the unit and the world of its truth, once for each clip, from corresponding points.

Two global median scales are in use and differ by several percent where errors are uneven: the median of the ratios
||G|| / ||P||, point by point, and the ratio of the two medians. Both are about the origin, which is the first camera.
Medians of an even count are the lower of the two in the middle, as `torch.median` and the scripts of the field have it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    fit_rigid,
    fit_similarity,
    rigid,
    similarity,
    similarity_scale,
)
from recon4d.records import Scene

MIN_NORM = 1e-12
"""Points closer to the origin than this lie at the origin."""

MIN_CORRELATION = 1e-9
"""Clouds whose best similarity explains less than this of their spread have nothing in common."""


@dataclass(frozen=True)
class Alignment:
    """A similarity that takes a prediction to its truth, and what it was computed from."""

    name: str
    truth_from_prediction: Float[Tensor, "4 4"]
    count: int
    """How many corresponding points it was computed from."""

    def apply(self, prediction: Scene) -> Scene:
        """The prediction in the world and the unit of the truth."""
        return prediction.transformed(self.truth_from_prediction.to(prediction.depths))


def no_alignment() -> Alignment:
    """The prediction as it is."""
    return Alignment("none", torch.eye(4), 0)


def align_scale(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Global median scale as the field computes it: s = median ||G|| / median ||P||, about the origin.

    Raises ``ValueError`` where half of the predicted or of the true points lie at the origin.
    """
    _check(predicted, true)
    scale = _norms(true).median() / _norms(predicted).median()
    return _scale_only("median scale", scale, true)


def align_scale_by_ratios(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Global median scale as the notes write it: s = median(||G_i|| / ||P_i||), about the origin.

    A point predicted at the origin wants an infinite scale and counts as such. Raises ``ValueError`` where the median
    is infinite or zero.
    """
    _check(predicted, true)
    norms = _norms(predicted)
    ratios = torch.where(norms > 0, _norms(true) / norms, torch.inf)
    return _scale_only("median of ratios", ratios.median(), true)


def align_sim3(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Sim(3) Procrustes (Umeyama 1991) in float64; never a reflection.

    Points on a line leave the turn about it free, and one of the best answers is given. One point, several at one
    place (predicted or true, up to the rounding of their dtype), or clouds without anything in common, for which the
    best scale would be 0, fix the translation of the means only: rotation identity, scale 1.
    """
    _check(predicted, true)
    a, b = predicted.double(), true.double()
    fitted = fit_similarity(a, b)
    spread_a, spread_b = ((points - points.mean(dim=0)).norm() for points in (a, b))
    no_correlation = similarity_scale(fitted) * spread_a <= MIN_CORRELATION * spread_b
    if _is_one_place(predicted) or _is_one_place(true) or no_correlation:
        fitted = _translation_of_means(a, b)
    return Alignment("sim3", fitted.to(true.dtype), len(true))


def align_se3(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """SE(3) (Kabsch 1976) in float64: rotation and translation, the unit is believed; never a reflection.

    Points on a line leave the turn about it free, and one of the best answers is given. One point, or several at one
    place (predicted or true), fix the translation of the means only: rotation identity.
    """
    _check(predicted, true)
    a, b = predicted.double(), true.double()
    is_one_place = _is_one_place(predicted) or _is_one_place(true)
    fitted = _translation_of_means(a, b) if is_one_place else fit_rigid(a, b)
    return Alignment("se3", fitted.to(true.dtype), len(true))


def corresponding_points(prediction: Scene, truth: Scene) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """World points of all pixels whose point maps are known in both scenes: predicted and true."""
    known = (prediction.point_confidence > 0) & (truth.point_confidence > 0)
    return prediction.points[known], truth.points[known]


def _norms(points: Tensor) -> Tensor:
    """Distances from the origin in float64 (squares of float32 overflow beyond 1e19); 0 for what lies at it."""
    norms = points.double().norm(dim=-1)
    return torch.where(norms > MIN_NORM, norms, torch.zeros_like(norms))


def _scale_only(name: str, scale: Tensor, true: Tensor) -> Alignment:
    if not (torch.isfinite(scale) and scale > 0):
        raise ValueError(f"a {name} of {float(scale):g} is no scale: true or predicted points lie at the origin")
    fitted = similarity(scale, torch.eye(3).to(scale), torch.zeros(3).to(scale))
    return Alignment(name, fitted.to(true.dtype), len(true))


def _is_one_place(points: Tensor) -> bool:
    """Whether all points coincide, but for what rounding in their own dtype may leave."""
    rounding = torch.finfo(points.dtype).eps * points.abs().max()
    return bool((points - points[0]).abs().max() <= 4 * rounding)


def _translation_of_means(points_a: Tensor, points_b: Tensor) -> Tensor:
    return rigid(torch.eye(3).to(points_a), points_b.mean(dim=0) - points_a.mean(dim=0))


def _check(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape or len(true) < 1:
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true points cannot be aligned; wanted the same number, "
            "at least 1"
        )
    for name, points in (("predicted", predicted), ("true", true)):
        if not points.isfinite().all():
            wrong = int((~points.isfinite().all(dim=-1)).sum())
            raise ValueError(f"{wrong} of {len(points)} {name} points are not finite; leave them out before aligning")
