"""Dense optical flow between frames, and where it can be relied on.

Flow is computed by dense inverse search (DIS, Kroeger et al. 2016, OpenCV) from a given start.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.refine.local_contrast import normalize_contrast, window_mean

FINE_PATCH, FINE_STRIDE = 6, 2
"""Side of the patches of the fine search, and the distance between them, in pixels. Hand-tuned."""
MAX_ROUND_TRIP, MAX_RELATIVE_ROUND_TRIP = 1.0, 0.05
"""Largest distance of a pixel from itself after flow there and back, in pixels, and in addition relative to the flow.
Hand-tuned."""
MIN_CORRELATION = 0.5
"""Smallest normalized correlation of the windows about a pixel and its match. Hand-tuned."""
WINDOW = 7
"""Side of these windows, in pixels. Hand-tuned."""


@dataclass(frozen=True)
class Pictures:
    """Gray images between which flow is computed."""

    gray: list[np.ndarray]
    """Images of type uint8."""
    normalized: Float[Tensor, "time height width"]
    """Images with the mean 0 and the variance 1 in the window about each pixel."""

    @staticmethod
    def create(images: Float[Tensor, "time height width"]) -> "Pictures":
        """Prepare images.

        Args:
            images: Gray images in [0, 1].

        Returns:
            The images, on the CPU.
        """
        images = images.cpu()
        return Pictures(list((255 * images).round().clamp(0, 255).byte().numpy()), normalize_contrast(images, WINDOW))

    def flow(
        self, frame: int, neighbor: int, start: Float[Tensor, "height width 2"], is_fine: bool = False
    ) -> Float[Tensor, "height width 2"]:
        """Compute the flow from a frame to another one.

        Args:
            frame: Index of the frame.
            neighbor: Index of the other frame.
            start: Approximate flow, in pixels.
            is_fine: Whether to search to the full size with small patches, so that small objects are not taken along
                with what surrounds them; several times slower.

        Returns:
            The flow (x, y), in pixels.
        """
        import cv2

        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        if is_fine:
            search.setFinestScale(0)
            search.setPatchSize(FINE_PATCH)
            search.setPatchStride(FINE_STRIDE)
        start_array = np.ascontiguousarray(start.float().numpy())
        return torch.from_numpy(search.calc(self.gray[frame], self.gray[neighbor], start_array))

    def correlation(
        self, frame: int, neighbor: int, targets: Float[Tensor, "height width 2"]
    ) -> Float[Tensor, "height width"]:
        """Correlate the window about each pixel with that about its match.

        Args:
            frame: Index of the frame.
            neighbor: Index of the other frame.
            targets: Pixel coordinates (x, y) of the matches in the other frame.

        Returns:
            Normalized correlations, at most 1.
        """
        matched = sample_map(self.normalized[neighbor][..., None], targets)[..., 0]
        # For values with mean 0 and variance 1, the mean squared difference is 2 - 2 * correlation.
        return 1 - 0.5 * window_mean((matched - self.normalized[frame]).square(), WINDOW)


def sample_map(
    values: Float[Tensor, "height width channels"], pixels: Float[Tensor, "rows columns 2"]
) -> Float[Tensor, "rows columns channels"]:
    """Interpolate a map bilinearly.

    Args:
        values: The map; beyond its border, the values of the border.
        pixels: Pixel coordinates (x, y); the center of the first pixel is (0.5, 0.5).

    Returns:
        Its values at these places.
    """
    height, width = values.shape[:2]
    coordinates = 2 * pixels / pixels.new_tensor([width, height]) - 1
    channels_first = values.movedim(-1, 0)[None].to(coordinates)
    sampled = F.grid_sample(channels_first, coordinates[None], padding_mode="border", align_corners=False)
    return sampled[0].movedim(0, -1)


def returns_to_start(
    targets: Float[Tensor, "height width 2"],
    there: Float[Tensor, "height width 2"],
    back: Float[Tensor, "height width 2"],
) -> Bool[Tensor, "height width"]:
    """Check that a match lies inside the other frame, and that flow back from there leads to the same pixel.

    Args:
        targets: Pixel coordinates (x, y) of the matches.
        there: Flow from each pixel to its match.
        back: Flow of the other frame back to this one.

    Returns:
        Whether both are the case.
    """
    height, width = back.shape[:2]
    is_inside = ((targets >= 0) & (targets <= targets.new_tensor([width, height]))).all(dim=-1)
    limit = MAX_ROUND_TRIP + MAX_RELATIVE_ROUND_TRIP * there.norm(dim=-1)
    return is_inside & ((there + sample_map(back, targets)).norm(dim=-1) < limit)
