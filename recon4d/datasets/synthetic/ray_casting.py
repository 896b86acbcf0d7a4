"""Ray casting: closed-form intersections of camera rays with convex primitives and with the walls of the enclosure.

Ray directions have z = 1 in the camera frame, so the distance along a ray is the depth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.datasets.synthetic.scene import SyntheticScene
from recon4d.geometry import pixel_grid, unproject
from recon4d.records import TensorRecord

NEAR_PLANE = 0.15
"""Smallest depth of a hit, in meters."""
MISS = 1e9
"""Depth of rays that hit nothing, in meters."""


@dataclass(frozen=True, eq=False)
class Hits(TensorRecord):
    """The first surface that the ray of each pixel hits."""

    depths: Float[Tensor, "*batch time height width"]
    """Depth in meters."""
    surfaces: Int[Tensor, "*batch time height width"]
    """Index of the surface: primitives first, then faces of the enclosure."""
    points: Float[Tensor, "*batch time height width 3"]
    """World position in meters."""


def cast_rays(scene: SyntheticScene, height: int, width: int) -> Hits:
    """Find the first hit of the ray of every pixel.

    Args:
        scene: Batch of scenes. The intrinsics of its cameras must refer to the given size.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The hits; every ray hits the enclosure at the latest.
    """
    intrinsics = scene.cameras.intrinsics
    grid = pixel_grid(height, width, intrinsics.device).flatten(0, 1)
    over_pixels = (*intrinsics.shape[:2], height * width)
    rays = unproject(grid.expand(*over_pixels, 2), torch.ones(over_pixels, device=grid.device), intrinsics)
    directions = rays @ scene.cameras.world_from_cam[..., :3, :3].transpose(-1, -2)
    centers = scene.cameras.centers

    to_primitive, primitive = _first_primitive(scene, centers, directions)
    to_face, face = _intersect_enclosure(scene.enclosure, centers, directions)
    depths = torch.minimum(to_primitive, to_face)
    surfaces = torch.where(to_primitive < to_face, primitive, face + scene.shapes.is_active.shape[-1])
    points = centers[:, :, None] + depths[..., None] * directions
    size = (height, width)
    return Hits(depths.unflatten(-1, size), surfaces.unflatten(-1, size), points.unflatten(-2, size))


def is_shadowed(
    scene: SyntheticScene, points: Float[Tensor, "batch time n 3"], direction: Float[Tensor, "batch 3"]
) -> Bool[Tensor, "batch time n"]:
    """Test whether a primitive is between each point and a directional light.

    Args:
        scene: Batch of scenes.
        points: World positions.
        direction: World direction toward the light.

    Returns:
        True for points in shadow.
    """
    local_from_world = scene.local_from_world
    linear, offset = local_from_world[..., :3, :3], local_from_world[..., :3, 3]
    origins = _to_local(linear, points)
    origins = tuple(origin + offset[:, :, None, :, i] for i, origin in enumerate(origins))
    toward_light = _to_local(linear, direction[:, None, None].expand(-1, points.shape[1], 1, 3))
    enter, leave = _intersect_convex(scene, origins, toward_light)
    return ((enter < leave) & (leave > 0.02) & (enter > -1e-3) & scene.shapes.is_active[:, None, None]).any(dim=-1)


def _first_primitive(scene: SyntheticScene, centers: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Find the depth and index of the first primitive that each ray hits; the depth is `MISS` if there is none."""
    local_from_world = scene.local_from_world
    linear, offset = local_from_world[..., :3, :3], local_from_world[..., :3, 3]
    origins = _to_local(linear, centers[:, :, None])
    origins = tuple(origin + offset[:, :, None, :, i] for i, origin in enumerate(origins))
    enter, leave = _intersect_convex(scene, origins, _to_local(linear, directions))
    is_hit = (enter < leave) & (enter > NEAR_PLANE) & scene.shapes.is_active[:, None, None]
    return torch.where(is_hit, enter, MISS).min(dim=-1)


def _to_local(linear: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """Map vectors (batch, time, n, 3) to the frame of every primitive: x, y and z, each (batch, time, n, primitive).

    Components are computed separately instead of by a matrix product. Memory access is sequential, and TF32 settings
    cannot change the ground truth.
    """
    x, y, z = (vectors[..., i, None] for i in range(3))
    rows = (linear[:, :, None, :, i] for i in range(3))
    return tuple(row[..., 0] * x + row[..., 1] * y + row[..., 2] * z for row in rows)


def _intersect_convex(
    scene: SyntheticScene, origins: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Float[Tensor, "batch time n primitive"], Float[Tensor, "batch time n primitive"]]:
    """Compute where rays in unit coordinates enter and leave each primitive; enter > leave if they miss it.

    A quadric q . u^2 <= 1 gives a quadratic equation in the distance, a slab |u_i| <= h_i two planes. The interval of
    an intersection of convex bodies is the intersection of their intervals.
    """
    a = b = c = torch.zeros((), device=scene.enclosure.device)
    for axis, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        quadric = scene.shapes.quadric[:, None, None, :, axis]
        scaled = quadric * direction
        a, b, c = a + scaled * direction, b + scaled * origin, c + quadric * origin * origin
    a = a.clamp(min=1e-12)
    discriminant = b * b - a * (c - 1)
    root = discriminant.clamp(min=0).sqrt()
    is_hit = discriminant > 0
    enter = torch.where(is_hit, (-b - root) / a, MISS)
    leave = torch.where(is_hit, (-b + root) / a, -MISS)
    for axis, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        slab = scene.shapes.slab[:, None, None, :, axis]
        inverse = 1 / torch.where(direction.abs() < 1e-7, 1e-7, direction)
        first, second = (-slab - origin) * inverse, (slab - origin) * inverse
        enter = torch.maximum(enter, torch.minimum(first, second))
        leave = torch.minimum(leave, torch.maximum(first, second))
    return enter, leave


def _intersect_enclosure(enclosure: Tensor, centers: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the depth and index of the face through which each ray leaves the enclosure from inside."""
    safe = torch.where(directions.abs() < 1e-7, 1e-7, directions)
    lower = torch.cat([-enclosure[:, :2], torch.zeros_like(enclosure[:, :1])], dim=-1)
    bound = torch.where(safe > 0, enclosure[:, None, None], lower[:, None, None])
    distance = (bound - centers[:, :, None]) / safe
    nearest, axis = distance.min(dim=-1)
    backward = safe.gather(-1, axis[..., None])[..., 0] < 0
    return nearest, 2 * axis + backward
