"""Layout and motion of synthetic scenes: the enclosure, primitives, and articulated groups of primitives."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import CounterRng
from recon4d.datasets.synthetic.scene import Shapes, SyntheticConfig
from recon4d.geometry import rigid, rotation_from_axis_angle

UNBOUNDED = 9.0
"""Slab half width that never cuts a primitive of unit size."""


@dataclass(frozen=True)
class MotionKind:
    """Constraints on which bodies of a scene are dynamic; without one, any number may be."""

    is_static: Bool[Tensor, "batch"]
    """No body is dynamic."""
    has_one_dynamic_body: Bool[Tensor, "batch"]
    """Exactly one body is dynamic."""


def draw_enclosure(rng: CounterRng) -> tuple[Float[Tensor, "batch 3"], Bool[Tensor, "batch"]]:
    """Draw the size of the enclosure.

    Args:
        rng: Random streams, one per scene.

    Returns:
        Half width, half depth and height in meters, and whether the scene is open ground under a sky.
    """
    outdoors = rng.bernoulli(probability=0.45)
    open_ground = rng.log_uniform(2, low=12, high=50)
    indoors = rng.uniform(2, low=2.5, high=7)
    extent = torch.where(outdoors[:, None], open_ground, indoors)
    height = torch.where(outdoors, 0.7 * extent.amin(dim=1), rng.uniform(low=2.3, high=4.5))
    return torch.cat([extent, height[:, None]], dim=1), outdoors


def smooth_curve(
    rng: CounterRng, phases: Float[Tensor, "batch time"], *shape: int, waves: int, low: float, high: float
) -> Float[Tensor, "batch time *shape"]:
    """Draw sums of sines with random frequency, phase and amplitude that start at 0 at phase 0.

    Args:
        rng: Random streams, one per scene.
        phases: Motion phase of each frame.
        shape: Shape of the draw per scene and frame.
        waves: Number of sines.
        low: Smallest frequency in periods per unit of phase.
        high: Largest frequency in periods per unit of phase.

    Returns:
        Values over time.
    """
    frequency = 2 * math.pi * rng.uniform(1, waves, *shape, low=low, high=high)
    start = rng.uniform(1, waves, *shape, high=2 * math.pi)
    height = rng.normal(1, waves, *shape)
    time = phases.reshape(*phases.shape, *[1] * (1 + len(shape)))
    return (height * (torch.sin(frequency * time + start) - torch.sin(start))).sum(dim=2)


def draw_shapes(
    rng: CounterRng,
    config: SyntheticConfig,
    phases: Float[Tensor, "batch time"],
    enclosure: Float[Tensor, "batch 3"],
    outdoors: Bool[Tensor, "batch"],
    target: Float[Tensor, "batch 3"],
    motion: MotionKind,
) -> Shapes:
    """Draw primitives around the target of the camera, single or in articulated groups.

    Args:
        rng: Random streams, one per scene.
        config: Configuration of the scenes.
        phases: Motion phase of each frame.
        enclosure: Size of the enclosure.
        outdoors: Scenes under a sky, whose primitives are larger.
        target: World point that the camera approximately looks at.
        motion: Constraints on which bodies are dynamic.

    Returns:
        The primitives.
    """
    count, groups = config.primitives, config.groups
    quadric, slab = _draw_primitives(rng, count)
    size = rng.log_uniform(count, 1, low=0.15, high=0.95) * rng.log_uniform(count, 3, low=0.45, high=1.6)
    is_big = rng.bernoulli(count, probability=0.15)
    size = size * (1 + 0.4 * outdoors[:, None, None]) * (1 + 1.8 * is_big[..., None])

    # A body is a single primitive or a group; each primitive belongs to one body.
    group_share = rng.uniform(1, low=0.2, high=0.65) * rng.bernoulli(1, probability=0.7)
    in_group = rng.bernoulli(count, probability=group_share) & ~is_big
    alone = torch.arange(count, device=phases.device).expand(in_group.shape)
    body = torch.where(in_group, count + rng.integers(count, below=groups), alone)
    size = torch.where(in_group[..., None], 0.6 * size, size)

    is_dynamic = _draw_dynamic_bodies(rng, count + groups, count, is_big, motion, body[:, 0])
    world_from_body = _draw_bodies(rng, config, phases, enclosure, target, size, is_dynamic)
    body_from_local = _draw_articulation(rng, phases, size, in_group, is_dynamic.gather(1, body))
    chosen = body[:, None, :, None, None].expand(-1, phases.shape[1], -1, 4, 4)
    return Shapes(
        quadric=quadric,
        slab=slab,
        size=size,
        world_from_local=world_from_body.gather(2, chosen) @ body_from_local,
        is_active=torch.arange(count, device=phases.device) < 6 + rng.integers(1, below=max(1, count - 5)),
        is_dynamic=is_dynamic.gather(1, body),
    )


def deactivate_colliding(shapes: Shapes, centers: Float[Tensor, "batch time 3"], clearance: float = 0.35) -> Shapes:
    """Deactivate primitives that come too close to a camera.

    Args:
        shapes: Primitives.
        centers: Camera centers.
        clearance: Smallest distance between a camera and the bounding sphere of a primitive, in meters.

    Returns:
        The primitives, with those that collide inactive.
    """
    distance = (shapes.world_from_local[..., :3, 3] - centers[:, :, None]).norm(dim=-1)
    radius = (shapes.size * shapes.slab.clamp(max=1)).amax(dim=-1)
    is_clear = (distance - radius[:, None]).amin(dim=1) > clearance
    active = shapes.is_active & is_clear
    return replace(shapes, is_active=active, is_dynamic=shapes.is_dynamic & active)


def _draw_primitives(rng: CounterRng, count: int) -> tuple[Tensor, Tensor]:
    """Draw quadrics and slabs of ellipsoids, boxes, cylinders, barrels and rounded boxes."""
    kind = rng.integers(count, 1, below=5)
    bulge = 1 / rng.uniform(count, 1, low=1.15, high=1.6) ** 2
    roundness = rng.uniform(count, 1, low=0.2, high=0.9)
    one, free = torch.ones_like(bulge), torch.full_like(bulge, UNBOUNDED)
    none = torch.zeros_like(bulge)
    quadrics = (
        torch.cat([one, one, one], dim=-1),
        torch.cat([none, none, none], dim=-1),
        torch.cat([one, one, none], dim=-1),
        bulge.expand(-1, -1, 3),
        torch.cat([one, one, roundness], dim=-1),
    )
    slabs = (
        torch.cat([free, free, free], dim=-1),
        torch.cat([one, one, one], dim=-1),
        torch.cat([free, free, one], dim=-1),
        torch.cat([one, one, one], dim=-1),
        torch.cat([free, free, 0.8 * one], dim=-1),
    )
    quadric, slab = torch.zeros_like(quadrics[0]), torch.zeros_like(slabs[0])
    for number in range(5):
        quadric = torch.where(kind == number, quadrics[number], quadric)
        slab = torch.where(kind == number, slabs[number], slab)
    return quadric, slab


def _draw_dynamic_bodies(
    rng: CounterRng, bodies: int, count: int, is_big: Tensor, motion: MotionKind, first_body: Tensor
) -> Tensor:
    """Draw which bodies are dynamic (batch, body)."""
    share = rng.uniform(1, low=0.3, high=0.95)
    is_dynamic = rng.bernoulli(bodies, probability=share)
    is_static_and_big = is_big & rng.bernoulli(count, probability=0.45)
    dynamic_groups = is_dynamic[:, count:] | rng.bernoulli(bodies - count, probability=0.85)
    is_dynamic = torch.cat([is_dynamic[:, :count] & ~is_static_and_big, dynamic_groups], dim=1)
    only_first = F.one_hot(first_body, bodies).bool()
    is_dynamic = torch.where(motion.has_one_dynamic_body[:, None], only_first, is_dynamic)
    return is_dynamic & ~motion.is_static[:, None]


def _draw_bodies(
    rng: CounterRng,
    config: SyntheticConfig,
    phases: Tensor,
    enclosure: Tensor,
    target: Tensor,
    size: Tensor,
    is_dynamic: Tensor,
) -> Float[Tensor, "batch time body 4 4"]:
    """Draw the rigid motion of every body, which starts on the ground or in the air, near the target or anywhere."""
    bodies, groups = config.primitives + config.groups, config.groups
    scale = rng.log_uniform(1, 1, low=0.5, high=1.9)
    near = target[:, None, :2] + scale * rng.normal(bodies, 2)
    anywhere = rng.uniform(bodies, 2, low=-1, high=1) * enclosure[:, None, :2].clamp(max=9)
    ground = torch.where(rng.bernoulli(bodies, 1, probability=0.72), near, anywhere)
    ground = torch.minimum(torch.maximum(ground, -enclosure[:, None, :2]), enclosure[:, None, :2])
    on_ground = rng.bernoulli(bodies, 1, probability=0.6)
    on_ground = torch.cat([on_ground[:, :-groups], torch.zeros_like(on_ground[:, -groups:])], dim=1)
    half_height = torch.cat([size[..., 2:], torch.full_like(ground[:, -groups:, :1], 0.5)], dim=1)
    height = torch.where(on_ground, half_height, rng.uniform(bodies, 1, low=0.3, high=2.0))
    start = torch.cat([ground, height], dim=-1)
    upright = torch.cat([torch.zeros_like(ground), rng.uniform(bodies, 1, low=-math.pi, high=math.pi)], dim=-1)
    initial_rotation = rotation_from_axis_angle(torch.where(on_ground, upright, 1.2 * rng.normal(bodies, 3)))

    strength = config.speed * rng.log_uniform(1, 1, low=0.6, high=2.0) * is_dynamic[..., None]
    time = phases[:, :, None, None]
    like = phases.new_tensor
    drift = 0.85 * rng.normal(1, bodies, 3) * like([1.0, 1.0, 0.5]) * time
    drift = drift + 0.18 * smooth_curve(rng, phases, bodies, 3, waves=2, low=0.3, high=1.6)
    turn = 0.8 * rng.normal(1, bodies, 3) * like([0.5, 0.5, 1.5]) * time
    turn = turn + 0.2 * smooth_curve(rng, phases, bodies, 3, waves=2, low=0.3, high=1.6)
    rotation = rotation_from_axis_angle(strength[:, None] * turn) @ initial_rotation[:, None]
    return rigid(rotation, start[:, None] + strength[:, None] * drift)


def _draw_articulation(
    rng: CounterRng, phases: Tensor, size: Tensor, in_group: Tensor, is_dynamic: Tensor
) -> Float[Tensor, "batch time primitive 4 4"]:
    """Draw the pose of each primitive in its body: the identity if single, a swing around a joint in groups."""
    count = size.shape[1]
    offset = 0.3 * rng.normal(count, 3) * in_group[..., None]
    rest = rotation_from_axis_angle(rng.normal(count, 3) * in_group[..., None])
    axis = F.normalize(rng.normal(count, 3), dim=-1)
    swing = 0.6 * rng.normal(count) * (in_group & is_dynamic)
    frequency = 2 * math.pi * rng.uniform(1, count, low=0.3, high=1.8)
    start = rng.uniform(1, count, high=2 * math.pi)
    angle = swing[:, None] * (torch.sin(frequency * phases[..., None] + start) - torch.sin(start))
    joint_rotation = rotation_from_axis_angle(axis[:, None] * angle[..., None])
    end = size * size.new_tensor([0.0, 0.0, 1.0])
    joint = offset + (rest @ end[..., None])[..., 0]
    center = (joint_rotation @ (offset - joint)[:, None, ..., None])[..., 0] + joint[:, None]
    return rigid(joint_rotation @ rest[:, None], center)
