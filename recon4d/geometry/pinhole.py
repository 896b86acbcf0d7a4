"""The pinhole camera: projection, its inverse, and intrinsics that survive resizing, cropping and padding.

Camera axes are OpenCV's: x to the right, y down, z forward. A pixel is (x, y) and the center of the first pixel is
(0.5, 0.5), so an image of width w spans 0 to w and a resize only multiplies. `depths` are z, not ray lengths.
"""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_PROJECTED_DEPTH = 1e-6
"""Depths at or below this project as if they were this, far out of the picture, instead of dividing by zero."""


def pixel_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "height width 2"]:
    """The center (x, y) of every pixel: (0.5, 0.5) first, (width - 0.5, height - 0.5) last."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def project(
    points: Float[Tensor, "*batch_and_points 3"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch_and_points 2"]:
    """Pixels of points in camera coordinates. A point with z <= 0 is not seen: callers check ``points[..., 2] > 0``."""
    on_plane = points / points[..., 2:].clamp(min=MIN_PROJECTED_DEPTH)
    flat = on_plane.reshape(*intrinsics.shape[:-2], -1, 3)
    return (flat @ intrinsics[..., :2, :].transpose(-1, -2)).reshape(*points.shape[:-1], 2)


def unproject(
    pixels: Float[Tensor, "*batch_and_points 2"],
    depths: Float[Tensor, "*batch_and_points"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch_and_points 3"]:
    """Points in camera coordinates of `pixels` at z = `depths`: the inverse of `project`."""
    flat = pixels.reshape(*intrinsics.shape[:-2], -1, 2)
    focal_x, focal_y, skew = intrinsics[..., 0, 0, None], intrinsics[..., 1, 1, None], intrinsics[..., 0, 1, None]
    y = (flat[..., 1] - intrinsics[..., 1, 2, None]) / focal_y
    x = (flat[..., 0] - intrinsics[..., 0, 2, None] - skew * y) / focal_x
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(*pixels.shape[:-1], 3)
    return rays * depths[..., None]


def unproject_map(
    depths: Float[Tensor, "*batch height width"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch height width 3"]:
    """Points in camera coordinates of every pixel of depth maps."""
    grid = pixel_grid(depths.shape[-2], depths.shape[-1], depths.device, depths.dtype)
    return unproject(grid.expand(*depths.shape, 2), depths, intrinsics)


def field_of_view(intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int) -> Float[Tensor, "*batch 2"]:
    """Horizontal and vertical angles in radians of the image size about its center: 2 atan(size / (2 focal))."""
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    return 2 * torch.atan(_size(focal, height, width) / (2 * focal))


def intrinsics_from_field_of_view(
    angles: Float[Tensor, "*batch 2"], principal_point: Float[Tensor, "*batch 2"], height: int, width: int
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics from horizontal and vertical angles (radians, in (0, pi)) and a principal point in pixels."""
    focal = _size(angles, height, width) / (2 * torch.tan(angles / 2))
    intrinsics = torch.diag_embed(torch.cat([focal, torch.ones_like(focal[..., :1])], dim=-1))
    return torch.cat([intrinsics[..., :2], _homogeneous(principal_point)[..., None]], dim=-1)


def resized_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], old_size: tuple[int, int], new_size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after an image of `old_size` (height, width) is resized to `new_size`, each axis by its own factor."""
    factors = intrinsics.new_tensor([new_size[1] / old_size[1], new_size[0] / old_size[0], 1.0])
    return factors[:, None] * intrinsics


def cropped_intrinsics(intrinsics: Float[Tensor, "*batch 3 3"], left: float, top: float) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after `left` columns and `top` rows are cut away."""
    shift = intrinsics.new_tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])
    return intrinsics - shift


def padded_intrinsics(intrinsics: Float[Tensor, "*batch 3 3"], left: float, top: float) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after `left` columns and `top` rows are added before the image."""
    return cropped_intrinsics(intrinsics, -left, -top)


def _size(like: Tensor, height: int, width: int) -> Tensor:
    return like.new_tensor([float(width), float(height)])


def _homogeneous(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
