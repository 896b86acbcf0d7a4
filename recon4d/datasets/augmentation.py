"""Photometric augmentation of clips: blur, exposure and color, sensor noise and JPEG compression."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.datasets.sampling import random_stream
from recon4d.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Distribution of photometric augmentations. Probabilities are per clip; the default values are hand-tuned.

    Raises:
        UserError: If a value is out of range.
    """

    brightness: float = 0.3
    """Strength x >= 0 of the brightness factor, which is drawn from 1 / (1 + x) to 1 + x."""
    contrast: float = 0.3
    """Strength of the contrast factor, as for `brightness`."""
    saturation: float = 0.3
    """Strength of the saturation factor, as for `brightness`."""
    gamma: float = 0.3
    """Strength of the gamma exponent, as for `brightness`."""
    hue: float = 0.15
    """Largest hue shift in radians, in either direction."""
    gray_probability: float = 0.05
    """Probability of a grayscale clip."""
    blur_probability: float = 0.2
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.2, 1.5)
    """Smallest and largest standard deviation of the blur, in pixels."""
    noise_probability: float = 0.3
    """Probability of sensor noise."""
    noise_sigma: tuple[float, float] = (0.005, 0.04)
    """Smallest and largest standard deviation of the noise, where 1 is full white."""
    jpeg_probability: float = 0.3
    """Probability of JPEG compression."""
    jpeg_quality: tuple[float, float] = (25.0, 90.0)
    """Smallest and largest JPEG quality, from 1 to 100."""
    per_frame_fraction: float = 0.15
    """Range of the variation of frames about their clip, as a fraction of the range of clips.

    It models drift of exposure and white balance. At 0 all frames of a clip are augmented equally.
    """

    def __post_init__(self) -> None:
        strengths = (self.brightness, self.contrast, self.saturation, self.gamma, self.hue)
        probabilities = (self.gray_probability, self.blur_probability, self.noise_probability, self.jpeg_probability)
        fractions = (*probabilities, self.per_frame_fraction)
        if min(strengths) < 0 or not all(0 <= fraction <= 1 for fraction in fractions):
            raise UserError(
                f"augmentation strengths {strengths}, probabilities {probabilities} and "
                f"per_frame_fraction = {self.per_frame_fraction}; wanted strengths of at least 0 and others from 0 to 1"
            )
        if (
            self.blur_sigma[0] <= 0
            or self.noise_sigma[0] < 0
            or not 1 <= min(self.jpeg_quality) <= max(self.jpeg_quality) <= 100
        ):
            raise UserError(
                f"blur_sigma = {self.blur_sigma}, noise_sigma = {self.noise_sigma}, "
                f"jpeg_quality = {self.jpeg_quality}; "
                "wanted blur_sigma above 0, noise_sigma of at least 0 and jpeg_quality from 1 to 100"
            )


def augment_colors(
    images: UInt8[Tensor, "time 3 height width"], augmentation: Augmentation, seed: int
) -> UInt8[Tensor, "time 3 height width"]:
    """Augment the appearance of a clip on the CPU.

    The operations follow the path of light: lens blur, exposure and color, sensor noise, JPEG. The parameters are drawn
    once for the clip and vary slightly between its frames.

    Args:
        images: Frames of the clip, RGB.
        augmentation: Distribution of the parameters.
        seed: Seed of the parameters and of the noise. The same seed gives the same bytes.

    Returns:
        Augmented frames of the same shape.
    """
    from kornia.enhance import jpeg_codec_differentiable
    from kornia.filters import gaussian_blur2d

    parameters = _ClipParameters(augmentation, len(images), random_stream(seed, "colors"))
    augmented = images.float() / 255
    if parameters.bernoulli(augmentation.blur_probability):
        sigma = parameters.uniform(*augmentation.blur_sigma)[:, None].expand(-1, 2)
        radius = min(math.ceil(3 * float(sigma.max())), min(images.shape[-2:]) - 1)
        augmented = gaussian_blur2d(augmented, 2 * radius + 1, sigma)
    augmented = _adjust_colors(augmented, augmentation, parameters)
    if parameters.bernoulli(augmentation.noise_probability):
        sigma = parameters.uniform(*augmentation.noise_sigma)[:, None, None, None]
        augmented = (augmented + sigma * parameters.noise(augmented.shape)).clamp(0, 1)
    if parameters.bernoulli(augmentation.jpeg_probability):
        augmented = jpeg_codec_differentiable(augmented, parameters.uniform(*augmentation.jpeg_quality).clamp(1, 100))
    return (255 * augmented).round().clamp(0, 255).to(torch.uint8)


def _adjust_colors(
    images: Float[Tensor, "time 3 height width"], augmentation: Augmentation, parameters: "_ClipParameters"
) -> Float[Tensor, "time 3 height width"]:
    """Adjust gamma, brightness, contrast, saturation and hue, and convert some clips to grayscale."""
    from kornia.color import rgb_to_grayscale
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_gamma,
        adjust_hue,
        adjust_saturation,
    )

    images = adjust_gamma(images, parameters.log_uniform(augmentation.gamma))
    images = adjust_brightness_accumulative(images, parameters.log_uniform(augmentation.brightness))
    images = adjust_contrast_with_mean_subtraction(images, parameters.log_uniform(augmentation.contrast))
    images = adjust_saturation(images, parameters.log_uniform(augmentation.saturation))
    images = adjust_hue(images, parameters.symmetric_uniform(augmentation.hue))
    # Grayscale is decided once per clip, because a film is gray in all of its frames.
    is_gray = parameters.bernoulli(augmentation.gray_probability)
    return rgb_to_grayscale(images).expand_as(images) if is_gray else images


class _ClipParameters:
    """Random parameters of one clip: a common value, and a small deviation for each frame."""

    def __init__(self, augmentation: Augmentation, num_frames: int, rng: np.random.Generator) -> None:
        self._per_frame_fraction = augmentation.per_frame_fraction
        self._num_frames = num_frames
        self._rng = rng

    def bernoulli(self, probability: float) -> bool:
        """Draw whether an operation is applied to the clip."""
        return bool(self._rng.random() < probability)

    def symmetric_uniform(self, bound: float) -> Float[Tensor, " time"]:
        """Draw a value from -bound to bound for the clip, plus a smaller deviation for each frame."""
        of_clip = self._rng.uniform(-1, 1)
        of_frames = self._rng.uniform(-1, 1, self._num_frames)
        return torch.from_numpy(bound * (of_clip + self._per_frame_fraction * of_frames)).float()

    def log_uniform(self, strength: float) -> Float[Tensor, " time"]:
        """Draw factors from 1 / (1 + strength) to 1 + strength, uniform in the logarithm."""
        return self.symmetric_uniform(math.log1p(strength)).exp()

    def uniform(self, low: float, high: float) -> Float[Tensor, " time"]:
        """Draw values from low to high. Frames are clamped to the same range."""
        return ((low + high) / 2 + self.symmetric_uniform((high - low) / 2)).clamp(low, high)

    def noise(self, shape: torch.Size) -> Tensor:
        """Draw standard normal noise."""
        return torch.from_numpy(self._rng.standard_normal(tuple(shape), dtype=np.float32))
