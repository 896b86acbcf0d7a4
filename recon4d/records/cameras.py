"""The cameras of a clip: where each stood, and how it maps the world to pixels."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    cropped_intrinsics,
    field_of_view,
    invert,
    padded_intrinsics,
    rebase_cameras,
    resized_intrinsics,
    transform_points,
)
from recon4d.records.tensors import TensorRecord


@dataclass(frozen=True, eq=False)
class Cameras(TensorRecord):
    """Pinhole cameras in OpenCV axes (x right, y down, z forward), one per frame.

    `world_from_cam` is rigid; its last column is the camera's center in the world. `intrinsics` are in pixels of the
    maps that stand beside them, with the first pixel's center at (0.5, 0.5).
    """

    world_from_cam: Float[Tensor, "*batch time 4 4"]
    intrinsics: Float[Tensor, "*batch time 3 3"]

    @property
    def cam_from_world(self) -> Float[Tensor, "*batch time 4 4"]:
        """World to camera coordinates: what OpenCV and COLMAP call the extrinsics."""
        return invert(self.world_from_cam)

    @property
    def centers(self) -> Float[Tensor, "*batch time 3"]:
        """The optical centers in the world."""
        return self.world_from_cam[..., :3, 3]

    def field_of_view(self, height: int, width: int) -> Float[Tensor, "*batch time 2"]:
        """Horizontal and vertical field of view in radians for maps of this size."""
        return field_of_view(self.intrinsics, height, width)

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Cameras":
        """The cameras in another world, a similarity away: centers scale, rotations stay rotations."""
        return replace(self, world_from_cam=rebase_cameras(new_from_world, self.world_from_cam))

    def in_frame(self, frame: int) -> "Cameras":
        """The cameras in the world whose origin is the camera of `frame`, which becomes the identity."""
        return self.transformed(invert(self.world_from_cam[..., frame, :, :]))

    def scale_to(self, centers: Float[Tensor, "time 3"]) -> float:
        """How many times longer the distances between the given `centers` are than those between these cameras.

        Distances do not care how either path is turned. 1 / the scale is the slope of the line through the origin with
        the least sum of absolute errors: the median of the ratios, weighted by the distances that are given. A quarter
        of cameras in wrong places does not pull it away. NaN where the given ones stand still, or there is only one;
        inf where these stand still.
        """
        first, second = torch.triu_indices(len(centers), len(centers), 1)
        exact, found = ((path[first] - path[second]).norm(dim=-1) for path in (centers.double(), self.centers.double()))
        if not len(exact) or exact.max() <= 0:
            return torch.nan
        slopes, order = torch.where(exact > 0, found / exact, 0.0).sort()
        weights = exact[order].cumsum(dim=0)
        return float(1 / slopes[torch.searchsorted(weights, weights[-1:] / 2)])

    def points_reseen(
        self, points: Float[Tensor, "*batch_and_points 3"], others: "Cameras"
    ) -> Float[Tensor, "*batch_and_points 3"]:
        """World points (batch axes, time, and any further axes), moved so that `others` see them where these did.

        What was at a pixel and a z of a time still is. A point behind its camera has no pixel, and moves along with the
        camera as it is. Computed in float64.
        """
        in_camera = transform_points(invert(self.world_from_cam.double()), points.double())
        lens = torch.linalg.inv(others.intrinsics.double()) @ self.intrinsics.double()
        flat = in_camera.reshape(*lens.shape[:-2], -1, 3)
        through_lens = (flat @ lens.transpose(-1, -2)).reshape(points.shape)
        again = torch.where(in_camera[..., 2:] > 0, through_lens, in_camera)
        return transform_points(others.world_from_cam.double(), again).to(points.dtype)

    def resized(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> "Cameras":
        """The cameras of the same pictures resized from `old_size` to `new_size`, both (height, width)."""
        return replace(self, intrinsics=resized_intrinsics(self.intrinsics, old_size, new_size))

    def cropped(self, left: float, top: float) -> "Cameras":
        """The cameras of the same pictures with `left` columns and `top` rows cut away."""
        return replace(self, intrinsics=cropped_intrinsics(self.intrinsics, left, top))

    def padded(self, left: float, top: float) -> "Cameras":
        """The cameras of the same pictures with `left` columns and `top` rows added in front."""
        return replace(self, intrinsics=padded_intrinsics(self.intrinsics, left, top))
