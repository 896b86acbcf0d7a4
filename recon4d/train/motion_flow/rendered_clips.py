"""Rendered synthetic clips with the tokens of a frozen model at the tracked pixels."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from recon4d.datasets.synthetic import Lattice, SyntheticConfig, make_scenes, render_scenes
from recon4d.inference import processing_size
from recon4d.inference.tracking_tokens import tracking_tokens
from recon4d.models import Model
from recon4d.train.motion_flow.track_clips import STATIC_SHARE, TrackClips

RENDERED_SEED = 20270101
"""Seed of the rendered scenes; benchmarks use other seeds."""
NUM_FRAMES = 8
"""Number of frames of the whole interval."""
MIN_WINDOW = 4
"""Smallest number of frames that the model gets to see."""
NUM_TRACKS = 192
"""Number of tracks of a clip; pixels are repeated where there are fewer."""
MIN_DYNAMIC = 12
"""Scenes with fewer tracks that move are left out."""
LATTICE = Lattice(4)
"""Tracked pixels."""


def render_track_clips(model: Model, count: int, report: Callable[[int], object] = lambda count: None) -> TrackClips:
    """Render clips, run the frozen model on the observed frames, and keep the tokens at tracked pixels.

    Args:
        model: A model in evaluation mode.
        count: Number of scenes; about a second each on one core of a CPU.
        report: Called with 1 after each scene.

    Returns:
        The clips of all scenes in which enough moves.
    """
    clips = []
    for index in range(count):
        clip = _render(model, index)
        if clip is not None:
            clips.append(clip)
        report(1)
    return TrackClips.stack(clips)


def _render(model: Model, index: int) -> TrackClips | None:
    """Render one scene."""
    generator = torch.Generator().manual_seed(index)
    # In a third of the clips, everything hidden lies within the clip.
    length = NUM_FRAMES if index % 3 == 0 else _below(NUM_FRAMES - MIN_WINDOW + 1, generator) + MIN_WINDOW
    first = _below(NUM_FRAMES - length + 1, generator)
    anchor = first + _below(length, generator)
    height, width = processing_size((3, 4), model.config.processing_size, model.patch_size)
    config = SyntheticConfig(NUM_FRAMES, height, width, static_scene_share=0, static_camera_share=0.2, attempts=1)
    sample = render_scenes(make_scenes(config, RENDERED_SEED, [index]), config, (anchor,), query_lattice=LATTICE)[0]
    tracks = sample.scene.tracks
    assert tracks is not None
    column, row = tracks.pixels[0].long().unbind(dim=-1)
    is_known = (tracks.confidence[0] > 0).all(dim=0)
    is_dynamic = sample.scene.is_dynamic[anchor, row, column]
    dynamic, static = ((is_known & chosen).nonzero()[:, 0] for chosen in (is_dynamic, ~is_dynamic))
    if len(dynamic) < MIN_DYNAMIC or not len(static):
        return None
    num_static = round(STATIC_SHARE * NUM_TRACKS)
    kept = torch.cat([_draw(dynamic, NUM_TRACKS - num_static, generator), _draw(static, num_static, generator)])
    clip = sample.clip.frames(slice(first, first + length))
    places = tracks.pixels[0, kept] / torch.tensor([width, height])
    tokens = tracking_tokens(model, clip, torch.full_like(kept, anchor - first), places)
    frames = torch.arange(NUM_FRAMES)[:, None]
    is_observed = (tracks.visibility[0][:, kept] > 0.5) & (frames >= first) & (frames < first + length)
    is_observed[anchor] = True
    points = tracks.points[0][:, kept]
    times = sample.clip.times - sample.clip.times[0]
    return TrackClips(points, is_observed.to(points), points, times / times[-1], tokens.to(torch.float16))


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=generator))


def _draw(values: Int[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Draw values without repetition while there are enough."""
    order = torch.randperm(max(len(values), count), generator=generator)[:count]
    return values[order % len(values)]
