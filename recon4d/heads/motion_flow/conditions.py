"""What is known about the motion of tracks, in a form that does not depend on scale, place and frame rate.

The model of a track before anything is learned is a B-spline whose second differences are white noise, observed with
white noise: a Gaussian process. Its posterior mean continues the observations on a straight line, and its posterior
covariance tells how far the truth may be from there. The flow learns in whitened coordinates of this posterior: it
starts from plausible smooth curves through the observations, and their distances are of order one everywhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry.bsplines import DEGREE, bspline_weights
from recon4d.records.tensors import TensorRecord

SEGMENTS = 4
"""Number of segments of sampled curves over their whole interval. Hand-tuned."""
CONTROLS = SEGMENTS + DEGREE
"""Number of control points of sampled curves."""
CHANNELS = 3 * CONTROLS
"""Number of values of a sample of a track."""
VELOCITY_PENALTY = 0.1
"""Weight of squared first differences relative to second differences: it determines tracks of one observation."""
NOISE_RATIOS = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for the variance of the observations' noise, relative to that of the second differences of control points.
The one with the largest marginal likelihood holds for all tracks of a clip."""
BEND = 0.25
"""Standard deviation of the second differences of control points, in units of the motion. Measured on synthetic
scenes."""
MIN_SCALE = 0.5
"""Smallest unit of the motion, relative to the radius of the tracked points. Hand-tuned."""
FEATURES = CHANNELS + 2 * CONTROLS + 3 + 6
"""Number of features of a track."""


@dataclass(frozen=True, eq=False)
class MotionConditions(TensorRecord):
    """Observed parts of the tracks of a clip, and the distribution of curves before anything is learned."""

    features: Float[Tensor, "*batch track feature"]
    """Input of the flow network, without units."""
    continuation: Float[Tensor, "*batch track control 3"]
    """Posterior mean: control points of smooth curves through the observations that go on straight, in scene units."""
    factor: Float[Tensor, "*batch track control control"]
    """Symmetric root of the posterior covariance of the control points, in scene units."""
    places: Float[Tensor, "*batch track 3"]
    """Mean observed position, relative to the center and in units of the radius of all tracks."""
    motions: Float[Tensor, "*batch track channel"]
    """`continuation` relative to its mean, in units of the motion of the clip."""

    @property
    def traits(self) -> Float[Tensor, "*batch track trait"]:
        """Coordinates in which tracks that move alike are close: place, motion and observed times."""
        coverage = self.features[..., CHANNELS : CHANNELS + CONTROLS]
        return torch.cat([self.places, self.motions / CHANNELS**0.5, coverage], dim=-1)

    def select(self, tracks: Int[Tensor, " chosen"]) -> "MotionConditions":
        """Select tracks of one clip.

        Args:
            tracks: Indices of tracks.

        Returns:
            Their conditions, as parts of the whole clip.
        """
        return self.map(lambda tensor: tensor[tracks])

    def control_points(self, values: Float[Tensor, "*more track channel"]) -> Float[Tensor, "*more track control 3"]:
        """Convert whitened coordinates to curves.

        Args:
            values: Whitened coordinates.

        Returns:
            Control points in scene units.
        """
        return self.continuation + self.factor @ values.unflatten(-1, (CONTROLS, 3))

    def whitened(
        self, control_points: Float[Tensor, "*batch track control 3"]
    ) -> Float[Tensor, "*batch track channel"]:
        """Convert curves to whitened coordinates, the inverse of `control_points`.

        Args:
            control_points: Control points in scene units.

        Returns:
            Whitened coordinates.
        """
        return torch.linalg.solve(self.factor, control_points - self.continuation).flatten(-2)


