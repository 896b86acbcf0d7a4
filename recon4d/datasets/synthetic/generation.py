"""Generation and rendering of synthetic scenes: scene, clip and ground truth are functions of a seed and an index."""

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
from recon4d.datasets.synthetic.counter_rng import CounterRng, scene_keys
from recon4d.datasets.synthetic.ground_truth import (
    ALL_PIXELS,
    Lattice,
    is_surface,
    make_ground_truth,
    project_with_visibility,
    track_points,
)
from recon4d.datasets.synthetic.layout import (
    MotionKind,
    deactivate_colliding,
    draw_enclosure,
    draw_shapes,
)
from recon4d.datasets.synthetic.noise_volume import NUM_VOLUMES, noise_volumes
from recon4d.datasets.synthetic.ray_casting import Hits, cast_rays
from recon4d.datasets.synthetic.scene import SyntheticConfig, SyntheticScene
from recon4d.datasets.synthetic.shading import Textures, shade
from recon4d.geometry import rotation_angle
from recon4d.models import raise_recompile_limit
from recon4d.records import Clip

SECONDS_PER_PHASE = 3.0
"""Duration of one unit of `SyntheticScene.phases`, in seconds."""
PREVIEW_SIDE = 20
"""Longer side in pixels of the image in which attempts at a scene are compared."""


@dataclass(frozen=True)
class RenderSteps:
    """The two expensive steps of rendering, which can be replaced by compiled ones."""

    cast_rays: Callable[[SyntheticScene, int, int], Hits] = cast_rays
    """`ray_casting.cast_rays` or an equivalent."""
    shade: Callable[..., Tensor] = shade
    """`shading.shade` or an equivalent."""


def compile_render_steps() -> RenderSteps:
    """Compile the expensive steps of rendering.

    Each combination of image size and number of frames compiles for about half a minute; after that, rendering is
    several times faster.

    Returns:
        Steps for `render_scenes`.
    """
    raise_recompile_limit()
    return RenderSteps(torch.compile(cast_rays, dynamic=False), torch.compile(shade, dynamic=False))


def make_scenes(
    config: SyntheticConfig,
    seed: int,
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    difficulty: float = 1.0,
    num_textures: int = 0,
) -> SyntheticScene:
    """Build a batch of scenes, each the best of `config.attempts` attempts.

    Args:
        config: Configuration of the scenes.
        seed: Seed of the scenes.
        indices: Index of each scene of the seed.
        device: Device of the result.
        difficulty: Factor on camera motion, in (0, 1].
        num_textures: Number of image textures that surfaces may use; 0 uses procedural patterns only.

    Returns:
        The scenes. They do not depend on each other.
    """
    numbers = torch.tensor(list(indices), dtype=torch.int64, device=device)
    attempts = [
        _draw_scene(CounterRng(scene_keys(seed, numbers, attempt)), config, difficulty, num_textures)
        for attempt in range(config.attempts)
    ]
    if len(attempts) == 1:
        return attempts[0]
    penalties = torch.stack([_penalty(scene, config) for scene in attempts])
    best = penalties.argmin(dim=0)
    stacked = SyntheticScene.stack(attempts)
    return stacked.map(lambda tensor: tensor[best, torch.arange(len(numbers), device=tensor.device)])


def render_scenes(
    scene: SyntheticScene,
    config: SyntheticConfig,
    anchors: Int[Tensor, "batch anchor"] | Sequence[int] = (0,),
    textures: UInt8[Tensor, "texture 3 side side"] | None = None,
    steps: RenderSteps | None = None,
    query_lattice: Lattice = ALL_PIXELS,
) -> Sample:
    """Render the clips of a batch of scenes with their ground truth.

    Args:
        scene: Batch of scenes.
        config: The configuration that the scenes were built with.
        anchors: Anchor frames to track pixels from, of each scene or the same for all.
        textures: Image textures, as many as given to `make_scenes`. None renders procedural patterns only.
        steps: Expensive steps, such as those of `compile_render_steps`. None runs them uncompiled.
        query_lattice: Pixels of the anchors to track; all by default.

    Returns:
        Images, ground truth with tracks, and the surface index of every pixel as object ids.

    Raises:
        ValueError: If an anchor is not a frame of the clip.
    """
    steps = steps or RenderSteps()
    volumes = noise_volumes(scene.phases.device)[scene.noise_volume]
    batch = scene.phases.shape[0]
    if not isinstance(anchors, Tensor):
        if any(anchor not in range(config.num_frames) for anchor in anchors):
            raise ValueError(f"anchors {list(anchors)} must be frames from 0 to {config.num_frames - 1}")
        anchors = torch.tensor(list(anchors), dtype=torch.long, device=scene.phases.device).expand(batch, -1)
    surface_textures = None if textures is None else Textures.for_surfaces(scene.surfaces, textures)
    hits, colors = [], []
    chunk = _frames_per_chunk(scene, config)
    for start in range(0, config.num_frames, chunk):
        part = scene.frames(slice(start, start + chunk))
        hits.append(steps.cast_rays(part, config.height, config.width))
        colors.append(steps.shade(part, hits[-1], volumes, surface_textures))
    images = expose(torch.cat(colors, dim=1), scene.photometry)
    whole = Hits(
        depths=torch.cat([hit.depths for hit in hits], dim=1),
        surfaces=torch.cat([hit.surfaces for hit in hits], dim=1),
        points=torch.cat([hit.points for hit in hits], dim=1),
    )
    times = torch.where(scene.is_unordered[:, None], torch.nan, SECONDS_PER_PHASE * scene.phases)
    clip = Clip((images * 255).round().to(torch.uint8), times)
    return Sample(clip, make_ground_truth(scene, whole, anchors, query_lattice), object_ids=whole.surfaces)


