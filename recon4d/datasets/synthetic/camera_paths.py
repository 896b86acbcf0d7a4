"""Smooth camera paths that orbit, dolly, drift and shake while they look at a target."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import CounterRng
from recon4d.datasets.synthetic.layout import smooth_curve
from recon4d.datasets.synthetic.scene import SyntheticConfig
from recon4d.geometry import rigid
from recon4d.records import Cameras


def draw_phases(
    rng: CounterRng, config: SyntheticConfig, is_unordered: Bool[Tensor, "batch"]
) -> Float[Tensor, "batch time"]:
    """Draw the motion phase of each frame, with uneven gaps.

    Args:
        rng: Random streams, one per scene.
        config: Configuration of the scenes.
        is_unordered: Scenes whose frames are shuffled, except the first.

    Returns:
        Phases from 0 to at most 1, increasing unless shuffled.
    """
    steps = max(config.num_frames - 1, 1)
    gaps = rng.uniform(steps, low=0.3, high=1.7)
    total = rng.uniform(1, low=0.45, high=1.0)
    rising = gaps.cumsum(dim=1) / gaps.sum(dim=1, keepdim=True) * total
    order = rng.uniform(steps).argsort(dim=1)
    later = torch.where(is_unordered[:, None], rising.gather(1, order), rising)
    return torch.cat([torch.zeros_like(later[:, :1]), later], dim=1)[:, : config.num_frames]


def draw_target(rng: CounterRng, enclosure: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """Draw the point that the camera approximately looks at.

    Args:
        rng: Random streams, one per scene.
        enclosure: Size of the enclosure (see `SyntheticScene.enclosure`).

    Returns:
        World positions.
    """
    ground = rng.uniform(2, low=-0.5, high=0.5) * enclosure[:, :2].clamp(max=6)
    return torch.cat([ground, rng.uniform(1, low=0.2, high=1.8)], dim=1)


def draw_cameras(
    rng: CounterRng,
    config: SyntheticConfig,
    phases: Float[Tensor, "batch time"],
    enclosure: Float[Tensor, "batch 3"],
    target: Float[Tensor, "batch 3"],
    is_static: Bool[Tensor, "batch"],
    difficulty: float,
) -> Cameras:
    """Draw one camera per frame.

    Args:
        rng: Random streams, one per scene.
        config: Configuration of the scenes.
        phases: Motion phase of each frame.
        enclosure: Size of the enclosure; cameras stay inside of it.
        target: World point that the cameras approximately look at.
        is_static: Scenes whose camera does not move.
        difficulty: Factor on camera motion, in (0, 1].

    Returns:
        Cameras (batch, time).
    """
    strength = config.speed * difficulty * rng.log_uniform(1, low=0.45, high=2.6) * ~is_static[:, None]
    travel = strength * ~rng.bernoulli(1, probability=0.05)
    centers = _draw_centers(rng, phases, enclosure, target, travel)
    gaze = target[:, None] + 0.4 * rng.normal(1, 3)
    gaze = gaze + 0.55 * strength[..., None] * rng.normal(1, 3) * phases[..., None]
    shake = 0.08 * rng.log_uniform(1, 1, low=0.1, high=1.5) * strength[..., None].clamp(max=1)
    gaze = gaze + shake * smooth_curve(rng, phases, 3, waves=3, low=0.4, high=2.5)
    roll = 0.08 * rng.normal(1)[:, None, :] + 0.04 * strength[..., None].clamp(max=1) * smooth_curve(
        rng, phases, 1, waves=3, low=0.4, high=2.5
    )
    return Cameras(
        world_from_cam=rigid(_look_at(gaze - centers, roll), centers), intrinsics=_draw_intrinsics(rng, config)
    )


def _draw_centers(
    rng: CounterRng, phases: Tensor, enclosure: Tensor, target: Tensor, travel: Tensor
) -> Float[Tensor, "batch time 3"]:
    """Draw an orbit around the target with drift and tremor, clamped to the enclosure."""
    radius = rng.uniform(1, low=1.2, high=5.5)
    azimuth = rng.uniform(1, low=-math.pi, high=math.pi)
    azimuth = azimuth + 1.35 * travel * rng.normal(1).clamp(-1.7, 1.7) * phases
    elevation = rng.uniform(1, low=-0.1, high=0.8) + 0.3 * travel * rng.normal(1) * phases
    radius = (radius * (1 + 0.3 * travel * rng.normal(1) * phases)).clamp(min=0.5)
    flat = radius * elevation.cos()
    orbit = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), radius * elevation.sin()], dim=-1)
    drift = 0.6 * travel[..., None] * rng.normal(1, 3) * phases.new_tensor([1.0, 1.0, 0.4]) * phases[..., None]
    tremble = 0.06 * rng.log_uniform(1, 1, low=0.1, high=1.5) * travel[..., None].clamp(max=1)
    tremble = tremble * smooth_curve(rng, phases, 3, waves=3, low=0.4, high=2.5)
    centers = target[:, None] + orbit + drift + tremble
    low = torch.cat([-enclosure[:, :2] + 0.3, torch.full_like(enclosure[:, :1], 0.25)], dim=1)
    high = enclosure - enclosure.new_tensor([0.3, 0.3, 0.2])
    return torch.minimum(torch.maximum(centers, low[:, None]), high[:, None])


def _look_at(direction: Tensor, roll: Tensor) -> Float[Tensor, "batch time 3 3"]:
    """Build world-from-camera rotations with z along `direction` and y down, rolled around z."""
    forward = F.normalize(direction + direction.new_tensor([1e-3, 0.0, 0.0]), dim=-1)
    up = direction.new_tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = F.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    cosine, sine = roll.cos(), roll.sin()
    return torch.stack([cosine * right + sine * down, cosine * down - sine * right, forward], dim=-1)


def _draw_intrinsics(rng: CounterRng, config: SyntheticConfig) -> Float[Tensor, "batch time 3 3"]:
    """Draw intrinsics with square pixels, constant over the clip."""
    angle = torch.deg2rad(rng.uniform(low=config.field_of_view[0], high=config.field_of_view[1]))
    focal = max(config.height, config.width) / (2 * torch.tan(angle / 2))
    offset = config.principal_point * rng.uniform(2, low=-1, high=1)
    center = (offset + 0.5) * offset.new_tensor([float(config.width), float(config.height)])
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, center[:, 0], zero, focal, center[:, 1], zero, zero, one]
    intrinsics = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return intrinsics[:, None].expand(-1, config.num_frames, 3, 3)
