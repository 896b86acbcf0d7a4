"""The frozen benchmark worlds-v1: selected synthetic scenes of a fixed seed, and the statistics that selected them."""

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
"""Seed of all scenes of the benchmark."""
PREVIEW_SIDE = 64
"""Longer side in pixels of the image in which statistics are measured."""
MIN_DYNAMIC_SHARE = 0.16
"""Smallest `Statistics.dynamic_share` of a dynamic clip. Hand-tuned."""
MAX_STATIC_CAMERA_MOTION = 1e-6
"""Largest distance of a static camera from its first position, in meters."""


@dataclass(frozen=True)
class Split:
    """The clips of one split of worlds-v1, identical on every machine up to rounding of pixel values."""

    config: SyntheticConfig
    """Configuration of the scenes."""
    indices: tuple[int, ...]
    """Index of each scene of the seed."""

    def sample(self, position: int) -> Sample:
        """Render one clip with its ground truth.

        Args:
            position: Position in the split, from 0.

        Returns:
            The sample, without a batch axis.
        """
        return render_scenes(self.scene(position), self.config)[0]

    def scene(self, position: int) -> SyntheticScene:
        """Build one scene.

        Args:
            position: Position in the split, from 0.

        Returns:
            The scene as a batch of one.
        """
        return make_scenes(self.config, SEED, [self.indices[position]])


@dataclass(frozen=True)
class Statistics:
    """The statistics that decide whether a clip belongs to the benchmark."""

    overlap: float
    """Smallest fraction of the first frame's surface that is visible in a later frame."""
    dynamic_share: float
    """Fraction of the first frame's pixels that moved by more than 2% of their depth, averaged over later frames."""
    rotation: float
    """Median rotation of later cameras relative to the first, in degrees."""
    field_of_view: float
    """Field of view across the longer image side, in degrees."""
    has_static_camera: bool
    """True if the camera does not move."""

    @property
    def is_dynamic(self) -> bool:
        """Whether enough pixels move for the clip to count as dynamic."""
        return self.dynamic_share >= MIN_DYNAMIC_SHARE


def measure_statistics(scene: SyntheticScene, config: SyntheticConfig) -> Statistics:
    """Measure the statistics of one scene in a small image.

    Args:
        scene: A batch of one scene.
        config: Configuration of the scene.

    Returns:
        The statistics.
    """
    overlap, dynamic = overlap_and_motion(*preview(scene, config, PREVIEW_SIDE))
    rotation = scene.cameras.world_from_cam[0, :, :3, :3]
    angles_to_first = rotation_angle(rotation[0].T @ rotation[1:]).rad2deg()
    centers = scene.cameras.centers[0]
    fields_of_view = scene.cameras.field_of_view(config.height, config.width)[0, 0]
    return Statistics(
        overlap=overlap[0, 1:].min().item(),
        dynamic_share=dynamic[0, 1:].mean().item(),
        rotation=angles_to_first.median().item(),
        field_of_view=fields_of_view.max().rad2deg().item(),
        has_static_camera=(centers - centers[0]).norm(dim=-1).max().item() < MAX_STATIC_CAMERA_MOTION,
    )


def select_indices(config: SyntheticConfig, count: int) -> list[int]:
    """Select the first scenes of the seed that fill the quotas of the benchmark.

    Half of the clips are dynamic and a tenth have a static camera. Other cameras rotate by at least 10 degrees and keep
    an overlap of 0.3 to 0.9 with the first frame.

    Args:
        config: Configuration of the scenes.
        count: Number of scenes to select.

    Returns:
        Indices in ascending order. `WORLDS_V1` contains the result.
    """
    quota = {"static_camera": round(count / 10), "dynamic": count // 2}
    quota["calm"] = count - sum(quota.values())
    selected = []
    for index in count_from(0):
        scene = make_scenes(config, SEED, [index])
        kind = _kind(measure_statistics(scene, config))
        if kind is not None and quota[kind] > 0 and _has_clear_view(scene, config):
            quota[kind] -= 1
            selected.append(index)
        if not any(quota.values()):
            break
    return selected


def checksum(scene: SyntheticScene) -> Float[Tensor, "values"]:
    """Average each floating-point tensor of a scene, to detect changes of any of them.

    Args:
        scene: Batch of scenes.

    Returns:
        One float64 mean per tensor (values,).
    """
    parts: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            parts.append(torch.where(tensor.isfinite(), tensor, 0.0).double().mean())
        return tensor

    scene.map(collect)
    return torch.stack(parts)


def _kind(statistics: Statistics) -> str | None:
    """Return the quota that a scene counts toward, or None if it is not suitable."""
    if statistics.has_static_camera:
        return "static_camera" if statistics.dynamic_share > 0.02 else None
    if statistics.rotation < 10 or not 0.3 <= statistics.overlap <= 0.9:
        return None
    return "dynamic" if statistics.is_dynamic else "calm"


def _has_clear_view(scene: SyntheticScene, config: SyntheticConfig) -> bool:
    """Test that no frame is dominated by surfaces closer than 0.6 m or by sky."""
    small, hits = preview(scene, config, PREVIEW_SIDE)
    near_share = (hits.depths < 0.6).float().mean(dim=(2, 3)).max()
    sky_share = 1 - is_surface(small, hits.surfaces).float().mean(dim=(2, 3)).min()
    return bool(near_share < 0.3) and bool(sky_share < 0.65)


_PICTURES = SyntheticConfig(height=192, width=256, static_scene_share=0.25, static_camera_share=0.2, attempts=1)

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
"""The splits by name. `select_indices` found their scenes once; they never change under this name."""
