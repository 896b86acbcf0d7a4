"""How a world looks: paint of every surface, light and sky, and what the camera does to it."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import Draws
from recon4d.datasets.synthetic.scene import (
    ROOM_FACES,
    Light,
    Photometry,
    Surfaces,
    SyntheticConfig,
)
from recon4d.geometry import rotation_from_axis_angle

PATTERNS = ("clouds", "cracks", "cells", "stripes", "checks", "plain")
PICTURE_SHARE = 0.6
"""Of surfaces that wear an image texture where there are any."""


def draw_surfaces(
    draws: Draws, config: SyntheticConfig, outdoors: Bool[Tensor, "batch"], num_pictures: int
) -> Surfaces:
    """Paint for every primitive and every face of the room; outdoors the ceiling, and mostly the walls, are sky."""
    count = config.primitives + ROOM_FACES
    is_room = torch.arange(count, device=outdoors.device)[None, :, None] >= config.primitives
    brightness = draws.uniform(count, 3, 1, low=0.03, high=0.97)
    colors = (brightness + draws.normal(count, 3, 3) * draws.uniform(count, 1, 1, high=0.3)).clamp(0, 1)
    frequency = draws.log_uniform(count, 1, low=0.5, high=6.0)
    frequency = torch.where(is_room, 0.5 * frequency, frequency)
    frequency = torch.where(is_room & outdoors[:, None, None], 0.6 * frequency, frequency)
    turn = rotation_from_axis_angle(1.5 * draws.normal(count, 3) * draws.chance(count, 1, probability=0.5))
    stretch = frequency * draws.log_uniform(count, 3, low=0.6, high=1.6)
    has_walls = ~outdoors | draws.chance(probability=0.35)
    sky = torch.zeros(len(outdoors), count, dtype=torch.bool, device=outdoors.device)
    sky[:, config.primitives : config.primitives + 4] = ~has_walls[:, None]
    sky[:, config.primitives + 4] = outdoors
    picture = draws.integers(count, below=max(num_pictures, 1))
    wears_picture = draws.chance(count, probability=PICTURE_SHARE) & (num_pictures > 0)
    return Surfaces(
        colors=colors,
        pattern_from_local=turn * stretch[..., None],
        offset=draws.uniform(count, 3, high=8.0),
        pattern=draws.integers(count, below=len(PATTERNS)),
        sharpness=draws.log_uniform(count, low=1.0, high=8.0),
        grain=draws.uniform(count, high=0.9),
        warp=draws.uniform(count),
        picture=torch.where(wears_picture, picture, torch.full_like(picture, -1)),
        is_sky=sky,
    )


def draw_light(draws: Draws) -> Light:
    """A sun from above, never from below the horizon."""
    direction = draws.normal(3)
    direction = torch.cat([direction[:, :2], direction[:, 2:].abs() + 0.5], dim=1)
    ambient = draws.uniform(low=0.3, high=0.75)
    blue = draws.uniform(1, low=0.3, high=1.0) * ambient.new_tensor([0.75, 0.88, 1.0])
    return Light(
        direction=F.normalize(direction, dim=-1),
        ambient=ambient,
        direct=(1 - ambient) * draws.uniform(low=0.7, high=1.5),
        shadow=draws.uniform(),
        tint=1 + 0.08 * draws.normal(3),
        zenith=blue,
        horizon=draws.uniform(1, low=0.5, high=1.0).expand(-1, 3),
    )


def draw_photometry(draws: Draws, num_frames: int) -> Photometry:
    """Exposure that flickers a little, gamma, noise, and a slight blur in most clips."""
    return Photometry(
        exposure=draws.log_uniform(1, low=0.75, high=1.35) * (1 + 0.04 * draws.normal(num_frames)),
        gamma=draws.log_uniform(low=0.75, high=1.3),
        blur=draws.uniform(high=0.8) * draws.chance(probability=0.6),
        noise=draws.log_uniform(low=0.003, high=0.03),
        noise_key=draws.bits(),
    )


def expose(
    colors: Float[Tensor, "batch time 3 height width"], photometry: Photometry
) -> Float[Tensor, "batch time 3 height width"]:
    """Light to pictures in [0, 1]: exposure by the clip's own brightness, gamma, blur, noise."""
    mean = colors.mean(dim=(1, 2, 3, 4), keepdim=True)
    exposed = colors.clamp(min=1e-4) * (0.42 / mean.clamp(min=0.02)) ** 0.8
    exposed = (exposed * photometry.exposure[:, :, None, None, None]).clamp(1e-4, 1)
    exposed = exposed ** photometry.gamma[:, None, None, None, None]
    flat = exposed.flatten(0, 1)
    blurred = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1).view_as(exposed)
    exposed = exposed + photometry.blur[:, None, None, None, None] * (blurred - exposed)
    noise = Draws(photometry.noise_key).normal(math.prod(exposed.shape[1:])).view_as(exposed)
    return (exposed + photometry.noise[:, None, None, None, None] * noise).clamp(0, 1)
