"""Who films a world: smooth camera paths that orbit, dolly, drift and shake while they look at something."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import Draws
from recon4d.datasets.synthetic.layout import smooth_curve
from recon4d.datasets.synthetic.scene import SyntheticConfig
from recon4d.geometry import rigid
from recon4d.records import Cameras


def draw_phases(draws: Draws, config: SyntheticConfig, is_loose: Bool[Tensor, "batch"]) -> Float[Tensor, "batch time"]:
    """Rising from 0 with uneven gaps to at most 1; shuffled behind the first frame where `is_loose`."""
    steps = max(config.num_frames - 1, 1)
    gaps = draws.uniform(steps, low=0.3, high=1.7)
    total = draws.uniform(1, low=0.45, high=1.0)
    rising = gaps.cumsum(dim=1) / gaps.sum(dim=1, keepdim=True) * total
    order = draws.uniform(steps).argsort(dim=1)
    later = torch.where(is_loose[:, None], rising.gather(1, order), rising)
    return torch.cat([torch.zeros_like(later[:, :1]), later], dim=1)[:, : config.num_frames]


def draw_target(draws: Draws, room: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """What the camera looks at, more or less."""
    ground = draws.uniform(2, low=-0.5, high=0.5) * room[:, :2].clamp(max=6)
    return torch.cat([ground, draws.uniform(1, low=0.2, high=1.8)], dim=1)


def draw_cameras(
    draws: Draws,
    config: SyntheticConfig,
    phases: Float[Tensor, "batch time"],
    room: Float[Tensor, "batch 3"],
    target: Float[Tensor, "batch 3"],
    stands_still: Bool[Tensor, "batch"],
    difficulty: float,
) -> Cameras:
    """One camera a frame; `difficulty` in (0, 1] scales how far it goes."""
    strength = config.speed * difficulty * draws.log_uniform(1, low=0.45, high=2.6) * ~stands_still[:, None]
    travels = strength * ~draws.chance(1, probability=0.05)
    centers = _draw_centers(draws, phases, room, target, travels)
    looks_at = target[:, None] + 0.4 * draws.normal(1, 3)
    looks_at = looks_at + 0.55 * strength[..., None] * draws.normal(1, 3) * phases[..., None]
    shake = 0.08 * draws.log_uniform(1, 1, low=0.1, high=1.5) * strength[..., None].clamp(max=1)
    looks_at = looks_at + shake * smooth_curve(draws, phases, 3, waves=3, low=0.4, high=2.5)
    roll = 0.08 * draws.normal(1)[:, None, :] + 0.04 * strength[..., None].clamp(max=1) * smooth_curve(
        draws, phases, 1, waves=3, low=0.4, high=2.5
    )
    return Cameras(
        world_from_cam=rigid(_look_at(looks_at - centers, roll), centers), intrinsics=_draw_intrinsics(draws, config)
    )


def _draw_centers(
    draws: Draws, phases: Tensor, room: Tensor, target: Tensor, travels: Tensor
) -> Float[Tensor, "batch time 3"]:
    """An orbit about the target, drifting and trembling, kept inside the room."""
    radius = draws.uniform(1, low=1.2, high=5.5)
    azimuth = draws.uniform(1, low=-math.pi, high=math.pi)
    azimuth = azimuth + 1.35 * travels * draws.normal(1).clamp(-1.7, 1.7) * phases
    elevation = draws.uniform(1, low=-0.1, high=0.8) + 0.3 * travels * draws.normal(1) * phases
    radius = (radius * (1 + 0.3 * travels * draws.normal(1) * phases)).clamp(min=0.5)
    flat = radius * elevation.cos()
    orbit = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), radius * elevation.sin()], dim=-1)
    drift = 0.6 * travels[..., None] * draws.normal(1, 3) * phases.new_tensor([1.0, 1.0, 0.4]) * phases[..., None]
    tremble = 0.06 * draws.log_uniform(1, 1, low=0.1, high=1.5) * travels[..., None].clamp(max=1)
    tremble = tremble * smooth_curve(draws, phases, 3, waves=3, low=0.4, high=2.5)
    centers = target[:, None] + orbit + drift + tremble
    low = torch.cat([-room[:, :2] + 0.3, torch.full_like(room[:, :1], 0.25)], dim=1)
    high = room - room.new_tensor([0.3, 0.3, 0.2])
    return torch.minimum(torch.maximum(centers, low[:, None]), high[:, None])


def _look_at(direction: Tensor, roll: Tensor) -> Float[Tensor, "batch time 3 3"]:
    """World-from-camera rotations with z along `direction` and y down, rolled about it."""
    forward = F.normalize(direction + direction.new_tensor([1e-3, 0.0, 0.0]), dim=-1)
    up = direction.new_tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = F.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    cosine, sine = roll.cos(), roll.sin()
    return torch.stack([cosine * right + sine * down, cosine * down - sine * right, forward], dim=-1)


def _draw_intrinsics(draws: Draws, config: SyntheticConfig) -> Float[Tensor, "batch time 3 3"]:
    """Square pixels; one lens for the whole clip."""
    angle = torch.deg2rad(draws.uniform(low=config.field_of_view[0], high=config.field_of_view[1]))
    focal = max(config.height, config.width) / (2 * torch.tan(angle / 2))
    offset = config.principal_point * draws.uniform(2, low=-1, high=1)
    center = (offset + 0.5) * offset.new_tensor([float(config.width), float(config.height)])
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, center[:, 0], zero, focal, center[:, 1], zero, zero, one]
    intrinsics = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return intrinsics[:, None].expand(-1, config.num_frames, 3, 3)