def motion_conditions(
    points: Float[Tensor, "*batch time track 3"],
    weights: Float[Tensor, "*batch time track"],
    times: Float[Tensor, "*batch time"],
) -> MotionConditions:
    """Describe what was observed of some tracks.

    Args:
        points: World positions; read where the weight is positive.
        weights: Weights from 0 to 1; 0 for what is hidden or lies outside of the clip.
        times: Times from 0 to 1, the interval of the sampled curves.

    Returns:
        The conditions. Tracks need at least one observation each.
    """
    basis = bspline_weights(times * SEGMENTS, SEGMENTS)  # (*batch, time, control)
    is_observed = weights > 0
    points = torch.where(is_observed[..., None], points, 0.0)
    total = weights.sum(dim=-2).clamp(min=1e-6)  # (*batch, track)
    mean = (weights[..., None] * points).sum(dim=-3) / total[..., None]
    center = mean.mean(dim=-2, keepdim=True)
    radius = (mean - center).square().sum(dim=-1).mean(dim=-1).sqrt()[..., None].clamp(min=1e-6)  # (*batch, 1)
    relative = torch.where(is_observed[..., None], points - mean[..., None, :, :], 0.0)
    scale = torch.maximum(_speed(relative, weights, times, total)[..., None], MIN_SCALE * radius)

    # Normal equations in units of the motion, with the noise that explains all tracks best.
    information = torch.einsum("...tk,...tn,...tl->...nkl", basis, weights, basis)
    right = torch.einsum("...tk,...tn,...tnx->...nkx", basis, weights, relative / scale[..., None, None])
    energy = (weights * relative.square().sum(dim=-1)).sum(dim=-2) / scale.square()
    ratio = _noise_ratio(information, right, energy, is_observed)[..., None]  # (*batch, 1)
    precision = information + ratio[..., None, None] * _roughness(information)
    continuation = torch.linalg.solve(precision, right)
    values, vectors = torch.linalg.eigh(precision)
    root = (vectors * values.clamp(min=1e-9).rsqrt()[..., None, :]) @ vectors.mT
    factor = BEND * ratio.sqrt()[..., None, None] * root

    fitted = torch.einsum("...tk,...nkx->...tnx", basis, continuation)
    errors = (weights * (fitted - relative / scale[..., None, None]).square().sum(dim=-1)).sum(dim=-2) / total
    place = (mean - center) / radius[..., None]
    first = torch.where(is_observed, times[..., None], 1.0).amin(dim=-2)
    last = torch.where(is_observed, times[..., None], 0.0).amax(dim=-2)
    own = [
        (scale / radius).log().expand_as(first),
        ratio.log10().expand_as(first),
        errors.sqrt(),
        _speed_of_each(relative / scale[..., None, None], weights, times, total),
        first,
        last,
    ]
    coverage = torch.einsum("...tk,...tn->...nk", basis, weights).clamp(max=1)
    deviation = factor.square().sum(dim=-1).sqrt()
    motions = (continuation - continuation.mean(dim=-2, keepdim=True)).flatten(-2)
    features = [continuation.flatten(-2), coverage, deviation, place, torch.stack(own, dim=-1)]
    return MotionConditions(
        features=torch.cat(features, dim=-1),
        continuation=continuation * scale[..., None, None] + mean[..., None, :],
        factor=factor * scale[..., None, None],
        places=place,
        motions=motions,
    )


def fitted_control_points(
    conditions: MotionConditions, points: Float[Tensor, "*batch time track 3"], times: Float[Tensor, "*batch time"]
) -> Float[Tensor, "*batch track control 3"]:
    """Fit curves to complete tracks: the target of the flow.

    Args:
        conditions: Conditions of the same tracks, whose continuation decides what the positions leave open.
        points: World positions at all times.
        times: Times from 0 to 1.

    Returns:
        Control points.
    """
    basis = bspline_weights(times * SEGMENTS, SEGMENTS)
    normal = basis.mT @ basis
    left = normal + 1e-4 * _roughness(normal)
    errors = points - torch.einsum("...tk,...nkx->...tnx", basis, conditions.continuation)
    right = torch.einsum("...tk,...tnx->...nkx", basis, errors)
    return conditions.continuation + torch.linalg.solve(left[..., None, :, :], right)


def _roughness(like: Tensor) -> Float[Tensor, "control control"]:
    """Return the penalty of second differences, and the small one of first differences."""
    eye = torch.eye(CONTROLS, dtype=like.dtype, device=like.device)
    first, second = eye.diff(dim=0), eye.diff(n=2, dim=0)
    return second.mT @ second + VELOCITY_PENALTY * first.mT @ first


def _speed(relative: Tensor, weights: Tensor, times: Tensor, total: Tensor) -> Float[Tensor, "*batch"]:
    """Return the root mean square speed of all tracks, in scene units per interval."""
    variance = _time_variance(weights, times, total)
    squared = (weights[..., None] * relative.square()).sum(dim=(-3, -2, -1))
    return (squared / variance.sum(dim=-1).clamp(min=1e-4)).sqrt()


def _speed_of_each(relative: Tensor, weights: Tensor, times: Tensor, total: Tensor) -> Float[Tensor, "*batch track"]:
    variance = _time_variance(weights, times, total)
    return ((weights[..., None] * relative.square()).sum(dim=(-3, -1)) / variance.clamp(min=1e-4)).sqrt()


def _time_variance(weights: Tensor, times: Tensor, total: Tensor) -> Float[Tensor, "*batch track"]:
    """Return the weighted sum of squared distances of the observed times from their mean."""
    mean = (weights * times[..., None]).sum(dim=-2) / total
    return (weights * (times[..., None] - mean[..., None, :]).square()).sum(dim=-2)


def _noise_ratio(information: Tensor, right: Tensor, energy: Tensor, is_observed: Tensor) -> Float[Tensor, "*batch"]:
    """Choose among `NOISE_RATIOS` by the marginal likelihood, with the variance of the noise at its optimum."""
    degrees = 3 * (is_observed.sum(dim=-2) - 1).clamp(min=0).sum(dim=-1).clamp(min=1)  # (*batch,)
    roughness = _roughness(information)
    scores = []
    for ratio in NOISE_RATIOS:
        precision = information + ratio * roughness
        explained = (right * torch.linalg.solve(precision, right)).sum(dim=(-2, -1))
        residual = (energy - explained).sum(dim=-1).clamp(min=1e-9)
        determinants = torch.linalg.slogdet(precision).logabsdet - (CONTROLS - 1) * torch.tensor(ratio).log()
        scores.append(-degrees * residual.log() - 3 * determinants.sum(dim=-1))
    best = torch.stack(scores).argmax(dim=0)
    return torch.tensor(NOISE_RATIOS, dtype=information.dtype, device=information.device)[best]
