"""How well cameras explain tracks, each with the best point that they allow: in pixels, and in likelihood."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Cameras
from recon4d.refine.cameras.bundle_adjustment import Problem, adjust_points, residuals
from recon4d.refine.cameras.hypotheses import LocatedTracks, RefineConfig

CAP = 1.0
"""Pixels: what is farther off is wrong, and how wrong does not matter."""


def track_errors(
    cameras: Cameras, judges: LocatedTracks, size: tuple[int, int], cap: float = CAP
) -> Float[Tensor, " track"]:
    """For each track the mean distance in pixels, capped, to the best point that these cameras allow."""
    best = adjust_points(Problem(cameras, judges.tracks, judges.points(cameras), size))
    distance, seen = residuals(cameras, judges.tracks, best)
    return torch.where(seen, distance.clamp(max=cap), 0.0).sum(dim=0) / seen.sum(dim=0)


def negative_log_likelihoods(
    cameras: Cameras, fitted: LocatedTracks, size: tuple[int, int], config: RefineConfig
) -> Float[Tensor, " track"]:
    """For each track the mean of -log likelihood that its pixels are seen `config.noise` off by Cauchy's distribution,
    from the best point that these cameras allow; 0 where all are seen exactly there."""
    noise = config.noise * max(size)
    best = adjust_points(Problem(cameras, fitted.tracks, fitted.points(cameras), size))
    distance, seen = residuals(cameras, fitted.tracks, best)
    misfits = (distance.clamp(max=CAP) / noise).square().log1p()
    return torch.where(seen, misfits, 0.0).sum(dim=0) / seen.sum(dim=0)
