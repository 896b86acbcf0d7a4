"""The frozen benchmark worlds-v1: selected synthetic scenes of a fixed seed, and the statistics that selected them."""

from dataclasses import dataclass, replace

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.generation import (
    make_scenes,
    overlap_and_motion,
    preview,
    render_scenes,
)
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
"""The splits by name; they never change under this name.

Each split has the first scenes of the seed that filled its quotas: half of the clips dynamic, a tenth with a static
camera of which more than 2% of the pixels move, the others calm. Moving cameras rotate by at least 10 degrees and keep
an overlap of 0.3 to 0.9 with the first frame. No frame is dominated by surfaces closer than 0.6 m or by sky.
"""
