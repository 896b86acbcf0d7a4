"""Dynamic probability by evidence: residual flow, verified depth and the network's probability, cut along edges."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import DYNAMIC_THRESHOLD, Clip, Scene
from recon4d.refine.dynamic.background import background_evidence
from recon4d.refine.dynamic.residual_flow import ResidualFlow, residual_flow
from recon4d.refine.grayscale import grayscale_images, working_size

SIDE = 256
"""Side in pixels of the square with the largest area at which flow is computed. Hand-tuned."""
STATIC_NOISE = 0.0015
"""Scale of the half-Cauchy distribution of residuals of static pixels, as a fraction of the longer side. Hand-tuned."""
WRONG_FLOW = 0.1
"""Share of wrong but reliable-looking flow of static pixels. Hand-tuned."""
MEAN_MOTION = 0.03
"""Mean of the exponential distribution of residuals of moving pixels, as a fraction of the longer side. Hand-tuned."""
LARGEST_MOTION = 0.2
"""Range of the uniform distribution of wrong flow, as a fraction of the longer side. Hand-tuned."""
MAX_EVIDENCE = 2.5
"""Largest absolute log-likelihood ratio of one neighbor. Hand-tuned."""
RELIABLE_IF_MOVING = 0.4
"""Share of reliable flow of moving pixels: less than of static ones, since motion hides what was seen. Hand-tuned."""
UNRELIABLE_RANGE = (0.05, 0.6)
"""Range of the log-likelihood ratio of unreliable flow. Hand-tuned."""
NUM_INDEPENDENT = 2.0
"""Number of neighbors that the evidence of all neighbors together counts as: their errors depend on each other.
Hand-tuned."""
VERIFIED_EVIDENCE = -3.0
"""Log-likelihood ratio of pixels whose depth other frames verify. Hand-tuned."""
PRIOR_WEIGHT, MAX_PRIOR = 1.2, 2.5
"""Weight of the network's log odds, and their largest absolute value. Hand-tuned."""
STATIC_RESIDUAL, MOVING_RESIDUAL = 0.003, 0.008
"""Residuals below and above which flow clearly tells static from moving pixels, as fractions of the longer side.
Hand-tuned."""
AGREEMENT_RANGE = (0.25, 0.45)
"""Share of moving pixels, among those that the network takes for moving and flow clearly decides, at which the network
has no weight and full weight. Hand-tuned."""
MAX_DYNAMIC_SHARE = 0.7
"""Largest share of clearly moving pixels: with more, the cameras are more likely those of an object. Hand-tuned."""
FILTER_RADIUS = 0.03
"""Radius of the window in which evidence follows the edges of the image, as a fraction of the longer side.
Hand-tuned."""
FILTER_STEP = 2
"""Distance of the pixels at which the filter is fitted (fast guided filter, He and Sun 2015). Hand-tuned."""
FILTER_VARIANCE = 1e-3
"""Variance of colors in [0, 1] within a window above which edges are kept. Hand-tuned."""
MAX_LOG_ODDS = 4.0
"""Largest absolute log odds. Hand-tuned."""
MOVING_LOG_ODDS = 0.3
"""Smallest log odds of a moving pixel after filtering. Hand-tuned."""
MIN_AREA = 0.002
"""Smallest area of a moving region, as a fraction of the image. Hand-tuned."""
PEAK_QUANTILE, MIN_PEAKS = 0.9, (2.6, 0.5)
"""Quantile of the log odds of a region, and its smallest values if the network has no weight and at least the weight
`SUFFICIENT_TRUST`. Hand-tuned."""
SUFFICIENT_TRUST = 0.5
"""Weight of the network from which regions need no more evidence of their own than with full weight. Hand-tuned."""


def find_dynamic_pixels(
    clip: Clip,
    scene: Scene,
    verified: Bool[Tensor, "time height width"] | None = None,
    is_rotation_only: bool = False,
) -> Float[Tensor, "time height width"] | None:
    """Estimate which pixels move, given cameras that are exact.

    Args:
        clip: A single clip of at least two frames.
        scene: Its scene with refined cameras; `dynamic` is the probability that a network predicted.
        verified: Pixels whose depth several frames verify, at the size of the scene; None if there are none.
        is_rotation_only: Whether the cameras only rotate, so that all frames show the same background.

    Returns:
        Probability that each pixel moves, at the size of the scene; None if the pictures contradict the cameras at
        most places, so that they tell nothing about motion.
    """
    size = working_size(scene.size, SIDE)
    small = scene.resized(*size)
    flows = residual_flow(grayscale_images(clip, size), small)
    evidence = _Evidence.create(flows, small.dynamic, _resized_mask(verified, size))
    if evidence.dynamic_share > MAX_DYNAMIC_SHARE:
        return None
    log_odds = evidence.log_odds
    if is_rotation_only:
        log_odds = log_odds + background_evidence(clip, small.cameras, size)
    log_odds = F.interpolate(log_odds[:, None], scene.size, mode="bilinear", align_corners=False)
    log_odds = _along_edges(clip, log_odds.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS))
    moving = torch.stack([_large_regions(one, evidence.trust_in_network) for one in log_odds])
    probability = (log_odds - MOVING_LOG_ODDS).sigmoid()
    # Exactly the pixels of accepted regions are above the threshold.
    return torch.where(
        moving, probability.clamp(min=DYNAMIC_THRESHOLD + 1e-3), probability.clamp(max=DYNAMIC_THRESHOLD)
    )


