"""Low-resolution images of a clip, the share of corners that two of them have in common, and how they differ.

Corners (Shi and Tomasi 1994) are tracked by pyramidal Lucas-Kanade (Bouguet 2001) and back. A corner survives if the
way back ends where it began. Images are normalized by their local contrast, so that brightness does not matter.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8

LONGER_SIDE = 192
"""Longer side in pixels of the images in which corners are tracked. Hand-tuned: 1-2 ms per pair of images."""
MAX_CORNERS = 150
"""Largest number of corners per image. Hand-tuned."""
MIN_CORNERS = 12
"""Smallest number of corners from which a share says something. Hand-tuned."""
CORNER_QUALITY, CORNER_DISTANCE = 0.02, 6
"""Smallest response of a corner relative to the strongest one, and smallest distance of two in pixels. Hand-tuned."""
WINDOW, LEVELS = 13, 3
"""Side of the tracking window in pixels, and number of pyramid levels above the finest. Hand-tuned."""
ROUND_TRIP = 1.0
"""Largest distance in pixels between a corner and the end of its way there and back. Hand-tuned."""
ENOUGH_FOUND = 0.7
"""Share of corners from which no second search, from the translation of the whole image, is made. Hand-tuned."""
NCC_WINDOW = 9
"""Side in pixels of the windows around a corner that are compared in the two images. Hand-tuned."""
MIN_NCC = 0.6
"""Smallest correlation of these windows. Hand-tuned: in pairs of unrelated images, 6 % of the corners pass at most."""
CONTRAST_RADIUS, CONTRAST_FLOOR = 8, 3.0
"""Radius in pixels of the window of local contrast, and contrast in gray levels that counts as noise. Hand-tuned."""
TINY_SIZE = (24, 16)
"""Width and height in pixels of the image that tells how alike two images are as a whole."""


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A low-resolution image with what comparisons need."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB image."""

    @cached_property
    def gray(self) -> UInt8[np.ndarray, "height width"]:
        """Gray image normalized by local contrast."""
        import cv2

        gray = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        size = (2 * CONTRAST_RADIUS + 1,) * 2
        centered = gray - cv2.blur(gray, size)
        contrast = np.sqrt(np.maximum(cv2.blur(centered * centered, size), 0.0))
        return np.clip(128 + 48 * centered / (contrast + CONTRAST_FLOOR), 0, 255).astype(np.uint8)

    @cached_property
    def corners(self) -> Float[np.ndarray, "corner 2"]:
        """Pixels of the corners."""
        import cv2

        found = cv2.goodFeaturesToTrack(self.gray, MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE)
        return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)

    @cached_property
    def tiny(self) -> Float[np.ndarray, "value"]:
        """Colors of the image at very low resolution, in one row."""
        import cv2

        return cv2.resize(self.pixels, TINY_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()

    @cached_property
    def colors(self) -> Float[np.ndarray, "bin"]:
        """Shares of the colors, by hue and saturation (brightness jumps change these least) and coarse brightness."""
        import cv2

        hsv = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2HSV)
        counts = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 4], [0, 180, 0, 256, 0, 256]).ravel()
        smooth = cv2.GaussianBlur(counts.reshape(12, 16), (3, 3), 0).ravel()
        return smooth / smooth.sum()


def track(
    first: Thumbnail, second: Thumbnail, corners: Float[np.ndarray, "corner 2"]
) -> tuple[Float[np.ndarray, "found 2"], np.ndarray]:
    """Track corners from one image to another.

    Args:
        first: Image of the corners.
        second: Image of the same size.
        corners: Pixels of the corners.

    Returns:
        The pixels of the corners that survive in `second`, and their indices in `corners`.
    """
    if len(corners) == 0 or first.gray.shape != second.gray.shape:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    pixels, is_found = _track_from(first, second, corners, corners)
    if is_found.mean() < ENOUGH_FOUND:
        shifted, is_found_shifted = _track_from(first, second, corners, corners + _shift(first, second))
        is_new = is_found_shifted & ~is_found
        pixels[is_new], is_found = shifted[is_new], is_found | is_new
    indices = np.flatnonzero(is_found)
    return pixels[indices], indices


def _track_from(
    first: Thumbnail, second: Thumbnail, corners: Float[np.ndarray, "corner 2"], start: Float[np.ndarray, "corner 2"]
) -> tuple[Float[np.ndarray, "corner 2"], Bool[np.ndarray, "corner"]]:
    """Search for corners around `start`; also return which were found."""
    import cv2

    options = {"winSize": (WINDOW, WINDOW), "maxLevel": LEVELS, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    there, found, _ = cv2.calcOpticalFlowPyrLK(first.gray, second.gray, corners, start.copy(), **options)
    way = start - corners
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(second.gray, first.gray, there, there - way, **options)
    height, width = first.gray.shape
    is_found = (found[:, 0] == 1) & (found_back[:, 0] == 1) & (there >= 0).all(1) & (there < [width, height]).all(1)
    is_found &= np.linalg.norm(back - corners, axis=1) <= ROUND_TRIP
    indices = np.flatnonzero(is_found)
    is_found[indices] = _ncc(_windows(first, corners[indices]), _windows(second, there[indices])) >= MIN_NCC
    return there, is_found


def _shift(first: Thumbnail, second: Thumbnail) -> Float[np.ndarray, "2"]:
    """The translation in pixels by which the images correlate best, for a pan that is too fast for the pyramid."""
    import cv2

    height, width = first.gray.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(first.gray.astype(np.float32), second.gray.astype(np.float32), window)
    return np.array(shift, np.float32)


def survival(first: Thumbnail, second: Thumbnail) -> float:
    """Share of the corners of one image that another one has.

    Args:
        first: Image whose corners are tracked.
        second: Other image.

    Returns:
        Share from 0 to 1; NaN if an image has too few corners to tell.
    """
    if min(len(first.corners), len(second.corners)) < MIN_CORNERS:
        return float("nan")
    return len(track(first, second, first.corners)[1]) / len(first.corners)


def difference(first: Thumbnail, second: Thumbnail) -> float:
    """Measure how much two images differ as a whole.

    Args:
        first: One image.
        second: Other image.

    Returns:
        From 0 (alike) to 1: the mean of the distance of their colors (Bhattacharyya) and of how little their layouts
        correlate.
    """
    if first.pixels.shape != second.pixels.shape:
        return 1.0
    colors = float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(first.colors * second.colors).sum()))))
    layout = min(1.0, 1.0 - float(_ncc(first.tiny[None], second.tiny[None])[0]))
    return (colors + layout) / 2


def _windows(image: Thumbnail, pixels: Float[np.ndarray, "corner 2"]) -> Float[np.ndarray, "corner value"]:
    """Sample the window around each corner."""
    import cv2

    steps = np.arange(NCC_WINDOW, dtype=np.float32) - NCC_WINDOW // 2
    down, right = (offset.ravel() for offset in np.meshgrid(steps, steps, indexing="ij"))
    columns, rows = pixels[:, :1] + right, pixels[:, 1:] + down
    if not len(pixels):
        return np.zeros((0, NCC_WINDOW**2), np.float32)
    return cv2.remap(image.gray, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _ncc(first: Float[np.ndarray, "row value"], second: Float[np.ndarray, "row value"]) -> Float[np.ndarray, "row"]:
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / np.maximum(norms, 1e-6)
