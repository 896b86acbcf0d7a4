"""What every pixel of a world sees: closed-form intersection of rays with convex primitives and the room.

Rays have z = 1 in their camera, so that the distance along a ray is the depth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.datasets.synthetic.scene import SyntheticScene
from recon4d.geometry import pixel_grid, unproject
from recon4d.records import TensorRecord

NEAREST = 0.15
"""Meters; what is nearer than this is not seen."""
MISS = 1e9


@dataclass(frozen=True, eq=False)
class Hits(TensorRecord):
    """What each pixel sees: z-depth, the surface's number (primitives, then faces of the room), the world point."""

    depths: Float[Tensor, "*batch time height width"]
    surfaces: Int[Tensor, "*batch time height width"]
    points: Float[Tensor, "*batch time height width 3"]


def cast_rays(world: SyntheticScene, height: int, width: int) -> Hits:
    """The hits of every pixel of cameras whose intrinsics are for (height, width)."""
    intrinsics = world.cameras.intrinsics
    grid = pixel_grid(height, width, intrinsics.device).flatten(0, 1)
    over_pixels = (*intrinsics.shape[:2], height * width)
    rays = unproject(grid.expand(*over_pixels, 2), torch.ones(over_pixels, device=grid.device), intrinsics)
    directions = rays @ world.cameras.world_from_cam[..., :3, :3].transpose(-1, -2)
    centers = world.cameras.centers

    to_primitive, primitive = _first_primitive(world, centers, directions)
    to_face, face = _room_face(world.room, centers, directions)
    depths = torch.minimum(to_primitive, to_face)
    surfaces = torch.where(to_primitive < to_face, primitive, face + world.shapes.active.shape[-1])
    points = centers[:, :, None] + depths[..., None] * directions
    size = (height, width)
    return Hits(depths.unflatten(-1, size), surfaces.unflatten(-1, size), points.unflatten(-2, size))


def is_shadowed(
    world: SyntheticScene, points: Float[Tensor, "batch time n 3"], direction: Float[Tensor, "batch 3"]
) -> Bool[Tensor, "batch time n"]:
    """Whether a primitive stands between each point and a light far away in `direction`."""
    local_from_world = world.local_from_world
    linear, offset = local_from_world[..., :3, :3], local_from_world[..., :3, 3]
    origins = _turned(linear, points)
    origins = tuple(origin + offset[:, :, None, :, i] for i, origin in enumerate(origins))
    toward_light = _turned(linear, direction[:, None, None].expand(-1, points.shape[1], 1, 3))
    enter, leave = _meet_convex(world, origins, toward_light)
    return ((enter < leave) & (leave > 0.02) & (enter > -1e-3) & world.shapes.active[:, None, None]).any(dim=-1)


def _first_primitive(world: SyntheticScene, centers: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    local_from_world = world.local_from_world
    linear, offset = local_from_world[..., :3, :3], local_from_world[..., :3, 3]
    origins = _turned(linear, centers[:, :, None])
    origins = tuple(origin + offset[:, :, None, :, i] for i, origin in enumerate(origins))
    enter, leave = _meet_convex(world, origins, _turned(linear, directions))
    seen = (enter < leave) & (enter > NEAREST) & world.shapes.active[:, None, None]
    return torch.where(seen, enter, MISS).min(dim=-1)


def _turned(linear: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """Vectors (batch, time, n, 3) in every primitive's coordinates: x, y and z, each (batch, time, n, primitive).

    Components apart, and no matrix product: memory is read in order, and no setting for products (TF32) touches truth.
    """
    x, y, z = (vectors[..., i, None] for i in range(3))
    rows = (linear[:, :, None, :, i] for i in range(3))
    return tuple(row[..., 0] * x + row[..., 1] * y + row[..., 2] * z for row in rows)


def _meet_convex(
    world: SyntheticScene, origins: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Float[Tensor, "batch time n primitive"], Float[Tensor, "batch time n primitive"]]:
    """Where rays in unit coordinates enter and leave each primitive; enter > leave where they miss it.

    A quadric q . u^2 <= 1 is a quadratic in the distance, a slab |u_i| <= h_i two planes; the intersection of convex
    bodies is the intersection of their intervals.
    """
    a = b = c = torch.zeros((), device=world.room.device)
    for axis, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        quadric = world.shapes.quadric[:, None, None, :, axis]
        scaled = quadric * direction
        a, b, c = a + scaled * direction, b + scaled * origin, c + quadric * origin * origin
    a = a.clamp(min=1e-12)
    discriminant = b * b - a * (c - 1)
    root = discriminant.clamp(min=0).sqrt()
    meets = discriminant > 0
    enter = torch.where(meets, (-b - root) / a, MISS)
    leave = torch.where(meets, (-b + root) / a, -MISS)
    for axis, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        slab = world.shapes.slab[:, None, None, :, axis]
        inverse = 1 / torch.where(direction.abs() < 1e-7, 1e-7, direction)
        one, other = (-slab - origin) * inverse, (slab - origin) * inverse
        enter = torch.maximum(enter, torch.minimum(one, other))
        leave = torch.minimum(leave, torch.maximum(one, other))
    return enter, leave


def _room_face(room: Tensor, centers: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """From inside, the face that a ray leaves by."""
    safe = torch.where(directions.abs() < 1e-7, 1e-7, directions)
    floor = torch.cat([-room[:, :2], torch.zeros_like(room[:, :1])], dim=-1)
    bound = torch.where(safe > 0, room[:, None, None], floor[:, None, None])
    distance = (bound - centers[:, :, None]) / safe
    nearest, axis = distance.min(dim=-1)
    backward = safe.gather(-1, axis[..., None])[..., 0] < 0
    return nearest, 2 * axis + backward
