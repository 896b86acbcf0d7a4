"""A synthetic world as numbers: what stands where at every time, how it looks, and who films it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.records import Cameras, TensorRecord

MOST_FRAMES = 256
"""Of a clip, whose few seconds are then filmed so much denser; its truth alone is some gigabytes."""
ROOM_FACES = 6
"""Walls at +x, -x, +y, -y, then ceiling and floor; each is a surface of its own behind the primitives."""


@dataclass(frozen=True)
class SyntheticConfig:
    """What kind of clips are made. World axes while making: z up, floor at 0, meters."""

    num_frames: int = 8
    height: int = 224
    width: int = 224
    field_of_view: tuple[float, float] = (40.0, 90.0)
    """Degrees across the longer side of the picture."""
    principal_point: float = 0.0
    """Largest offset of the principal point from the center, as a share of each side."""
    loose_share: float = 0.0
    """Clips whose frames are shuffled photos without times."""
    static_share: float = 0.22
    """Clips in which nothing moves but the camera."""
    still_share: float = 0.15
    """Clips in which the camera stands still; in two thirds of them one thing moves."""
    speed: float = 1.0
    """Factor on all motion, of camera and things."""
    primitives: int = 24
    groups: int = 4
    candidates: int = 2
    """Scenes tried for each one used; the one that overlaps and moves best is kept."""
    min_overlap: float = 0.3
    """With the first frame, below which a scene is a poor candidate."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MOST_FRAMES:
            raise ValueError(f"num_frames is {self.num_frames}; worlds have 1 to {MOST_FRAMES} frames")
        if min(self.height, self.width) < 16:
            raise ValueError(f"worlds of {self.width} x {self.height} pixels are too small; at least 16 a side")
        low, high = self.field_of_view
        if not 5 <= low <= high <= 140:
            raise ValueError(f"field_of_view is {self.field_of_view} degrees; wanted 5 <= low <= high <= 140")
        if self.candidates < 1 or self.primitives < 1 or self.groups < 1:
            raise ValueError("candidates, primitives and groups must be at least 1")
        if self.static_share + self.still_share > 1:
            raise ValueError("static_share and still_share may not exceed 1 together")


@dataclass(frozen=True, eq=False)
class Shapes(TensorRecord):
    """Convex primitives, each the intersection of a quadric q . u^2 <= 1 and a slab box |u| <= h in unit coordinates.

    Ellipsoid, box, cylinder, barrel and rounded box are all of this one form. `size` stretches the unit coordinates.
    """

    quadric: Float[Tensor, "*batch primitive 3"]
    slab: Float[Tensor, "*batch primitive 3"]
    size: Float[Tensor, "*batch primitive 3"]
    world_from_local: Float[Tensor, "*batch time primitive 4 4"]
    active: Bool[Tensor, "*batch primitive"]
    moves: Bool[Tensor, "*batch primitive"]


@dataclass(frozen=True, eq=False)
class Surfaces(TensorRecord):
    """How each primitive and each face of the room is painted; patterns stick to local coordinates."""

    colors: Float[Tensor, "*batch surface 3 3"]
    """Two that the pattern mixes, and one of sparse patches."""
    pattern_from_local: Float[Tensor, "*batch surface 3 3"]
    offset: Float[Tensor, "*batch surface 3"]
    pattern: Int[Tensor, "*batch surface"]
    sharpness: Float[Tensor, "*batch surface"]
    grain: Float[Tensor, "*batch surface"]
    warp: Float[Tensor, "*batch surface"]
    picture: Int[Tensor, "*batch surface"]
    """Number of an image texture, -1 for the procedural pattern."""
    is_sky: Bool[Tensor, "*batch surface"]


@dataclass(frozen=True, eq=False)
class Light(TensorRecord):
    """A sun, an ambient light, and the colors of the sky at the horizon and overhead."""

    direction: Float[Tensor, "*batch 3"]
    ambient: Float[Tensor, "*batch"]
    direct: Float[Tensor, "*batch"]
    shadow: Float[Tensor, "*batch"]
    tint: Float[Tensor, "*batch 3"]
    zenith: Float[Tensor, "*batch 3"]
    horizon: Float[Tensor, "*batch 3"]


@dataclass(frozen=True, eq=False)
class Photometry(TensorRecord):
    """What the camera does to the light: exposure, gamma, blur and noise (of a key of its own)."""

    exposure: Float[Tensor, "*batch time"]
    gamma: Float[Tensor, "*batch"]
    blur: Float[Tensor, "*batch"]
    noise: Float[Tensor, "*batch"]
    noise_key: Int[Tensor, "*batch"]


@dataclass(frozen=True, eq=False)
class SyntheticScene(TensorRecord):
    """Everything that decides a clip and its truth."""

    cameras: Cameras
    phases: Float[Tensor, "*batch time"]
    """Where in its motion the world is at each frame, from 0."""
    is_loose: Bool[Tensor, "*batch"]
    room: Float[Tensor, "*batch 3"]
    """Half the width along x and y, and the height; the room is centered on the origin."""
    shapes: Shapes
    surfaces: Surfaces
    light: Light
    photometry: Photometry
    volume: Int[Tensor, "*batch"]
    """Which of the noise volumes the patterns are cut from."""

    def pick(self, scenes: Int[Tensor, "chosen"]) -> "SyntheticScene":
        """The chosen scenes of a batch."""
        return self.map(lambda tensor: tensor.index_select(0, scenes))

    @property
    def local_from_world(self) -> Float[Tensor, "*batch time primitive 4 4"]:
        """World to each primitive's unit coordinates, its size included: a ray stays a ray."""
        rotation = self.shapes.world_from_local[..., :3, :3].transpose(-1, -2)
        linear = rotation / self.shapes.size[..., None, :, :, None]
        translation = -(linear @ self.shapes.world_from_local[..., :3, 3:])
        upper = torch.cat([linear, translation], dim=-1)
        lower = torch.zeros_like(upper[..., :1, :])
        lower[..., 3] = 1
        return torch.cat([upper, lower], dim=-2)
