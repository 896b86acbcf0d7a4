"""Tracks of synthetic scenes without pictures: thousands of clips a second to learn motion from.

Points on the surfaces of dynamic and static primitives move with them; a point is visible in front of the camera unless
its surface faces away. Hidden runs of frames, of whole primitives and of single points, stand for occlusion.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.datasets.synthetic import SyntheticConfig, make_scenes
from recon4d.datasets.synthetic.scene import SyntheticScene
from recon4d.geometry import project, rotation_from_quaternion, transform_points
from recon4d.records.tensors import TensorRecord

SCENES_SEED = 20270102
"""Seed of the scenes without pictures; benchmarks use other seeds."""
NUM_FRAMES = 12
"""Number of frames of a scene, of which a clip has a part."""
OVERSAMPLING = 4
"""Number of points that are drawn for each track, since many face away from the camera."""
HIDDEN_BODY = 0.35
"""Probability that a primitive is hidden for some frames. Hand-tuned, as are the following."""
HIDDEN_POINT = 0.15
"""Probability that a point is hidden for some frames."""
RUN_SHARE = 0.3
"""Share of batches whose interval is a part of the time of the scenes."""
STATIC_SHARE = 0.15
"""Share of points on primitives that do not move."""
MIN_WINDOW, MAX_WINDOW = 3, NUM_FRAMES
"""Smallest and largest number of frames that the observed clip has."""
NOISY_SHARE = 0.5
"""Share of clips whose observations are noisy."""
NOISE = (1e-3, 0.1)
"""Range of the standard deviation of noise, in units of the speed times the duration."""


@dataclass(frozen=True, eq=False)
class TrackClips(TensorRecord):
    """A batch of clips of tracks: what was observed, and the truth."""

    observed: Float[Tensor, "*batch time track 3"]
    """Observed positions; read where `weights` is positive."""
    weights: Float[Tensor, "*batch time track"]
    """1 where a position was observed, else 0."""
    points: Float[Tensor, "*batch time track 3"]
    """True positions at all times."""
    times: Float[Tensor, "*batch time"]
    """Times from 0 to 1."""
    tokens: Float[Tensor, "*batch track token_width"] | None = None
    """Tokens of the frozen model at the pixel of each track; None without pictures."""


def make_track_scenes(count: int, first: int = 0) -> list[SyntheticScene]:
    """Make scenes to draw clips from.

    Args:
        count: Number of scenes, about 20 KB and 4 ms each.
        first: Index of the first one.

    Returns:
        Batches of at most 256 scenes.
    """
    config = SyntheticConfig(num_frames=NUM_FRAMES, static_scene_share=0, static_camera_share=0.2, attempts=1)
    starts = range(first, first + count, 256)
    return [make_scenes(config, SCENES_SEED, range(start, min(start + 256, first + count))) for start in starts]


def draw_track_clips(scenes: SyntheticScene, num_tracks: int, generator: torch.Generator) -> TrackClips:
    """Draw one clip from each scene.

    Args:
        scenes: Batch of scenes.
        num_tracks: Number of tracks of each clip.
        generator: Random generator.

    Returns:
        Clips of 8 to `NUM_FRAMES` frames.
    """
    frames = _draw_frames(generator)
    count = len(frames)
    scenes = scenes.frames(frames)
    times = scenes.phases - scenes.phases[:, :1]
    times = times / times[:, -1:]
    batch, _, num_primitives = scenes.shapes.world_from_local.shape[:3]
    window = draw_windows(batch, count, generator)
    points, primitives, is_front = _draw_points(scenes, OVERSAMPLING * num_tracks, generator)
    # Pixels are chosen in one frame of the clip, the anchor.
    anchor = (torch.rand(batch, count, generator=generator) + window).argmax(dim=1)
    chosen = is_front[torch.arange(batch), anchor].float() + torch.rand(primitives.shape, generator=generator)
    kept = chosen.topk(num_tracks, dim=1).indices
    points = points.gather(2, kept[:, None, :, None].expand(-1, count, -1, 3))
    primitives, is_front = primitives.gather(1, kept), is_front.gather(2, kept[:, None].expand(-1, count, -1))

    is_hidden = _draw_runs(batch, count, num_primitives, HIDDEN_BODY, generator)
    is_hidden = is_hidden.gather(2, primitives[:, None].expand(-1, count, -1))
    is_hidden |= _draw_runs(batch, count, num_tracks, HIDDEN_POINT, generator)
    is_observed = is_front & ~is_hidden & window[..., None]
    is_observed[torch.arange(batch), anchor] = True
    return augment(TrackClips(points, is_observed.to(points), points, times), generator)


def _draw_frames(generator: torch.Generator) -> list[int]:
    """Draw the frames of the whole interval: a run of them, or some from the first to the last."""
    count = int(torch.randint(8, NUM_FRAMES + 1, (1,), generator=generator))
    if torch.rand(1, generator=generator) < RUN_SHARE:
        start = int(torch.randint(0, NUM_FRAMES - count + 1, (1,), generator=generator))
        return list(range(start, start + count))
    inner = torch.randperm(NUM_FRAMES - 2, generator=generator)[: count - 2] + 1
    return [0, *sorted(inner.tolist()), NUM_FRAMES - 1]


def draw_windows(batch: int, count: int, generator: torch.Generator) -> Bool[Tensor, "batch time"]:
    """Draw which frames the observed clip has: all, or a run of them.

    Args:
        batch: Number of clips.
        count: Number of frames of the whole interval.
        generator: Random generator.

    Returns:
        True for frames of the clip.
    """
    length = torch.randint(MIN_WINDOW, count + 1, (batch, 1), generator=generator)
    length = torch.where(torch.rand(batch, 1, generator=generator) < 0.2, count, length)
    first = (torch.rand(batch, 1, generator=generator) * (count - length + 1)).long()
    frames = torch.arange(count)
    return (frames >= first) & (frames < first + length)


def augment(clips: TrackClips, generator: torch.Generator) -> TrackClips:
    """Turn clips in space and time, and add noise to the observations of some.

    Args:
        clips: A batch of clips.
        generator: Random generator.

    Returns:
        The changed clips.
    """
    batch = len(clips.times)
    rotation = rotation_from_quaternion(F.normalize(torch.randn(batch, 4, generator=generator), dim=-1))
    observed, points = (values @ rotation[:, None].mT for values in (clips.observed, clips.points))
    displacement = (points[:, -1] - points[:, 0]).square().sum(dim=-1).mean(dim=-1).sqrt()
    low, high = (torch.tensor(bound).log() for bound in NOISE)
    deviation = (low + (high - low) * torch.rand(batch, generator=generator)).exp() * displacement
    deviation = deviation * (torch.rand(batch, generator=generator) < NOISY_SHARE)
    noise = torch.randn(observed.shape, generator=generator)
    observed = observed + deviation[:, None, None, None] * noise
    is_reversed = (torch.rand(batch, generator=generator) < 0.5)[:, None]
    order = torch.arange(clips.times.shape[1]).expand_as(clips.times)
    order = torch.where(is_reversed, order.flip(1), order)
    rows = torch.arange(batch)[:, None]
    times = torch.where(is_reversed, 1 - clips.times.flip(1), clips.times)
    return replace(
        clips,
        observed=observed[rows, order],
        points=points[rows, order],
        weights=clips.weights[rows, order],
        times=times,
    )


def _draw_points(
    scenes: SyntheticScene, num_tracks: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch time track 3"], Int[Tensor, "batch track"], Bool[Tensor, "batch time track"]]:
    """Draw points on primitives; return positions, primitives, and whether they face the camera in the image."""
    shapes = scenes.shapes
    batch, time = shapes.world_from_local.shape[:2]
    dynamic = (shapes.is_active & shapes.is_dynamic).to(torch.float32)
    static = (shapes.is_active & ~shapes.is_dynamic).to(torch.float32)
    # A scene without primitives of a kind takes those of the other, and without any the first one.
    share = torch.where(static.any(dim=1), STATIC_SHARE, 0.0)
    share = torch.where(dynamic.any(dim=1), share, 1.0)[:, None]
    # Primitives have as many pixels as they look large.
    apart = shapes.world_from_local[:, time // 2, :, :3, 3] - scenes.cameras.centers[:, time // 2, None]
    angle = shapes.size.prod(dim=-1).pow(2 / 3) / apart.square().sum(dim=-1).clamp(min=1)
    chance = (1 - share) * _normalized(dynamic * angle) + share * _normalized(static * angle) + 1e-6
    primitives = torch.multinomial(chance, num_tracks, replacement=True, generator=generator)
    rows = torch.arange(batch)[:, None]
    direction = F.normalize(torch.randn(batch, num_tracks, 3, generator=generator), dim=-1)
    quadric, slab = shapes.quadric[rows, primitives], shapes.slab[rows, primitives]
    reach = (quadric * direction.square()).sum(dim=-1).clamp(min=1e-9).rsqrt()
    reach = torch.minimum(reach, (slab / direction.abs().clamp(min=1e-9)).amin(dim=-1))
    local = reach[..., None] * direction * shapes.size[rows, primitives]
    world_from_local = shapes.world_from_local[rows[:, None], torch.arange(time)[:, None], primitives[:, None]]
    points = (world_from_local[..., :3, :3] @ local[:, None, ..., None])[..., 0] + world_from_local[..., :3, 3]

    in_camera = transform_points(scenes.cameras.cam_from_world, points)
    pixels = project(in_camera, scenes.cameras.intrinsics)
    height, width = SyntheticConfig.height, SyntheticConfig.width
    is_inside = (in_camera[..., 2] > 0.15) & (pixels > 0).all(dim=-1)
    is_inside &= (pixels[..., 0] < width) & (pixels[..., 1] < height)
    outward = points - world_from_local[..., :3, 3]
    to_camera = scenes.cameras.centers[:, :, None] - points
    return points, primitives, is_inside & ((outward * to_camera).sum(dim=-1) > 0)


def _normalized(chance: Tensor) -> Tensor:
    return chance / chance.sum(dim=1, keepdim=True).clamp(min=1e-9)


def _draw_runs(
    batch: int, count: int, number: int, probability: float, generator: torch.Generator
) -> Bool[Tensor, "batch time number"]:
    """Draw runs of frames in which something is hidden."""
    first = torch.randint(-2, count, (batch, 1, number), generator=generator)
    length = torch.randint(1, max(2, count // 2 + 1), (batch, 1, number), generator=generator)
    is_drawn = torch.rand(batch, 1, number, generator=generator) < probability
    frames = torch.arange(count)[:, None]
    return (frames >= first) & (frames < first + length) & is_drawn