@dataclass(frozen=True)
class _Evidence:
    """Log odds of motion at the size at which flow was computed."""

    log_odds: Float[Tensor, "time height width"]
    trust_in_network: float
    """Weight of the network's probability in [0, 1]."""
    dynamic_share: float
    """Share of moving pixels among those that flow clearly decides."""

    @staticmethod
    def create(
        flows: list[ResidualFlow],
        predicted: Float[Tensor, "time height width"],
        verified: Bool[Tensor, "time height width"] | None,
    ) -> "_Evidence":
        side = max(predicted.shape[-2:])
        predicted = predicted.nan_to_num(0.5)
        is_predicted = predicted > DYNAMIC_THRESHOLD
        clear = [_clear_counts(flow, side) for flow in flows]
        moving, static = (torch.stack(part) for part in zip(*clear, strict=True))
        trust = _fraction_of_range(_share(moving[is_predicted], static[is_predicted]), AGREEMENT_RANGE)
        unreliable = _unreliable_evidence(flows, ~is_predicted if verified is None else ~is_predicted | verified)
        log_odds = torch.stack([_flow_evidence(flow, side, unreliable) for flow in flows])
        prior = PRIOR_WEIGHT * torch.logit(predicted, eps=1e-2)
        log_odds = log_odds + trust * prior.clamp(-MAX_PRIOR, MAX_PRIOR)
        if verified is not None:
            log_odds = torch.where(verified, log_odds.clamp(max=VERIFIED_EVIDENCE), log_odds)
        return _Evidence(log_odds, trust, _share(moving, static))


def _clear_counts(flow: ResidualFlow, side: int) -> tuple[Tensor, Tensor]:
    """Count the neighbors whose flow clearly tells that a pixel moves, and that it does not."""
    moving = flow.is_reliable & (flow.residuals > MOVING_RESIDUAL * side)
    static = flow.is_reliable & (flow.residuals < STATIC_RESIDUAL * side)
    return moving.sum(dim=0), static.sum(dim=0)


def _share(dynamic: Tensor, static: Tensor) -> float:
    total = int(dynamic.sum()) + int(static.sum())
    return int(dynamic.sum()) / total if total else 0.0


def _fraction_of_range(value: float, ends: tuple[float, float]) -> float:
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))


def _unreliable_evidence(flows: list[ResidualFlow], is_static: Bool[Tensor, "time height width"]) -> float:
    """Compute the log-likelihood ratio of unreliable flow, given how often flow of probably static pixels is."""
    seen, unreliable = (
        torch.stack([part.sum(dim=0) for part in parts])[is_static].sum()
        for parts in (
            [flow.is_in_view for flow in flows],
            [flow.is_in_view & ~flow.is_reliable for flow in flows],
        )
    )
    failing = float(unreliable) / max(int(seen), 1)
    ratio = math.log((1 - RELIABLE_IF_MOVING) / max(failing, 0.02))
    return min(max(ratio, UNRELIABLE_RANGE[0]), UNRELIABLE_RANGE[1])


def _flow_evidence(flow: ResidualFlow, side: int, unreliable: float) -> Float[Tensor, "height width"]:
    """Add the log-likelihood ratios of all neighbors, moving against static."""
    residuals, scale, uniform = flow.residuals, STATIC_NOISE * side, 1 / (LARGEST_MOTION * side)
    cauchy = 2 / (math.pi * scale) / (1 + (residuals / scale).square())
    if_static = (1 - WRONG_FLOW) * cauchy + WRONG_FLOW * uniform
    if_moving = 0.8 * torch.exp(-residuals / (MEAN_MOTION * side)) / (MEAN_MOTION * side) + 0.2 * uniform
    ratios = (if_moving / if_static).log().clamp(-MAX_EVIDENCE, MAX_EVIDENCE)
    ratios = torch.where(flow.is_reliable, ratios, unreliable)
    is_used = flow.is_reliable | flow.is_in_view
    return NUM_INDEPENDENT * torch.where(is_used, ratios, 0.0).sum(dim=0) / is_used.sum(dim=0).clamp(min=1)


def _resized_mask(
    mask: Bool[Tensor, "time height width"] | None, size: tuple[int, int]
) -> Bool[Tensor, "time new_height new_width"] | None:
    if mask is None:
        return None
    return F.interpolate(mask[:, None].float(), size, mode="area")[:, 0] > 0.5


def _along_edges(clip: Clip, log_odds: Float[Tensor, "time 1 height width"]) -> Float[Tensor, "time height width"]:
    """Smooth log odds within surfaces of similar color (guided filter, He et al. 2013), frame by frame."""
    from kornia.filters import guided_blur

    size = (log_odds.shape[2], log_odds.shape[3])
    window = 2 * max(2, round(FILTER_RADIUS * max(size))) + 1
    smoothed = []
    for image, one in zip(clip.images, log_odds, strict=True):
        color = F.interpolate(image[None].float() / 255, size, mode="bilinear", antialias=True, align_corners=False)
        smoothed.append(guided_blur(color, one[None], window, FILTER_VARIANCE, subsample=FILTER_STEP)[0, 0])
    return torch.stack(smoothed)


def _large_regions(log_odds: Float[Tensor, "height width"], trust_in_network: float) -> Bool[Tensor, "height width"]:
    """Select connected regions of moving pixels that are large and contain strong evidence."""
    import cv2

    mask = (log_odds > MOVING_LOG_ODDS).numpy().astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    trust = min(1.0, trust_in_network / SUFFICIENT_TRUST)
    min_peak = MIN_PEAKS[0] + trust * (MIN_PEAKS[1] - MIN_PEAKS[0])
    values, result = log_odds.numpy(), np.zeros(mask.shape, dtype=bool)
    for label in range(1, count):
        region = labels == label
        is_large = statistics[label, cv2.CC_STAT_AREA] >= MIN_AREA * mask.size
        if is_large and np.quantile(values[region], PEAK_QUANTILE) >= min_peak:
            result |= region
    return torch.from_numpy(result)
