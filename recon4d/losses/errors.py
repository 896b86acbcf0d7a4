"""Building blocks of losses: vector lengths that are smooth at zero, and errors weighted by predicted confidence."""

from jaxtyping import Float
from torch import Tensor

CONFIDENCE_REWARD = 0.1
"""Alpha, the weight of the log confidence: the confidence of least loss is alpha / error. Hand-tuned."""
MAX_CONFIDENCE = 3000.0
"""Confidence is clamped to this value, so that a single pixel cannot outweigh a clip. Hand-tuned."""


def smooth_length(vectors: Float[Tensor, "*batch axis"], smoothness: float) -> Float[Tensor, "*batch"]:
    """Compute sqrt(|v|^2 + s^2) - s, a length with a gradient everywhere (pseudo-Huber).

    Args:
        vectors: Vectors along the last axis.
        smoothness: The scale s, in the unit of the vectors. The result is quadratic far below it and approaches the
            length far above it.

    Returns:
        Smooth lengths.
    """
    squared = vectors.square().sum(dim=-1)
    # Equal to the formula above, but without subtracting two nearly equal numbers.
    return squared / ((squared + smoothness**2).sqrt() + smoothness)


def confidence_weighted_error(
    errors: Float[Tensor, "*shape"], confidence: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Compute e + c e - alpha log c for each error e and its confidence c.

    The confidence terms follow Kendall and Gal (2017) and DUSt3R (Wang et al. 2024). The plain error is added as in
    VGGT, so that the network still learns where its confidence is low.

    Args:
        errors: Errors, not negative.
        confidence: Predicted confidence, above 0; clamped to `MAX_CONFIDENCE`.

    Returns:
        Weighted errors, which are negative where confidence is high and the error is small.
    """
    confidence = confidence.clamp(max=MAX_CONFIDENCE)
    return errors + errors * confidence - CONFIDENCE_REWARD * confidence.log()
