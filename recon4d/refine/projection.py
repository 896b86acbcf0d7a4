"""Projection of world points into the frames of a clip, with a test of whether they lie inside the image."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import project, transform_points
from recon4d.records import Cameras


@dataclass(frozen=True)
class ProjectedPoints:
    """Points projected into images."""

    pixels: Float[Tensor, "*shape 2"]
    """Pixel coordinates (x, y); meaningless where `inside` is false."""
    depths: Float[Tensor, "*shape"]
    """Depth (z) in the frame of the camera."""
    inside: Bool[Tensor, "*shape"]
    """Whether a point is in front of the camera and inside the image. It may still be occluded."""

    def pixel_indices(self) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Compute the indices of the pixels that the points fall into.

        Returns:
            Row and column of each point's pixel; (0, 0) for points that are not inside the image.
        """
        column, row = torch.where(self.inside[..., None], self.pixels, 0.0).long().unbind(-1)
        return row, column


def project_points(cameras: Cameras, points: Float[Tensor, "*batch n 3"], size: tuple[int, int]) -> ProjectedPoints:
    """Project world points into the images of `cameras`.

    Args:
        cameras: Cameras with the same batch axes as `points`.
        points: Points in world coordinates.
        size: Height and width of the images, in pixels.

    Returns:
        Pixels and depths of shape (*batch, n).
    """
    in_camera = transform_points(cameras.cam_from_world, points)
    pixels, depths = project(in_camera, cameras.intrinsics), in_camera[..., 2]
    corner = pixels.new_tensor([float(size[1]), float(size[0])])
    inside = (depths > 0) & (pixels >= 0).all(dim=-1) & (pixels < corner).all(dim=-1)
    return ProjectedPoints(pixels, depths, inside)
