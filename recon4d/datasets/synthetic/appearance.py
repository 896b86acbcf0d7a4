"""Appearance of synthetic scenes: surfaces, light and sky, and the photometric response of the camera."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import CounterRng
from recon4d.datasets.synthetic.scene import (
    ENCLOSURE_FACES,
    Light,
    Photometry,
    Surfaces,
    SyntheticConfig,
)
from recon4d.geometry import rotation_from_axis_angle

PATTERNS = ("clouds", "cracks", "cells", "stripes", "checks", "plain")
"""Procedural patterns, in the order of `Surfaces.pattern`."""
TEXTURED_SHARE = 0.6
"""Fraction of surfaces that use an image texture if there are any. Hand-tuned."""


def draw_surfaces(
    rng: CounterRng, config: SyntheticConfig, outdoors: Bool[Tensor, "batch"], num_textures: int
) -> Surfaces:
    """Draw the appearance of every primitive and every face of the enclosure.

    Args:
        rng: Random streams, one per scene.
        config: Configuration of the scenes.
        outdoors: Scenes under a sky: their ceiling is sky, and in most of them the walls are, too.
        num_textures: Number of image textures to choose from.

    Returns:
        The surfaces.
    """
    count = config.primitives + ENCLOSURE_FACES
    is_enclosure = torch.arange(count, device=outdoors.device)[None, :, None] >= config.primitives
    brightness = rng.uniform(count, 3, 1, low=0.03, high=0.97)
    colors = (brightness + rng.normal(count, 3, 3) * rng.uniform(count, 1, 1, high=0.3)).clamp(0, 1)
    frequency = rng.log_uniform(count, 1, low=0.5, high=6.0)
    frequency = torch.where(is_enclosure, 0.5 * frequency, frequency)
    frequency = torch.where(is_enclosure & outdoors[:, None, None], 0.6 * frequency, frequency)
    rotation = rotation_from_axis_angle(1.5 * rng.normal(count, 3) * rng.bernoulli(count, 1, probability=0.5))
    stretch = frequency * rng.log_uniform(count, 3, low=0.6, high=1.6)
    has_walls = ~outdoors | rng.bernoulli(probability=0.35)
    sky = torch.zeros(len(outdoors), count, dtype=torch.bool, device=outdoors.device)
    sky[:, config.primitives : config.primitives + 4] = ~has_walls[:, None]
    sky[:, config.primitives + 4] = outdoors
    texture = rng.integers(count, below=max(num_textures, 1))
    has_texture = rng.bernoulli(count, probability=TEXTURED_SHARE) & (num_textures > 0)
    return Surfaces(
        colors=colors,
        pattern_from_local=rotation * stretch[..., None],
        offset=rng.uniform(count, 3, high=8.0),
        pattern=rng.integers(count, below=len(PATTERNS)),
        sharpness=rng.log_uniform(count, low=1.0, high=8.0),
        grain=rng.uniform(count, high=0.9),
        warp=rng.uniform(count),
        texture=torch.where(has_texture, texture, torch.full_like(texture, -1)),
        is_sky=sky,
    )


def draw_light(rng: CounterRng) -> Light:
    """Draw a sun above the horizon, ambient light and sky colors.

    Args:
        rng: Random streams, one per scene.

    Returns:
        The light.
    """
    direction = rng.normal(3)
    direction = torch.cat([direction[:, :2], direction[:, 2:].abs() + 0.5], dim=1)
    ambient = rng.uniform(low=0.3, high=0.75)
    blue = rng.uniform(1, low=0.3, high=1.0) * ambient.new_tensor([0.75, 0.88, 1.0])
    return Light(
        direction=F.normalize(direction, dim=-1),
        ambient=ambient,
        direct=(1 - ambient) * rng.uniform(low=0.7, high=1.5),
        shadow=rng.uniform(),
        tint=1 + 0.08 * rng.normal(3),
        zenith=blue,
        horizon=rng.uniform(1, low=0.5, high=1.0).expand(-1, 3),
    )


def draw_photometry(rng: CounterRng, num_frames: int) -> Photometry:
    """Draw a slightly flickering exposure, gamma, noise, and in most clips a slight blur.

    Args:
        rng: Random streams, one per scene.
        num_frames: Number of frames of a clip.

    Returns:
        The photometric properties.
    """
    return Photometry(
        exposure=rng.log_uniform(1, low=0.75, high=1.35) * (1 + 0.04 * rng.normal(num_frames)),
        gamma=rng.log_uniform(low=0.75, high=1.3),
        blur=rng.uniform(high=0.8) * rng.bernoulli(probability=0.6),
        noise=rng.log_uniform(low=0.003, high=0.03),
        noise_key=rng.bits(),
    )


def expose(
    colors: Float[Tensor, "batch time 3 height width"], photometry: Photometry
) -> Float[Tensor, "batch time 3 height width"]:
    """Convert light to image values: exposure relative to the clip's mean brightness, gamma, blur and noise.

    Args:
        colors: Linear light.
        photometry: Photometric properties of the camera.

    Returns:
        Images in [0, 1].
    """
    mean = colors.mean(dim=(1, 2, 3, 4), keepdim=True)
    exposed = colors.clamp(min=1e-4) * (0.42 / mean.clamp(min=0.02)) ** 0.8
    exposed = (exposed * photometry.exposure[:, :, None, None, None]).clamp(1e-4, 1)
    exposed = exposed ** photometry.gamma[:, None, None, None, None]
    flat = exposed.flatten(0, 1)
    blurred = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1).view_as(exposed)
    exposed = exposed + photometry.blur[:, None, None, None, None] * (blurred - exposed)
    noise = CounterRng(photometry.noise_key).normal(math.prod(exposed.shape[1:])).view_as(exposed)
    return (exposed + photometry.noise[:, None, None, None, None] * noise).clamp(0, 1)