def preview(scene: SyntheticScene, config: SyntheticConfig, side: int) -> tuple[SyntheticScene, Hits]:
    """Cast rays for a small image of each scene.

    Args:
        scene: Batch of scenes.
        config: Configuration of the scenes.
        side: Longer side of the small image in pixels.

    Returns:
        The scenes with intrinsics of the small image, and the hits of its pixels.
    """
    scale = side / max(config.height, config.width)
    height, width = (max(4, round(length * scale)) for length in (config.height, config.width))
    cameras = scene.cameras.resized((config.height, config.width), (height, width))
    small = replace(scene, cameras=cameras)
    return small, cast_rays(small, height, width)


def overlap_and_motion(
    scene: SyntheticScene, hits: Hits
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Measure how much of the first frame is visible in each frame, and how much of it has moved by then.

    Args:
        scene: Batch of scenes.
        hits: Hits of its pixels, in any image size.

    Returns:
        The fraction of the first frame's surface that is visible in each frame, and the fraction of its pixels that
        have moved by more than 2% of their depth.
    """
    first = torch.zeros_like(scene.photometry.noise_key)
    points = hits.points[:, 0].flatten(1, 2)
    moved = track_points(scene, hits.surfaces[:, 0].flatten(1), points, first)
    known = is_surface(scene, hits.surfaces)[:, 0].flatten(1)[:, None]
    _, visibility = project_with_visibility(scene, hits.depths, moved)
    has_moved = (moved - points[:, None]).norm(dim=-1) > 0.02 * hits.depths[:, 0].flatten(1)[:, None]
    total = known.sum(dim=-1).clamp(min=1)
    return (visibility & known).sum(dim=-1) / total, (has_moved & known).sum(dim=-1) / known.shape[-1]


def _frames_per_chunk(scene: SyntheticScene, config: SyntheticConfig) -> int:
    """Choose how many frames to render at once, so that they fit into the cache of a CPU or the memory of a GPU."""
    budget = 2**21 if scene.phases.device.type == "cpu" else 2**28
    rays = scene.phases.shape[0] * config.height * config.width * config.primitives
    return max(1, budget // rays)


def _draw_scene(rng: CounterRng, config: SyntheticConfig, difficulty: float, num_textures: int) -> SyntheticScene:
    """Draw one attempt at each scene of a batch."""
    enclosure, outdoors = draw_enclosure(rng)
    is_unordered = rng.bernoulli(probability=config.loose_share)
    category = rng.uniform()
    is_static = category < config.static_scene_share
    has_static_camera = category > 1 - config.static_camera_share
    has_one_dynamic_body = category > 1 - 2 / 3 * config.static_camera_share
    phases = draw_phases(rng, config, is_unordered)
    target = draw_target(rng, enclosure)
    cameras = draw_cameras(rng, config, phases, enclosure, target, has_static_camera, difficulty)
    shapes = draw_shapes(rng, config, phases, enclosure, outdoors, target, MotionKind(is_static, has_one_dynamic_body))
    return SyntheticScene(
        cameras=cameras,
        phases=phases,
        is_unordered=is_unordered,
        enclosure=enclosure,
        shapes=deactivate_colliding(shapes, cameras.centers),
        surfaces=draw_surfaces(rng, config, outdoors, num_textures),
        light=draw_light(rng),
        photometry=draw_photometry(rng, config.num_frames),
        noise_volume=rng.integers(below=NUM_VOLUMES),
    )


def _penalty(scene: SyntheticScene, config: SyntheticConfig) -> Float[Tensor, "batch"]:
    """Penalize little overlap or motion, close surfaces, much sky, and rotations above 60 degrees in a small image."""
    small, hits = preview(scene, config, PREVIEW_SIDE)
    overlap, motion = overlap_and_motion(small, hits)
    near_share = (hits.depths < 0.6).float().mean(dim=(1, 2, 3))
    min_surface_share = is_surface(small, hits.surfaces).float().mean(dim=(2, 3)).amin(dim=1)
    has_dynamic_bodies = scene.shapes.is_dynamic.any(dim=1)
    rotation = scene.cameras.world_from_cam[..., :3, :3]
    max_rotation = rotation_angle(rotation[:, :1].transpose(-1, -2) @ rotation).amax(dim=1)
    dynamic_share = motion.mean(dim=1)
    return (
        10 * (config.min_overlap - overlap.amin(dim=1)).clamp(min=0)
        + 3 * (near_share - 0.1).clamp(min=0)
        + 4 * (0.35 - min_surface_share).clamp(min=0)
        + 4 * (0.16 - dynamic_share).clamp(min=0) * has_dynamic_bodies
        + 3 * (dynamic_share - 0.45).clamp(min=0)
        + 2 * (0.5 - max_rotation.cos()).clamp(min=0)
    )
