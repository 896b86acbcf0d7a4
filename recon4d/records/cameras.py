"""The cameras of a clip: where each stood, and how it maps the world to pixels."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    cropped_intrinsics,
    field_of_view,
    invert,
    padded_intrinsics,
    rebase_cameras,
    resized_intrinsics,
)
from recon4d.tensors import TensorRecord


@dataclass(frozen=True, eq=False)
class Cameras(TensorRecord):
    """Pinhole cameras in OpenCV axes (x right, y down, z forward), one per frame.

    `world_from_cam` is rigid; its last column is the camera's centre in the world. `intrinsics` are in pixels of the
    maps that stand beside them, with the first pixel's centre at (0.5, 0.5).
    """

    world_from_cam: Float[Tensor, "*batch time 4 4"]
    intrinsics: Float[Tensor, "*batch time 3 3"]

    @property
    def cam_from_world(self) -> Float[Tensor, "*batch time 4 4"]:
        """World to camera coordinates: what OpenCV and COLMAP call the extrinsics."""
        return invert(self.world_from_cam)

    @property
    def centres(self) -> Float[Tensor, "*batch time 3"]:
        """The optical centres in the world."""
        return self.world_from_cam[..., :3, 3]

    def field_of_view(self, height: int, width: int) -> Float[Tensor, "*batch time 2"]:
        """Horizontal and vertical field of view in radians for maps of this size."""
        return field_of_view(self.intrinsics, height, width)

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Cameras":
        """The cameras in another world, a similarity away: centres scale, rotations stay rotations."""
        return replace(self, world_from_cam=rebase_cameras(new_from_world, self.world_from_cam))

    def in_frame(self, frame: int) -> "Cameras":
        """The cameras in the world whose origin is the camera of `frame`, which becomes the identity."""
        return self.transformed(invert(self.world_from_cam[..., frame, :, :]))

    def resized(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> "Cameras":
        """The cameras of the same pictures resized from `old_size` to `new_size`, both (height, width)."""
        return replace(self, intrinsics=resized_intrinsics(self.intrinsics, old_size, new_size))

    def cropped(self, left: float, top: float) -> "Cameras":
        """The cameras of the same pictures with `left` columns and `top` rows cut away."""
        return replace(self, intrinsics=cropped_intrinsics(self.intrinsics, left, top))

    def padded(self, left: float, top: float) -> "Cameras":
        """The cameras of the same pictures with `left` columns and `top` rows added in front."""
        return replace(self, intrinsics=padded_intrinsics(self.intrinsics, left, top))
