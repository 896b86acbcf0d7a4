"""Worlds from a seed: a scene is a function of (seed, index) alone, and so is its rendered clip with its truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.appearance import (
    draw_light,
    draw_photometry,
    draw_surfaces,
    expose,
)
from recon4d.datasets.synthetic.camera_paths import draw_cameras, draw_phases, draw_target
from recon4d.datasets.synthetic.counter_rng import Draws, scene_keys
from recon4d.datasets.synthetic.ground_truth import (
    ALL_PIXELS,
    Lattice,
    follow,
    ground_truth_of,
    is_surface,
    see,
)
from recon4d.datasets.synthetic.layout import (
    Cast,
    draw_room,
    draw_shapes,
    without_collisions,
)
from recon4d.datasets.synthetic.noise_volume import VOLUMES, noise_volumes
from recon4d.datasets.synthetic.ray_casting import Hits, cast_rays
from recon4d.datasets.synthetic.scene import SyntheticConfig, SyntheticScene
from recon4d.datasets.synthetic.shading import Textures, shade
from recon4d.geometry import rotation_angle
from recon4d.models import raise_recompile_limit
from recon4d.records import Clip

SECONDS_PER_PHASE = 3.0
PREVIEW_SIDE = 20
"""Longer side in pixels of the picture in which candidates are judged."""


@dataclass(frozen=True)
class RenderParts:
    """The two costly steps of rendering, so that they may be exchanged for compiled ones."""

    cast_rays: Callable[[SyntheticScene, int, int], Hits] = cast_rays
    shade: Callable[..., Tensor] = shade


def compiled_parts() -> RenderParts:
    """The same steps compiled: each size and number of frames costs half a minute once, and then runs far faster."""
    raise_recompile_limit()
    return RenderParts(torch.compile(cast_rays, dynamic=False), torch.compile(shade, dynamic=False))


def make_scenes(
    config: SyntheticConfig,
    seed: int,
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    difficulty: float = 1.0,
    num_pictures: int = 0,
) -> SyntheticScene:
    """A batch of worlds, each the best of its own candidates; `difficulty` in (0, 1] scales motion of the camera."""
    numbers = torch.tensor(list(indices), dtype=torch.int64, device=device)
    candidates = [
        _draw_world(Draws(scene_keys(seed, numbers, candidate)), config, difficulty, num_pictures)
        for candidate in range(config.candidates)
    ]
    if len(candidates) == 1:
        return candidates[0]
    penalties = torch.stack([_penalty(world, config) for world in candidates])
    best = penalties.argmin(dim=0)
    stacked = SyntheticScene.stack(candidates)
    return stacked.map(lambda tensor: tensor[best, torch.arange(len(numbers), device=tensor.device)])


def render_scenes(
    world: SyntheticScene,
    config: SyntheticConfig,
    anchors: Int[Tensor, "batch anchor"] | Sequence[int] = (0,),
    pictures: UInt8[Tensor, "picture 3 side side"] | None = None,
    parts: RenderParts | None = None,
    tracked: Lattice = ALL_PIXELS,
) -> Sample:
    """Clips of worlds and everything that is true of them, with dense tracks of every pixel of the anchors.

    `pictures` are image textures for worlds that were made with their number. `parts` are the plain ones, or those of
    `compiled_parts`. Of the anchors' pixels those on the lattice `tracked` are tracked. Raises ``ValueError`` for
    anchors that are no frames.
    """
    parts = parts or RenderParts()
    volumes = noise_volumes(world.phases.device)[world.volume]
    batch = world.phases.shape[0]
    if not isinstance(anchors, Tensor):
        if any(anchor not in range(config.num_frames) for anchor in anchors):
            raise ValueError(f"anchors {list(anchors)} must be frames from 0 to {config.num_frames - 1}")
        anchors = torch.tensor(list(anchors), dtype=torch.long, device=world.phases.device).expand(batch, -1)
    textures = None if pictures is None else Textures.worn(world.surfaces, pictures)
    hits, colors = [], []
    chunk = _frames_at_once(world, config)
    for start in range(0, config.num_frames, chunk):
        part = world.frames(slice(start, start + chunk))
        hits.append(parts.cast_rays(part, config.height, config.width))
        colors.append(parts.shade(part, hits[-1], volumes, textures))
    images = expose(torch.cat(colors, dim=1), world.photometry)
    whole = Hits(
        depths=torch.cat([hit.depths for hit in hits], dim=1),
        surfaces=torch.cat([hit.surfaces for hit in hits], dim=1),
        points=torch.cat([hit.points for hit in hits], dim=1),
    )
    times = torch.where(world.is_loose[:, None], torch.nan, SECONDS_PER_PHASE * world.phases)
    clip = Clip((images * 255).round().to(torch.uint8), times)
    return Sample(clip, ground_truth_of(world, whole, anchors, tracked), object_ids=whole.surfaces)


def preview(world: SyntheticScene, config: SyntheticConfig, side: int) -> tuple[SyntheticScene, Hits]:
    """The world filmed in a small picture, `side` pixels on the longer side, and what that picture sees."""
    scale = side / max(config.height, config.width)
    height, width = (max(4, round(length * scale)) for length in (config.height, config.width))
    cameras = world.cameras.resized((config.height, config.width), (height, width))
    small = replace(world, cameras=cameras)
    return small, cast_rays(small, height, width)


def overlap_and_motion(
    world: SyntheticScene, hits: Hits
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """The shares of the first frame's surface that each frame sees, and that have moved by 2 % of depth by then."""
    first = torch.zeros_like(world.photometry.noise_key)
    points = hits.points[:, 0].flatten(1, 2)
    moved = follow(world, hits.surfaces[:, 0].flatten(1), points, first)
    known = is_surface(world, hits.surfaces)[:, 0].flatten(1)[:, None]
    _, seen = see(world, hits.depths, moved)
    has_moved = (moved - points[:, None]).norm(dim=-1) > 0.02 * hits.depths[:, 0].flatten(1)[:, None]
    total = known.sum(dim=-1).clamp(min=1)
    return (seen & known).sum(dim=-1) / total, (has_moved & known).sum(dim=-1) / known.shape[-1]


