"""Local features of single images and their matches, for large changes of view that corner tracking cannot follow.

Features are SIFT (Lowe 2004) of OpenCV, with the square-root normalization of Arandjelovic and Zisserman 2012
(RootSIFT). Two features match if each is the nearest neighbor of the other and clearly nearer than the second nearest.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d.refine.grayscale import LUMA, working_size

SIDE = 1024
"""Side in pixels of the square with the largest area in which features are detected. Hand-tuned."""
MAX_FEATURES = 4000
"""Largest number of features of an image, those with the strongest contrast. Hand-tuned."""
CONTRAST = 0.02
"""Contrast threshold of OpenCV's SIFT, half of its default: rooms have weak texture. Hand-tuned."""
MAX_RATIO = 0.85
"""Largest distance of a match relative to the second nearest neighbor. Hand-tuned."""


@dataclass(frozen=True)
class Features:
    """Features of an image."""

    pixels: Float[Tensor, "n 2"]
    """Pixel coordinates (x, y) in the image; the center of the first pixel is (0.5, 0.5)."""
    descriptors: Float[Tensor, "n 128"]
    """Descriptors of unit norm, the strongest features first."""

    def __len__(self) -> int:
        """Number of features."""
        return len(self.pixels)

    def take(self, index: Int[Tensor, " m"] | Bool[Tensor, " n"] | slice) -> "Features":
        """Select features.

        Args:
            index: Which ones.

        Returns:
            The selected features.
        """
        return Features(self.pixels[index], self.descriptors[index])


def detect_features(image: UInt8[Tensor, "3 height width"], max_features: int = MAX_FEATURES) -> Features:
    """Detect the features of an image. The result is deterministic.

    Args:
        image: RGB image of shape (3, height, width).
        max_features: Largest number of features.

    Returns:
        The features, in pixels of `image`; none in an image without texture.
    """
    import cv2

    height, width = image.shape[1:]
    gray = torch.einsum("c,chw->hw", torch.tensor(LUMA), image.float())
    size = working_size((height, width), SIDE)
    if size != (height, width):
        gray = F.interpolate(gray[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    sift = cv2.SIFT_create(  # pyright: ignore[reportAttributeAccessIssue]
        nfeatures=max_features, contrastThreshold=CONTRAST, enable_precise_upscale=True
    )
    keypoints, found = sift.detectAndCompute(gray.round().to(torch.uint8).numpy(), None)
    if not keypoints:
        return Features(torch.zeros(0, 2), torch.zeros(0, 128))
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float32) + 0.5
    order = np.lexsort((pixels[:, 0], pixels[:, 1], [-keypoint.response for keypoint in keypoints]))[:max_features]
    factor = torch.tensor([width / size[1], height / size[0]])
    roots = F.normalize(torch.from_numpy(np.asarray(found, dtype=np.float32)[order]), p=1, dim=1).sqrt()
    return Features(torch.from_numpy(pixels[order]) * factor, roots)


def match_features(one: Features, other: Features, max_ratio: float = MAX_RATIO) -> Int[Tensor, "match 2"]:
    """Match the features of two images.

    Args:
        one: Features of the first image.
        other: Features of the second image.
        max_ratio: Largest distance relative to that of the second nearest neighbor, in both directions.

    Returns:
        Indices (match, 2) of matching features in both images.
    """
    if min(len(one), len(other)) < 2:
        return torch.zeros(0, 2, dtype=torch.long)
    similarity = one.descriptors @ other.descriptors.T
    forward, nearest = _distinct_neighbors(similarity, max_ratio)
    backward, back = _distinct_neighbors(similarity.T, max_ratio)
    index = torch.arange(len(one))
    is_match = forward & backward[nearest] & (back[nearest] == index)
    return torch.stack([index[is_match], nearest[is_match]], dim=1)


def _distinct_neighbors(
    similarity: Float[Tensor, "one other"], max_ratio: float
) -> tuple[Bool[Tensor, " one"], Int[Tensor, " one"]]:
    """Return whether the nearest neighbor is clearly nearer than the second, and which it is."""
    values, index = similarity.topk(2, dim=1)
    distances = (2 - 2 * values).clamp(min=0).sqrt()
    return distances[:, 0] < max_ratio * distances[:, 1], index[:, 0]
