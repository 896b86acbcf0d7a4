"""Recognition of places by their local features: one vector for each keyframe, whose products tell how alike two are.

The vector is a VLAD (Jegou et al. 2010) of RootSIFT features with normalized residuals (Arandjelovic and Zisserman
2013, "All about VLAD"), over a vocabulary that is learned from the clip itself. Features survive changes of view and
light that change a whole picture; the vectors only propose pairs, and geometry decides.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices
from recon4d.inference.windows.layout import Window
from recon4d.io.long_clips import LongClip
from recon4d.refine.localization.features import detect_features

NUM_WORDS = 32
"""Number of words of the vocabulary. Hand-tuned."""
MAX_FEATURES = 600
"""Largest number of features of a keyframe. Hand-tuned."""
VOCABULARY_KEYFRAMES = 48
"""Largest number of keyframes from which the vocabulary is learned. Hand-tuned."""
KEYFRAMES_PER_WINDOW = 3
"""Number of keyframes of a window. Hand-tuned."""
NUM_STEPS = 10
"""Number of steps of k-means. Hand-tuned."""


def choose_keyframes(window: Window) -> list[int]:
    """Choose evenly spaced keyframes among the frames that a window owns.

    Args:
        window: The window.

    Returns:
        Ascending frame numbers.
    """
    count = min(KEYFRAMES_PER_WINDOW, len(window.owned))
    return [window.owned[(2 * k + 1) * len(window.owned) // (2 * count)] for k in range(count)]


def describe_places(long_clip: LongClip, keyframes: Sequence[int]) -> Float[Tensor, "keyframe values"]:
    """Describe keyframes by one vector each. The result is deterministic.

    Args:
        long_clip: The clip to read.
        keyframes: Ascending frame numbers.

    Returns:
        Vectors of norm 1, or 0 for pictures without features; their products are larger for more similar places.
    """
    chosen = evenly_spaced_indices(len(keyframes), VOCABULARY_KEYFRAMES).tolist()
    images = long_clip.images([keyframes[place] for place in chosen])
    words = _learn_words(torch.cat([detect_features(image, MAX_FEATURES).descriptors for image in images]))
    described = [
        _vlad(detect_features(image, MAX_FEATURES).descriptors, words) for image in long_clip.images(keyframes)
    ]
    return torch.stack(described)


def _learn_words(descriptors: Float[Tensor, "n 128"]) -> Float[Tensor, "word 128"]:
    """Cluster descriptors by k-means, from evenly spaced ones."""
    words = descriptors[evenly_spaced_indices(len(descriptors), NUM_WORDS)]
    for _ in range(NUM_STEPS if len(words) else 0):
        nearest = (descriptors @ words.T - words.square().sum(dim=1) / 2).argmax(dim=1)
        counts = torch.bincount(nearest, minlength=len(words))
        sums = torch.zeros_like(words).index_add(0, nearest, descriptors)
        words = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], words)
    return words


def _vlad(descriptors: Float[Tensor, "n 128"], words: Float[Tensor, "word 128"]) -> Float[Tensor, "values"]:
    if not len(descriptors) or not len(words):
        return torch.zeros(NUM_WORDS * 128)
    nearest = (descriptors @ words.T - words.square().sum(dim=1) / 2).argmax(dim=1)
    residuals = torch.zeros(NUM_WORDS, 128).index_add(0, nearest, descriptors - words[nearest])
    return F.normalize(F.normalize(residuals, dim=1).flatten(), dim=0)
