"""What stands in a world and how it moves: a room or open ground, primitives, and jointed groups of them."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic.counter_rng import Draws
from recon4d.datasets.synthetic.scene import Shapes, SyntheticConfig
from recon4d.geometry import rigid, rotation_from_axis_angle

FREE = 9.0
"""A slab half-width (or quadric) that never cuts a primitive of unit size."""


@dataclass(frozen=True)
class Cast:
    """Who moves in each scene: nothing, or exactly one body, or (in neither case) many."""

    is_static: Bool[Tensor, "batch"]
    one_mover: Bool[Tensor, "batch"]


def draw_room(draws: Draws) -> tuple[Float[Tensor, "batch 3"], Bool[Tensor, "batch"]]:
    """Half width, half depth and height in meters, and whether it is open ground under a sky."""
    outdoors = draws.chance(probability=0.45)
    open_ground = draws.log_uniform(2, low=12, high=50)
    indoors = draws.uniform(2, low=2.5, high=7)
    floor = torch.where(outdoors[:, None], open_ground, indoors)
    height = torch.where(outdoors, 0.7 * floor.amin(dim=1), draws.uniform(low=2.3, high=4.5))
    return torch.cat([floor, height[:, None]], dim=1), outdoors


def smooth_curve(
    draws: Draws, phases: Float[Tensor, "batch time"], *shape: int, waves: int, low: float, high: float
) -> Float[Tensor, "batch time *shape"]:
    """Sums of `waves` sines of random frequency, phase and height that start at 0 (phase 0)."""
    frequency = 2 * math.pi * draws.uniform(1, waves, *shape, low=low, high=high)
    start = draws.uniform(1, waves, *shape, high=2 * math.pi)
    height = draws.normal(1, waves, *shape)
    time = phases.reshape(*phases.shape, *[1] * (1 + len(shape)))
    return (height * (torch.sin(frequency * time + start) - torch.sin(start))).sum(dim=2)


def draw_shapes(
    draws: Draws,
    config: SyntheticConfig,
    phases: Float[Tensor, "batch time"],
    room: Float[Tensor, "batch 3"],
    outdoors: Bool[Tensor, "batch"],
    target: Float[Tensor, "batch 3"],
    cast: Cast,
) -> Shapes:
    """Primitives about the point `target` that the camera looks at, alone or in groups with swinging joints."""
    count, groups = config.primitives, config.groups
    quadric, slab = _draw_forms(draws, count)
    size = draws.log_uniform(count, 1, low=0.15, high=0.95) * draws.log_uniform(count, 3, low=0.45, high=1.6)
    is_big = draws.chance(count, probability=0.15)
    size = size * (1 + 0.4 * outdoors[:, None, None]) * (1 + 1.8 * is_big[..., None])

    # Bodies are the primitives that stand alone and the groups; each primitive belongs to one body.
    group_share = draws.uniform(1, low=0.2, high=0.65) * draws.chance(1, probability=0.7)
    in_group = draws.chance(count, probability=group_share) & ~is_big
    alone = torch.arange(count, device=phases.device).expand(in_group.shape)
    body = torch.where(in_group, count + draws.integers(count, below=groups), alone)
    size = torch.where(in_group[..., None], 0.6 * size, size)

    moves = _draw_movers(draws, count + groups, count, is_big, cast, body[:, 0])
    world_from_body = _draw_bodies(draws, config, phases, room, target, size, moves)
    body_from_local = _draw_joints(draws, phases, size, in_group, moves.gather(1, body))
    chosen = body[:, None, :, None, None].expand(-1, phases.shape[1], -1, 4, 4)
    return Shapes(
        quadric=quadric,
        slab=slab,
        size=size,
        world_from_local=world_from_body.gather(2, chosen) @ body_from_local,
        active=torch.arange(count, device=phases.device) < 6 + draws.integers(1, below=max(1, count - 5)),
        moves=moves.gather(1, body),
    )


def without_collisions(shapes: Shapes, centers: Float[Tensor, "batch time 3"], clearance: float = 0.35) -> Shapes:
    """The shapes with those left out that a camera would touch, in meters."""
    distance = (shapes.world_from_local[..., :3, 3] - centers[:, :, None]).norm(dim=-1)
    radius = (shapes.size * shapes.slab.clamp(max=1)).amax(dim=-1)
    is_clear = (distance - radius[:, None]).amin(dim=1) > clearance
    active = shapes.active & is_clear
    return replace(shapes, active=active, moves=shapes.moves & active)


def _draw_forms(draws: Draws, count: int) -> tuple[Tensor, Tensor]:
    """Quadric and slab of ellipsoids, boxes, cylinders, barrels and rounded boxes."""
    kind = draws.integers(count, 1, below=5)
    bulge = 1 / draws.uniform(count, 1, low=1.15, high=1.6) ** 2
    roundness = draws.uniform(count, 1, low=0.2, high=0.9)
    one, free = torch.ones_like(bulge), torch.full_like(bulge, FREE)
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


def _draw_movers(draws: Draws, bodies: int, count: int, is_big: Tensor, cast: Cast, first_body: Tensor) -> Tensor:
    share = draws.uniform(1, low=0.3, high=0.95)
    moves = draws.chance(bodies, probability=share)
    stays_big = is_big & draws.chance(count, probability=0.45)
    groups_move = moves[:, count:] | draws.chance(bodies - count, probability=0.85)
    moves = torch.cat([moves[:, :count] & ~stays_big, groups_move], dim=1)
    only_first = F.one_hot(first_body, bodies).bool()
    moves = torch.where(cast.one_mover[:, None], only_first, moves)
    return moves & ~cast.is_static[:, None]


def _draw_bodies(
    draws: Draws, config: SyntheticConfig, phases: Tensor, room: Tensor, target: Tensor, size: Tensor, moves: Tensor
) -> Float[Tensor, "batch time body 4 4"]:
    """Where every body is at every time: on the floor or in the air, near the target or anywhere, on its own course."""
    bodies, groups = config.primitives + config.groups, config.groups
    spread = draws.log_uniform(1, 1, low=0.5, high=1.9)
    near = target[:, None, :2] + spread * draws.normal(bodies, 2)
    anywhere = draws.uniform(bodies, 2, low=-1, high=1) * room[:, None, :2].clamp(max=9)
    ground = torch.where(draws.chance(bodies, 1, probability=0.72), near, anywhere)
    ground = torch.minimum(torch.maximum(ground, -room[:, None, :2]), room[:, None, :2])
    on_floor = draws.chance(bodies, 1, probability=0.6)
    on_floor = torch.cat([on_floor[:, :-groups], torch.zeros_like(on_floor[:, -groups:])], dim=1)
    half_height = torch.cat([size[..., 2:], torch.full_like(ground[:, -groups:, :1], 0.5)], dim=1)
    height = torch.where(on_floor, half_height, draws.uniform(bodies, 1, low=0.3, high=2.0))
    start = torch.cat([ground, height], dim=-1)
    upright = torch.cat([torch.zeros_like(ground), draws.uniform(bodies, 1, low=-math.pi, high=math.pi)], dim=-1)
    first_turn = rotation_from_axis_angle(torch.where(on_floor, upright, 1.2 * draws.normal(bodies, 3)))

    strength = config.speed * draws.log_uniform(1, 1, low=0.6, high=2.0) * moves[..., None]
    time = phases[:, :, None, None]
    like = phases.new_tensor
    drift = 0.85 * draws.normal(1, bodies, 3) * like([1.0, 1.0, 0.5]) * time
    drift = drift + 0.18 * smooth_curve(draws, phases, bodies, 3, waves=2, low=0.3, high=1.6)
    turn = 0.8 * draws.normal(1, bodies, 3) * like([0.5, 0.5, 1.5]) * time
    turn = turn + 0.2 * smooth_curve(draws, phases, bodies, 3, waves=2, low=0.3, high=1.6)
    rotation = rotation_from_axis_angle(strength[:, None] * turn) @ first_turn[:, None]
    return rigid(rotation, start[:, None] + strength[:, None] * drift)


def _draw_joints(
    draws: Draws, phases: Tensor, size: Tensor, in_group: Tensor, moves: Tensor
) -> Float[Tensor, "batch time primitive 4 4"]:
    """Each primitive in its body: at the body's origin when alone, else swinging about a joint at its own end."""
    count = size.shape[1]
    offset = 0.3 * draws.normal(count, 3) * in_group[..., None]
    rest = rotation_from_axis_angle(draws.normal(count, 3) * in_group[..., None])
    axis = F.normalize(draws.normal(count, 3), dim=-1)
    swing = 0.6 * draws.normal(count) * (in_group & moves)
    frequency = 2 * math.pi * draws.uniform(1, count, low=0.3, high=1.8)
    start = draws.uniform(1, count, high=2 * math.pi)
    angle = swing[:, None] * (torch.sin(frequency * phases[..., None] + start) - torch.sin(start))
    joint_turn = rotation_from_axis_angle(axis[:, None] * angle[..., None])
    end = size * size.new_tensor([0.0, 0.0, 1.0])
    joint = offset + (rest @ end[..., None])[..., 0]
    center = (joint_turn @ (offset - joint)[:, None, ..., None])[..., 0] + joint[:, None]
    return rigid(joint_turn @ rest[:, None], center)
