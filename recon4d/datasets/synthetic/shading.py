"""Shading of ray hits: patterns and image textures in local coordinates, light, cast shadows and sky."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.datasets.synthetic.noise_volume import sample_noise
from recon4d.datasets.synthetic.ray_casting import Hits, is_shadowed
from recon4d.datasets.synthetic.scene import Surfaces, SyntheticScene

CELLS_PER_PERIOD = 8
"""Number of cells in a period of coarse noise; fine noise repeats in every cell."""
TEXTURE_SCALE = 0.35
"""Periods of an image texture per pattern cell, so that one image covers about three cells. Hand-tuned."""


@dataclass(frozen=True)
class Textures:
    """Image textures, and the mean color of the texture of each surface."""

    images: UInt8[Tensor, "texture 3 side side"]
    """Images as uint8 RGB."""
    mean_colors: Float[Tensor, "batch surface 3"]
    """Mean color in [0, 1], which replaces the texture far away."""

    @classmethod
    def for_surfaces(cls, surfaces: Surfaces, images: UInt8[Tensor, "texture 3 side side"]) -> "Textures":
        """Compute the mean colors of the textures of surfaces.

        Args:
            surfaces: Surfaces with texture indices.
            images: Image textures.

        Returns:
            The textures.
        """
        return cls(images, images[surfaces.texture.clamp(min=0)].float().mean(dim=(-1, -2)) / 255)


def shade(
    scene: SyntheticScene,
    hits: Hits,
    volumes: Float[Tensor, "batch 4 side side side"],
    textures: Textures | None = None,
) -> Float[Tensor, "batch time 3 height width"]:
    """Compute the light that reaches the camera from every hit, before exposure.

    Args:
        scene: Batch of scenes.
        hits: Hits of its pixels.
        volumes: Noise volume of each scene.
        textures: Image textures. None uses the procedural patterns of all surfaces.

    Returns:
        Linear RGB light, from 0 to 1.5.
    """
    size = hits.depths.shape[-2:]
    depths, surfaces, points = (part.flatten(2, 3) for part in (hits.depths, hits.surfaces, hits.points))
    world_from_pattern = _world_from_pattern(scene, surfaces)
    local, normals = _local_points_and_normals(scene, surfaces, world_from_pattern, points)
    paint = _lookup_surfaces(scene.surfaces, surfaces)
    cells = (paint.pattern_from_local @ local[..., None])[..., 0] + paint.offset
    focal = scene.cameras.intrinsics[..., 0, 0, None]
    # Pattern cells per pixel: finer detail is faded out to avoid aliasing.
    footprint = depths / focal * paint.pattern_from_local.abs().amax(dim=(-1, -2))
    noise, fine_noise = sample_noise(volumes, cells), sample_noise(volumes, 0.83 * CELLS_PER_PERIOD * cells + 0.37)

    colors = _pattern_colors(paint, cells, noise, footprint)
    if textures is not None:
        local_normals = (world_from_pattern[..., :3, :3].transpose(-1, -2) @ normals[..., None])[..., 0]
        textured = _texture_colors(textures, surfaces, paint, cells, local_normals, footprint)
        colors = torch.where((paint.texture >= 0)[..., None], textured, colors)
    grain = paint.grain * (1.5 - 14 * footprint).clamp(0, 1)
    colors = colors * (1 + 1.2 * grain * (fine_noise[..., 0] - 0.5))[..., None]
    colors = colors + (0.12 * grain * (fine_noise[..., 3] - 0.5))[..., None]
    lit = colors * _light(scene, depths, points, normals)[..., None] * scene.light.tint[:, None, None]
    shown = torch.where(paint.is_sky[..., None], _sky_colors(scene, points, paint, noise), lit).clamp(0, 1.5)
    return shown.transpose(-1, -2).unflatten(-1, size)


def _lookup_surfaces(surfaces: Surfaces, indices: Tensor) -> Surfaces:
    """Look up the appearance of surfaces by index (batch, time, n); these axes lead in every field."""
    return surfaces.map(lambda values: _lookup(values, indices))


def _lookup(values: Tensor, indices: Tensor) -> Tensor:
    """Look up values of surfaces by index (batch, time, n)."""
    batch = torch.arange(indices.shape[0], device=indices.device)[:, None, None]
    return values[batch, indices]


def _local_points_and_normals(
    scene: SyntheticScene, surfaces: Tensor, world_from_pattern: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute points in the frame that patterns are fixed to, and unit normals in the world frame."""
    count = scene.shapes.is_active.shape[-1]
    is_primitive = surfaces < count
    rotation, center = world_from_pattern[..., :3, :3], world_from_pattern[..., :3, 3]
    local = (rotation.transpose(-1, -2) @ (points - center)[..., None])[..., 0]

    batch = torch.arange(len(surfaces), device=surfaces.device)[:, None, None]
    primitive = torch.where(is_primitive, surfaces, 0)
    size, quadric, slab = (
        part[batch, primitive] for part in (scene.shapes.size, scene.shapes.quadric, scene.shapes.slab)
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


def _world_from_pattern(scene: SyntheticScene, surfaces: Tensor) -> Float[Tensor, "b t n 4 4"]:
    """Return the frame that the pattern of each hit is fixed to: its primitive, or the world for the enclosure."""
    is_primitive = surfaces < scene.shapes.is_active.shape[-1]
    batch = torch.arange(len(surfaces), device=surfaces.device)[:, None, None]
    frame = torch.arange(surfaces.shape[1], device=surfaces.device)[None, :, None]
    world_from_local = scene.shapes.world_from_local[batch, frame, torch.where(is_primitive, surfaces, 0)]
    identity = torch.eye(4, device=surfaces.device)
    return torch.where(is_primitive[..., None, None], world_from_local, identity)


def _pattern_colors(paint: Surfaces, cells: Tensor, noise: Tensor, footprint: Tensor) -> Float[Tensor, "b t n 3"]:
    """Mix two colors by the pattern of the surface and add spots of a third."""
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


def _texture_colors(
    textures: Textures, surfaces: Tensor, paint: Surfaces, cells: Tensor, normals: Tensor, footprint: Tensor
) -> Float[Tensor, "b t n 3"]:
    """Sample a periodic image texture, projected along the axis closest to the normal.

    The color fades to the mean of the image from 3 texels per pixel on, and equals it from 9 on.
    """
    axis = normals.abs().argmax(dim=-1, keepdim=True)
    across = cells.gather(-1, (axis + 1) % 3)
    along = cells.gather(-1, (axis + 2) % 3)
    position = TEXTURE_SCALE * torch.cat([across, along], dim=-1)
    images, side = textures.images, textures.images.shape[-1]
    place = (position - position.floor()) * side - 0.5
    low = place.floor()
    share = (place - low)[..., None, :]
    column, row = (low.long() % side).unbind(-1)
    next_column, next_row = (column + 1) % side, (row + 1) % side
    number = paint.texture.clamp(min=0)

    def texel(y: Tensor, x: Tensor) -> Tensor:
        return images[number, :, y, x].float() / 255

    top = torch.lerp(texel(row, column), texel(row, next_column), share[..., 0])
    bottom = torch.lerp(texel(next_row, column), texel(next_row, next_column), share[..., 0])
    texels = (footprint * TEXTURE_SCALE * side)[..., None]
    return torch.lerp(
        _lookup(textures.mean_colors, surfaces), torch.lerp(top, bottom, share[..., 1]), (1.5 - texels / 6).clamp(0, 1)
    )


def _light(scene: SyntheticScene, depths: Tensor, points: Tensor, normals: Tensor) -> Float[Tensor, "b t n"]:
    """Compute Lambertian shading with ambient light from above and a sun with cast shadows."""
    light = scene.light
    facing = (normals * light.direction[:, None, None]).sum(dim=-1).clamp(min=0)
    # Offset from the surface so that it does not shadow itself.
    lifted = points + normals * (2e-3 * depths + 2e-3)[..., None]
    shadow = is_shadowed(scene, lifted, light.direction) * light.shadow[:, None, None]
    ambient = light.ambient[:, None, None] * (0.75 + 0.25 * normals[..., 2])
    return ambient + light.direct[:, None, None] * facing * (1 - shadow)


def _sky_colors(scene: SyntheticScene, points: Tensor, paint: Surfaces, noise: Tensor) -> Float[Tensor, "b t n 3"]:
    """Interpolate between the colors of horizon and zenith, with clouds in half of the scenes."""
    height = (points[..., 2:] / scene.enclosure[:, None, None, 2:]).clamp(0, 1)
    horizon, zenith = scene.light.horizon[:, None, None], scene.light.zenith[:, None, None]
    clouds = 0.3 * (noise[..., :1] - 0.5) * (paint.colors[..., 0, :] > 0.5)
    return horizon + (zenith - horizon) * height + clouds
