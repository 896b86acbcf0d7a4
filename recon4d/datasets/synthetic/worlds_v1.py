"""The frozen benchmark worlds-v1: chosen clips of a fixed seed, and the statistics that they were chosen by."""

from dataclasses import dataclass, replace
from itertools import count as count_from

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.generation import (
    make_scenes,
    overlap_and_motion,
    preview,
    render_scenes,
)
from recon4d.datasets.synthetic.ground_truth import is_surface
from recon4d.datasets.synthetic.scene import SyntheticConfig, SyntheticScene
from recon4d.geometry import rotation_angle

SEED = 20261120
PREVIEW_SIDE = 64
"""Longer side in pixels of the picture in which statistics are measured."""
MIN_MOVING = 0.16
"""Share of the first frame's pixels that have moved, on average over the frames, in a dynamic clip."""
STILL_CAMERA = 1e-6
"""Meters that the camera moves at most in a clip with a still camera."""


@dataclass(frozen=True)
class Split:
    """Clips of worlds-v1: the same on every machine, up to rounding in the pixels."""

    config: SyntheticConfig
    indices: tuple[int, ...]

    def sample(self, position: int) -> Sample:
        """One clip and its truth, without a batch axis."""
        return render_scenes(self.world(position), self.config)[0]

    def world(self, position: int) -> SyntheticScene:
        """One clip's scene, as a batch of one."""
        return make_scenes(self.config, SEED, [self.indices[position]])


@dataclass(frozen=True)
class Statistics:
    """What decides whether a clip belongs into the benchmark."""

    overlap: float
    """Smallest share of the first frame's surface that a later frame sees."""
    moving: float
    """Share of the first frame's pixels that have moved by 2 % of their depth, mean over later frames."""
    rotation: float
    """Median over later frames of the rotation to the first, in degrees."""
    field_of_view: float
    """Across the longer side, in degrees."""
    has_still_camera: bool

    @property
    def is_dynamic(self) -> bool:
        return self.moving >= MIN_MOVING


def statistics(world: SyntheticScene, config: SyntheticConfig) -> Statistics:
    """The statistics of one scene (a batch of one), measured in a small picture."""
    overlap, moving = overlap_and_motion(*preview(world, config, PREVIEW_SIDE))
    rotation = world.cameras.world_from_cam[0, :, :3, :3]
    turned = rotation_angle(rotation[0].T @ rotation[1:]).rad2deg()
    centers = world.cameras.centers[0]
    angles = world.cameras.field_of_view(config.height, config.width)[0, 0]
    return Statistics(
        overlap=overlap[0, 1:].min().item(),
        moving=moving[0, 1:].mean().item(),
        rotation=turned.median().item(),
        field_of_view=angles.max().rad2deg().item(),
        has_still_camera=(centers - centers[0]).norm(dim=-1).max().item() < STILL_CAMERA,
    )


def choose_indices(config: SyntheticConfig, count: int) -> list[int]:
    """The first scenes of the seed that fill the benchmark's quotas; `worlds_v1` holds what this answers.

    Half are dynamic, a tenth has a still camera. A moving camera turns by 10 degrees or more and keeps sight of .3 to
    .9 of the first frame.
    """
    places = {"still": round(count / 10), "dynamic": count // 2}
    places["calm"] = count - sum(places.values())
    chosen = []
    for index in count_from(0):
        world = make_scenes(config, SEED, [index])
        kind = _kind(statistics(world, config))
        if kind is not None and places[kind] > 0 and _is_seen_well(world, config):
            places[kind] -= 1
            chosen.append(index)
        if not any(places.values()):
            break
    return chosen


def checksum(world: SyntheticScene) -> Float[Tensor, "values"]:
    """Numbers that change when anything about the scene does: means over each of its tensors."""
    parts: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            parts.append(torch.where(tensor.isfinite(), tensor, 0.0).double().mean())
        return tensor

    world.map(collect)
    return torch.stack(parts)


def _kind(found: Statistics) -> str | None:
    if found.has_still_camera:
        return "still" if found.moving > 0.02 else None
    if found.rotation < 10 or not 0.3 <= found.overlap <= 0.9:
        return None
    return "dynamic" if found.is_dynamic else "calm"


def _is_seen_well(world: SyntheticScene, config: SyntheticConfig) -> bool:
    """No frame whose picture is filled by something nearer than .6 m, or by sky."""
    small, hits = preview(world, config, PREVIEW_SIDE)
    near_share = (hits.depths < 0.6).float().mean(dim=(2, 3)).max()
    sky_share = 1 - is_surface(small, hits.surfaces).float().mean(dim=(2, 3)).min()
    return bool(near_share < 0.3) and bool(sky_share < 0.65)


_PICTURES = SyntheticConfig(height=192, width=256, static_share=0.25, still_share=0.2, candidates=1)

# fmt: off
_SPLIT_8 = (
    0, 3, 4, 5, 7, 8, 9, 13, 18, 19, 20, 22, 27, 30, 33, 34, 37, 38, 42, 43, 44, 46, 47, 48, 52, 55, 56, 60, 66,
    71, 73, 77, 78, 79, 80, 81, 84, 85, 92, 93, 97, 98, 104, 106, 112, 117, 124, 129, 150, 164, 193, 215, 222,
    223, 225, 230, 236, 278, 301, 305, 326, 329, 339, 343,
)
_SPLIT_32 = (
    0, 1, 5, 8, 13, 14, 16, 18, 22, 31, 38, 41, 70, 101, 118, 120,
)
# fmt: on

WORLDS_V1: dict[str, Split] = {
    "8": Split(
        replace(_PICTURES, num_frames=8),
        _SPLIT_8,
    ),
    "32": Split(replace(_PICTURES, num_frames=32), _SPLIT_32),
}
"""Found once by `choose_indices`; they never change again under this name."""
