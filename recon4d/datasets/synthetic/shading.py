"""The colors of what a world's pixels see: patterns and pictures in local coordinates, light, cast shadows, sky."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.datasets.synthetic.noise_volume import look_up
from recon4d.datasets.synthetic.ray_casting import Hits, is_shadowed
from recon4d.datasets.synthetic.scene import Surfaces, SyntheticScene

CELLS_PER_PERIOD = 8
"""Fine noise repeats in every cell, where coarse noise repeats after so many."""
PICTURE_SCALE = 0.35
"""Pictures per pattern cell: one picture covers about three."""


@dataclass(frozen=True)
class Textures:
    """Pictures, and of what wears them the mean color in [0, 1]: what a surface looks like from afar."""

    pictures: UInt8[Tensor, "picture 3 side side"]
    means: Float[Tensor, "batch surface 3"]

    @classmethod
    def worn(cls, surfaces: Surfaces, pictures: UInt8[Tensor, "picture 3 side side"]) -> "Textures":
        """The pictures that these surfaces wear, by their number."""
        return cls(pictures, pictures[surfaces.picture.clamp(min=0)].float().mean(dim=(-1, -2)) / 255)


def shade(
    world: SyntheticScene,
    hits: Hits,
    volumes: Float[Tensor, "batch 4 side side side"],
    textures: Textures | None = None,
) -> Float[Tensor, "batch time 3 height width"]:
    """Light that reaches the camera from every hit, before exposure; `volumes` are the noise each world is cut from."""
    size = hits.depths.shape[-2:]
    depths, surfaces, points = (part.flatten(2, 3) for part in (hits.depths, hits.surfaces, hits.points))
    world_from_paint = _world_from_paint(world, surfaces)
    local, normals = _local_points_and_normals(world, surfaces, world_from_paint, points)
    paint = _at(world.surfaces, surfaces)
    cells = (paint.pattern_from_local @ local[..., None])[..., 0] + paint.offset
    focal = world.cameras.intrinsics[..., 0, 0, None]
    # Pattern cells under one pixel: what is finer than that is faded out instead of flickering.
    footprint = depths / focal * paint.pattern_from_local.abs().amax(dim=(-1, -2))
    noise, fine_noise = look_up(volumes, cells), look_up(volumes, 0.83 * CELLS_PER_PERIOD * cells + 0.37)

    colors = _pattern_colors(paint, cells, noise, footprint)
    if textures is not None:
        local_normals = (world_from_paint[..., :3, :3].transpose(-1, -2) @ normals[..., None])[..., 0]
        worn = _picture_colors(textures, surfaces, paint, cells, local_normals, footprint)
        colors = torch.where((paint.picture >= 0)[..., None], worn, colors)
    grain = paint.grain * (1.5 - 14 * footprint).clamp(0, 1)
    colors = colors * (1 + 1.2 * grain * (fine_noise[..., 0] - 0.5))[..., None]
    colors = colors + (0.12 * grain * (fine_noise[..., 3] - 0.5))[..., None]
    lit = colors * _light(world, depths, points, normals)[..., None] * world.light.tint[:, None, None]
    shown = torch.where(paint.is_sky[..., None], _sky_colors(world, points, paint, noise), lit).clamp(0, 1.5)
    return shown.transpose(-1, -2).unflatten(-1, size)


def _at(surfaces: Surfaces, chosen: Tensor) -> Surfaces:
    """The paint at the chosen surfaces (batch, time, n): every field with those axes in front."""
    return surfaces.map(lambda values: _chosen(values, chosen))


def _chosen(values: Tensor, chosen: Tensor) -> Tensor:
    batch = torch.arange(chosen.shape[0], device=chosen.device)[:, None, None]
    return values[batch, chosen]


def _local_points_and_normals(
    world: SyntheticScene, surfaces: Tensor, world_from_paint: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Points in the coordinates their paint sticks to, and unit normals in the world."""
    count = world.shapes.active.shape[-1]
    is_primitive = surfaces < count
    rotation, center = world_from_paint[..., :3, :3], world_from_paint[..., :3, 3]
    local = (rotation.transpose(-1, -2) @ (points - center)[..., None])[..., 0]

    batch = torch.arange(len(surfaces), device=surfaces.device)[:, None, None]
    primitive = torch.where(is_primitive, surfaces, 0)
    size, quadric, slab = (
        part[batch, primitive] for part in (world.shapes.size, world.shapes.quadric, world.shapes.slab)
    )
    unit = local / size
    on_quadric = (quadric * unit.square()).sum(dim=-1).clamp(min=0).sqrt()
    on_slab, axis = (unit.abs() / slab).max(dim=-1)
    slab_normal = F.one_hot(axis, 3) * unit.sign()
    local_normal = torch.where((on_slab > on_quadric)[..., None], slab_normal, quadric * unit) / size
    normal = F.normalize((rotation @ local_normal[..., None])[..., 0], dim=-1)

    face = (surfaces - count).clamp(min=0)
    inward = F.one_hot(face // 2, 3) * (2 * (face % 2) - 1)[..., None]
    return local, torch.where(is_primitive[..., None], normal, inward.to(normal.dtype))


def _world_from_paint(world: SyntheticScene, surfaces: Tensor) -> Float[Tensor, "b t n 4 4"]:
    """The coordinates that the paint of each hit sticks to: its primitive's, or the world's own for the room."""
    is_primitive = surfaces < world.shapes.active.shape[-1]
    batch = torch.arange(len(surfaces), device=surfaces.device)[:, None, None]
    frame = torch.arange(surfaces.shape[1], device=surfaces.device)[None, :, None]
    world_from_local = world.shapes.world_from_local[batch, frame, torch.where(is_primitive, surfaces, 0)]
    room = torch.eye(4, device=surfaces.device)
    return torch.where(is_primitive[..., None, None], world_from_local, room)


def _pattern_colors(paint: Surfaces, cells: Tensor, noise: Tensor, footprint: Tensor) -> Float[Tensor, "b t n 3"]:
    """Two colors mixed by the surface's pattern, and patches of a third."""
    fine = (1.6 - 2.5 * footprint).clamp(0, 1)
    regular = (1.6 - 4 * footprint).clamp(0, 1)
    warped = cells + paint.warp[..., None] * 0.35 * (noise[..., [0, 1, 0]] - 0.5)
    waves = torch.tanh(torch.sin(2 * math.pi * warped) * paint.sharpness[..., None])
    patterns = (
        torch.sigmoid(3 * (noise[..., 0] - 0.5) * paint.sharpness),
        (0.8 * noise[..., 2] * paint.sharpness).clamp(0, 1),
        noise[..., 3],
        0.5 + 0.5 * regular * waves[..., 0],
        0.5 + 0.5 * regular * waves.prod(dim=-1),
        0.5 + 0.6 * (noise[..., 0] - 0.5),
    )
    share = torch.zeros_like(footprint)
    for number, pattern in enumerate(patterns):
        share = torch.where(paint.pattern == number, pattern, share)
    share = (0.5 + (share - 0.5) * fine)[..., None]
    first, second, patch = paint.colors.unbind(-2)
    mixed = first + (second - first) * share
    patches = torch.sigmoid(20 * (noise[..., 1] - 0.62)) * paint.grain
    return mixed + (patch - mixed) * patches[..., None]


def _picture_colors(
    textures: Textures, surfaces: Tensor, paint: Surfaces, cells: Tensor, normals: Tensor, footprint: Tensor
) -> Float[Tensor, "b t n 3"]:
    """An image texture, projected along the axis that the surface faces most, repeated without end.

    Where many of its pixels fall into one (from 3 on) it fades to its mean color, which it has by 9.
    """
    axis = normals.abs().argmax(dim=-1, keepdim=True)
    across = cells.gather(-1, (axis + 1) % 3)
    along = cells.gather(-1, (axis + 2) % 3)
    position = PICTURE_SCALE * torch.cat([across, along], dim=-1)
    pictures, side = textures.pictures, textures.pictures.shape[-1]
    place = (position - position.floor()) * side - 0.5
    low = place.floor()
    share = (place - low)[..., None, :]
    column, row = (low.long() % side).unbind(-1)
    next_column, next_row = (column + 1) % side, (row + 1) % side
    number = paint.picture.clamp(min=0)

    def texel(y: Tensor, x: Tensor) -> Tensor:
        return pictures[number, :, y, x].float() / 255

    top = torch.lerp(texel(row, column), texel(row, next_column), share[..., 0])
    bottom = torch.lerp(texel(next_row, column), texel(next_row, next_column), share[..., 0])
    texels = (footprint * PICTURE_SCALE * side)[..., None]
    return torch.lerp(
        _chosen(textures.means, surfaces), torch.lerp(top, bottom, share[..., 1]), (1.5 - texels / 6).clamp(0, 1)
    )


def _light(world: SyntheticScene, depths: Tensor, points: Tensor, normals: Tensor) -> Float[Tensor, "b t n"]:
    """Ambient light from above and a sun with cast shadows (Lambert)."""
    light = world.light
    facing = (normals * light.direction[:, None, None]).sum(dim=-1).clamp(min=0)
    # A little off the surface, so that it does not shadow itself.
    lifted = points + normals * (2e-3 * depths + 2e-3)[..., None]
    shadow = is_shadowed(world, lifted, light.direction) * light.shadow[:, None, None]
    ambient = light.ambient[:, None, None] * (0.75 + 0.25 * normals[..., 2])
    return ambient + light.direct[:, None, None] * facing * (1 - shadow)


def _sky_colors(world: SyntheticScene, points: Tensor, paint: Surfaces, noise: Tensor) -> Float[Tensor, "b t n 3"]:
    """From the horizon's color to the zenith's, with clouds in half of the worlds."""
    height = (points[..., 2:] / world.room[:, None, None, 2:]).clamp(0, 1)
    horizon, zenith = world.light.horizon[:, None, None], world.light.zenith[:, None, None]
    clouds = 0.3 * (noise[..., :1] - 0.5) * (paint.colors[..., 0, :] > 0.5)
    return horizon + (zenith - horizon) * height + clouds