def _frames_at_once(world: SyntheticScene, config: SyntheticConfig) -> int:
    """As many as memory likes: what fits into a processor's cache (several times faster there), or a GPU's share."""
    budget = 2**21 if world.phases.device.type == "cpu" else 2**28
    rays = world.phases.shape[0] * config.height * config.width * config.primitives
    return max(1, budget // rays)


def _draw_world(draws: Draws, config: SyntheticConfig, difficulty: float, num_pictures: int) -> SyntheticScene:
    room, outdoors = draw_room(draws)
    is_loose = draws.chance(probability=config.loose_share)
    kind = draws.uniform()
    is_static = kind < config.static_share
    stands_still = kind > 1 - config.still_share
    one_mover = kind > 1 - 2 / 3 * config.still_share
    phases = draw_phases(draws, config, is_loose)
    target = draw_target(draws, room)
    cameras = draw_cameras(draws, config, phases, room, target, stands_still, difficulty)
    shapes = draw_shapes(draws, config, phases, room, outdoors, target, Cast(is_static, one_mover))
    return SyntheticScene(
        cameras=cameras,
        phases=phases,
        is_loose=is_loose,
        room=room,
        shapes=without_collisions(shapes, cameras.centers),
        surfaces=draw_surfaces(draws, config, outdoors, num_pictures),
        light=draw_light(draws),
        photometry=draw_photometry(draws, config.num_frames),
        volume=draws.integers(below=VOLUMES),
    )


def _penalty(world: SyntheticScene, config: SyntheticConfig) -> Float[Tensor, "batch"]:
    """What is wrong with a candidate, judged in a small picture: little overlap or motion, too near, turned away."""
    small, hits = preview(world, config, PREVIEW_SIDE)
    overlap, motion = overlap_and_motion(small, hits)
    too_near = (hits.depths < 0.6).float().mean(dim=(1, 2, 3))
    least_surface = is_surface(small, hits.surfaces).float().mean(dim=(2, 3)).amin(dim=1)
    has_movers = world.shapes.moves.any(dim=1)
    rotation = world.cameras.world_from_cam[..., :3, :3]
    turned = rotation_angle(rotation[:, :1].transpose(-1, -2) @ rotation).amax(dim=1)
    share_moving = motion.mean(dim=1)
    return (
        10 * (config.min_overlap - overlap.amin(dim=1)).clamp(min=0)
        + 3 * (too_near - 0.1).clamp(min=0)
        + 4 * (0.35 - least_surface).clamp(min=0)
        + 4 * (0.16 - share_moving).clamp(min=0) * has_movers
        + 3 * (share_moving - 0.45).clamp(min=0)
        + 2 * (0.5 - turned.cos()).clamp(min=0)
    )
