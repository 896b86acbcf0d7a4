"""The look of a clip augmented, by other light, lens, sensor and compression."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.datasets.sampling import random_numbers


@dataclass(frozen=True)
class Augmentation:
    """How far the look of a clip may change; shares are of all clips."""

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    gamma: float = 0.3
    """These four are drawn as factors (gamma: as exponent) from 1 / (1 + x) to 1 + x."""
    hue: float = 0.15
    """Radians, either way."""
    gray_share: float = 0.05
    blur_share: float = 0.2
    blur_pixels: tuple[float, float] = (0.2, 1.5)
    """Standard deviation of the blur."""
    grain_share: float = 0.3
    grain: tuple[float, float] = (0.005, 0.04)
    """Standard deviation of the sensor's noise, of full white."""
    jpeg_share: float = 0.3
    jpeg_quality: tuple[float, float] = (25.0, 90.0)
    per_frame: float = 0.15
    """What each frame varies about its clip, as a share of what clips vary: exposure and white balance drift a bit."""

    def __post_init__(self) -> None:
        amounts = (self.brightness, self.contrast, self.saturation, self.gamma, self.hue)
        shares = (self.gray_share, self.blur_share, self.grain_share, self.jpeg_share, self.per_frame)
        if min(amounts) < 0 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"amounts {amounts} and shares {shares} of augmentation; wanted at least 0, shares up to 1"
            )
        if (
            self.blur_pixels[0] <= 0
            or self.grain[0] < 0
            or not 1 <= min(self.jpeg_quality) <= max(self.jpeg_quality) <= 100
        ):
            raise ValueError(
                f"blur_pixels = {self.blur_pixels}, grain = {self.grain}, jpeg_quality = {self.jpeg_quality}; "
                "wanted blur above 0, grain from 0, quality in 1 to 100"
            )


def augment_colors(
    images: UInt8[Tensor, "time 3 height width"], augmentation: Augmentation, seed: int
) -> UInt8[Tensor, "time 3 height width"]:
    """The frames as another camera would have recorded them, on the CPU; the same seed gives the same bytes.

    In the order of light: lens (blur), exposure and colors, sensor (grain), file (JPEG). What is drawn for the clip
    holds for all its frames, which differ from it by `per_frame` of what was asked.
    """
    from kornia.enhance import jpeg_codec_differentiable
    from kornia.filters import gaussian_blur2d

    drawn = _Look(augmentation, len(images), random_numbers(seed, "colors"))
    look = images.float() / 255
    if drawn.chance(augmentation.blur_share):
        deviations = drawn.between(*augmentation.blur_pixels)[:, None].expand(-1, 2)
        reach = min(math.ceil(3 * float(deviations.max())), min(images.shape[-2:]) - 1)
        look = gaussian_blur2d(look, 2 * reach + 1, deviations)
    look = _developed(look, augmentation, drawn)
    if drawn.chance(augmentation.grain_share):
        deviations = drawn.between(*augmentation.grain)[:, None, None, None]
        look = (look + deviations * drawn.noise(look.shape)).clamp(0, 1)
    if drawn.chance(augmentation.jpeg_share):
        look = jpeg_codec_differentiable(look, drawn.between(*augmentation.jpeg_quality).clamp(1, 100))
    return (255 * look).round().clamp(0, 255).to(torch.uint8)


def _developed(
    look: Float[Tensor, "time 3 height width"], augmentation: Augmentation, drawn: "_Look"
) -> Float[Tensor, "time 3 height width"]:
    from kornia.color import rgb_to_grayscale
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_gamma,
        adjust_hue,
        adjust_saturation,
    )

    look = adjust_gamma(look, drawn.factor(augmentation.gamma))
    look = adjust_brightness_accumulative(look, drawn.factor(augmentation.brightness))
    look = adjust_contrast_with_mean_subtraction(look, drawn.factor(augmentation.contrast))
    look = adjust_saturation(look, drawn.factor(augmentation.saturation))
    look = adjust_hue(look, drawn.either_way(augmentation.hue))
    # A film is gray from its first frame to its last.
    return rgb_to_grayscale(look).expand_as(look) if drawn.chance(augmentation.gray_share) else look


class _Look:
    """The random numbers behind one clip's look: one for the clip, and a little for each of its frames."""

    def __init__(self, augmentation: Augmentation, num_frames: int, random: np.random.Generator) -> None:
        self._per_frame = augmentation.per_frame
        self._num_frames = num_frames
        self._random = random

    def chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def either_way(self, amount: float) -> Float[Tensor, " time"]:
        """From -amount to amount for the clip, and a smaller part of that for each frame."""
        of_clip = self._random.uniform(-1, 1)
        of_frames = self._random.uniform(-1, 1, self._num_frames)
        return torch.from_numpy(amount * (of_clip + self._per_frame * of_frames)).float()

    def factor(self, amount: float) -> Float[Tensor, " time"]:
        """Brighter as often as darker: symmetric about 1 in the logarithm."""
        return self.either_way(math.log1p(amount)).exp()

    def between(self, low: float, high: float) -> Float[Tensor, " time"]:
        """From low to high for the clip; frames may pass neither."""
        return ((low + high) / 2 + self.either_way((high - low) / 2)).clamp(low, high)

    def noise(self, shape: torch.Size) -> Tensor:
        return torch.from_numpy(self._random.standard_normal(tuple(shape), dtype=np.float32))
