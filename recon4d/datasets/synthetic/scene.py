"""Records of a synthetic scene: geometry, motion, appearance and cameras as tensors.

The world frame of these records has z up, the ground at z = 0, and units of meters.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.records import Cameras, TensorRecord

MAX_FRAMES = 256
"""Largest number of frames of a clip, limited by memory: the ground truth of such a clip takes several gigabytes.

A clip lasts a few seconds, so more frames mean a higher frame rate.
"""
ENCLOSURE_FACES = 6
"""Number of faces: walls at +x, -x, +y and -y, then ceiling and ground. Their surface indices follow the primitives."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Configuration of synthetic clips.

    Raises:
        UserError: If a value is out of range.
    """

    num_frames: int = 8
    """Number of frames of a clip, from 1 to `MAX_FRAMES`."""
    height: int = 224
    """Height of the images in pixels, at least 16."""
    width: int = 224
    """Width of the images in pixels, at least 16."""
    field_of_view: tuple[float, float] = (40.0, 90.0)
    """Range of the field of view across the longer image side, in degrees."""
    principal_point: float = 0.0
    """Largest offset of the principal point from the image center, as a fraction of each side."""
    loose_share: float = 0.0
    """Fraction of clips whose frames are shuffled photos without times."""
    static_scene_share: float = 0.22
    """Fraction of clips in which only the camera moves."""
    static_camera_share: float = 0.15
    """Fraction of clips with a static camera; in two thirds of them a single body moves."""
    speed: float = 1.0
    """Factor on all motion, of the camera and of bodies."""
    primitives: int = 24
    """Number of primitives, some of which may be inactive."""
    groups: int = 4
    """Number of articulated groups of primitives."""
    attempts: int = 2
    """Number of scenes drawn per scene index; the one with the best overlap and motion is used."""
    min_overlap: float = 0.3
    """Fraction of the first frame below which the overlap with any other frame is penalized."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise UserError(f"num_frames is {self.num_frames}; choose 1 to {MAX_FRAMES} frames")
        if min(self.height, self.width) < 16:
            raise UserError(f"{self.width} x {self.height} pixels are too small; both sides must be at least 16")
        low, high = self.field_of_view
        if not 5 <= low <= high <= 140:
            raise UserError(f"field_of_view is {self.field_of_view} degrees; choose 5 <= low <= high <= 140")
        for name in ("attempts", "primitives", "groups"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.static_scene_share + self.static_camera_share > 1:
            raise UserError(
                f"static_scene_share is {self.static_scene_share} and static_camera_share is "
                f"{self.static_camera_share}; their sum must be at most 1"
            )


@dataclass(frozen=True, eq=False)
class Shapes(TensorRecord):
    """Convex primitives, each the intersection of a quadric q . u^2 <= 1 and a slab box |u| <= h in unit coordinates.

    Ellipsoids, boxes, cylinders, barrels and rounded boxes all have this form.
    """

    quadric: Float[Tensor, "*batch primitive 3"]
    """Coefficients q; 0 does not bound an axis."""
    slab: Float[Tensor, "*batch primitive 3"]
    """Half widths h of the slab box."""
    size: Float[Tensor, "*batch primitive 3"]
    """Scale of the unit coordinates, in meters."""
    world_from_local: Float[Tensor, "*batch time primitive 4 4"]
    """Rigid motion of each primitive over time, without its size."""
    is_active: Bool[Tensor, "*batch primitive"]
    """False for primitives that are not part of the scene."""
    is_dynamic: Bool[Tensor, "*batch primitive"]
    """True for primitives that move."""


@dataclass(frozen=True, eq=False)
class Surfaces(TensorRecord):
    """Appearance of each primitive and of each face of the enclosure; patterns are fixed to local coordinates."""

    colors: Float[Tensor, "*batch surface 3 3"]
    """Two colors that the pattern mixes, and one of sparse spots; linear RGB in [0, 1]."""
    pattern_from_local: Float[Tensor, "*batch surface 3 3"]
    """Rotation and frequency of the pattern, in cells per meter."""
    offset: Float[Tensor, "*batch surface 3"]
    """Offset of the pattern in cells."""
    pattern: Int[Tensor, "*batch surface"]
    """Index into `appearance.PATTERNS`."""
    sharpness: Float[Tensor, "*batch surface"]
    """Contrast of pattern edges; 1 is smooth."""
    grain: Float[Tensor, "*batch surface"]
    """Strength of fine noise and of spots, in [0, 1]."""
    warp: Float[Tensor, "*batch surface"]
    """Strength of the distortion of regular patterns, in [0, 1]."""
    texture: Int[Tensor, "*batch surface"]
    """Index of an image texture; -1 uses the procedural pattern."""
    is_sky: Bool[Tensor, "*batch surface"]
    """True for faces of the enclosure that show the sky."""


@dataclass(frozen=True, eq=False)
class Light(TensorRecord):
    """A sun, ambient light and the colors of the sky."""

    direction: Float[Tensor, "*batch 3"]
    """Unit vector toward the sun."""
    ambient: Float[Tensor, "*batch"]
    """Brightness of ambient light."""
    direct: Float[Tensor, "*batch"]
    """Brightness of the sun."""
    shadow: Float[Tensor, "*batch"]
    """Fraction of sunlight that shadows block, in [0, 1]."""
    tint: Float[Tensor, "*batch 3"]
    """Color of all light, as a factor."""
    zenith: Float[Tensor, "*batch 3"]
    """Color of the sky overhead."""
    horizon: Float[Tensor, "*batch 3"]
    """Color of the sky at the horizon."""


@dataclass(frozen=True, eq=False)
class Photometry(TensorRecord):
    """Photometric properties of the camera."""

    exposure: Float[Tensor, "*batch time"]
    """Factor on the brightness of each frame."""
    gamma: Float[Tensor, "*batch"]
    """Exponent of the brightness."""
    blur: Float[Tensor, "*batch"]
    """Weight of a 3x3 box blur; 0 is sharp."""
    noise: Float[Tensor, "*batch"]
    """Standard deviation of the noise, for values from 0 to 1."""
    noise_key: Int[Tensor, "*batch"]
    """Key of the random stream of the noise."""


@dataclass(frozen=True, eq=False)
class SyntheticScene(TensorRecord):
    """A batch of scenes: everything that determines clips and their ground truth."""

    cameras: Cameras
    """Cameras of all frames."""
    phases: Float[Tensor, "*batch time"]
    """Phase of the motion at each frame, from 0 to 1."""
    is_unordered: Bool[Tensor, "*batch"]
    """True for clips of shuffled photos without times."""
    enclosure: Float[Tensor, "*batch 3"]
    """Half the width along x and y, and the height; centered on the z axis, in meters."""
    shapes: Shapes
    """Primitives."""
    surfaces: Surfaces
    """Appearance of all surfaces."""
    light: Light
    """Illumination."""
    photometry: Photometry
    """Photometric properties of the camera."""
    noise_volume: Int[Tensor, "*batch"]
    """Index of the noise volume that patterns sample."""

    def select(self, indices: Int[Tensor, "chosen"]) -> "SyntheticScene":
        """Select scenes of a batch.

        Args:
            indices: Positions in the batch.

        Returns:
            The selected scenes.
        """
        return self.map(lambda tensor: tensor.index_select(0, indices))

    @property
    def local_from_world(self) -> Float[Tensor, "*batch time primitive 4 4"]:
        """Maps from the world to the unit coordinates of each primitive, including its size; rays stay straight."""
        rotation = self.shapes.world_from_local[..., :3, :3].transpose(-1, -2)
        linear = rotation / self.shapes.size[..., None, :, :, None]
        translation = -(linear @ self.shapes.world_from_local[..., :3, 3:])
        upper = torch.cat([linear, translation], dim=-1)
        lower = torch.zeros_like(upper[..., :1, :])
        lower[..., 3] = 1
        return torch.cat([upper, lower], dim=-2)
