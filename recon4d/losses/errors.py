"""What a single error costs: lengths that are smooth at zero, and errors weighed by the confidence beside them."""

from jaxtyping import Float
from torch import Tensor

CONFIDENCE_REWARD = 0.1
"""How much a confident answer is worth: the best confidence is this over the error."""
MAX_CONFIDENCE = 3000.0
"""Confidence is taken to be at most this, so that one lucky pixel does not outweigh a clip."""


def smooth_length(vectors: Float[Tensor, "*batch axis"], smoothness: float) -> Float[Tensor, "*batch"]:
    """sqrt(|v|^2 + s^2) - s: a parabola far below `smoothness`, the length far above it, with a slope everywhere."""
    squared = vectors.square().sum(dim=-1)
    # The same number, without the difference of two that are nearly equal.
    return squared / ((squared + smoothness**2).sqrt() + smoothness)


def confidence_weighted_error(
    errors: Float[Tensor, "*shape"], confidence: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """e + c e - alpha log c (Kendall & Gal 2017; DUSt3R, Wang et al. 2024), and e once more, as in VGGT.

    The plain error keeps teaching where the network has given up hope.
    """
    confidence = confidence.clamp(max=MAX_CONFIDENCE)
    return errors + errors * confidence - CONFIDENCE_REWARD * confidence.log()
