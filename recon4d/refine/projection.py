"""Where world points are seen by all cameras of a clip, or by one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import project, transform_points
from recon4d.records import Cameras


@dataclass(frozen=True)
class ProjectedPoints:
    """Points in pictures."""

    pixels: Float[Tensor, "*shape 2"]
    """(x, y); without meaning where not `inside`."""
    depths: Float[Tensor, "*shape"]
    """z in the camera."""
    inside: Bool[Tensor, "*shape"]
    """In front of the camera and within the picture; something may still stand before it."""

    def places(self) -> tuple[Tensor, Tensor]:
        """Row and column of the pixel that each point falls into; of the first pixel where it is not inside."""
        column, row = torch.where(self.inside[..., None], self.pixels, 0.0).long().unbind(-1)
        return row, column


def project_points(cameras: Cameras, points: Float[Tensor, "*batch n 3"], size: tuple[int, int]) -> ProjectedPoints:
    """World points seen by `cameras` whose pictures have `size` (height, width); both have the same batch axes."""
    in_camera = transform_points(cameras.cam_from_world, points)
    pixels, depths = project(in_camera, cameras.intrinsics), in_camera[..., 2]
    corner = pixels.new_tensor([float(size[1]), float(size[0])])
    inside = (depths > 0) & (pixels >= 0).all(dim=-1) & (pixels < corner).all(dim=-1)
    return ProjectedPoints(pixels, depths, inside)
