"""Pinhole cameras: projection, unprojection, and intrinsics under resizing, cropping and padding.

Camera axes follow OpenCV: x right, y down, z forward. Pixel coordinates are (x, y) with the center of the first pixel
at (0.5, 0.5), so an image of width w spans 0 to w and resizing is a multiplication. Intrinsics are the upper triangular
matrix [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels. `depths` are z, not distances along the ray.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_PROJECTED_DEPTH = 1e-6
"""Lower bound of z in the projection, in scene units: avoids division by zero and projects far outside the image."""


def pixel_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "height width 2"]:
    """Compute the center of every pixel.

    Args:
        height: Number of rows.
        width: Number of columns.
        device: Device of the result; None is the default device.
        dtype: Floating-point type of the result.

    Returns:
        Pixel coordinates (x, y), from (0.5, 0.5) to (width - 0.5, height - 0.5).
    """
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def project(
    points: Float[Tensor, "*batch_and_points 3"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch_and_points 2"]:
    """Project points to pixels.

    Args:
        points: Points in camera coordinates. Their leading axes are the batch axes of `intrinsics`, followed by any
            further axes.
        intrinsics: Intrinsics in pixels.

    Returns:
        Pixel coordinates (x, y). They are finite but meaningless for points with z <= 0: check ``points[..., 2] > 0``.
    """
    on_plane = points / points[..., 2:].clamp(min=MIN_PROJECTED_DEPTH)
    flat = on_plane.reshape(*intrinsics.shape[:-2], -1, 3)
    return (flat @ intrinsics[..., :2, :].transpose(-1, -2)).reshape(*points.shape[:-1], 2)


def is_in_image(pixels: Float[Tensor, "*shape 2"], size: tuple[int, int]) -> Bool[Tensor, "*shape"]:
    """Test whether pixel coordinates lie in an image.

    Args:
        pixels: Coordinates (x, y).
        size: Height and width of the image.

    Returns:
        True from (0, 0) to below (width, height); False for NaN.
    """
    return ((pixels >= 0) & (pixels < pixels.new_tensor([size[1], size[0]]))).all(dim=-1)


def unproject(
    pixels: Float[Tensor, "*batch_and_points 2"],
    depths: Float[Tensor, "*batch_and_points"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch_and_points 3"]:
    """Lift pixels to points; the inverse of `project`.

    Args:
        pixels: Pixel coordinates (x, y). Their leading axes are the batch axes of `intrinsics`, followed by any further
            axes.
        depths: Depth (z) of each pixel, in scene units.
        intrinsics: Intrinsics in pixels.

    Returns:
        Points in camera coordinates, in scene units.
    """
    flat = pixels.reshape(*intrinsics.shape[:-2], -1, 2)
    focal_x, focal_y, skew = intrinsics[..., 0, 0, None], intrinsics[..., 1, 1, None], intrinsics[..., 0, 1, None]
    y = (flat[..., 1] - intrinsics[..., 1, 2, None]) / focal_y
    x = (flat[..., 0] - intrinsics[..., 0, 2, None] - skew * y) / focal_x
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(*pixels.shape[:-1], 3)
    return rays * depths[..., None]


def unproject_map(
    depths: Float[Tensor, "*batch height width"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch height width 3"]:
    """Lift every pixel of depth maps to a point.

    Args:
        depths: Depth maps (z), in scene units.
        intrinsics: Intrinsics in pixels of the depth maps.

    Returns:
        Points in camera coordinates, in scene units.
    """
    grid = pixel_grid(depths.shape[-2], depths.shape[-1], depths.device, depths.dtype)
    return unproject(grid.expand(*depths.shape, 2), depths, intrinsics)


def field_of_view(intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int) -> Float[Tensor, "*batch 2"]:
    """Compute the field of view: 2 atan(size / (2 focal)), as if the principal point were at the image center.

    Args:
        intrinsics: Intrinsics in pixels.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        Horizontal and vertical field of view in radians.
    """
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    return 2 * torch.atan(_size_vector(focal, height, width) / (2 * focal))


def intrinsics_from_field_of_view(
    angles: Float[Tensor, "*batch 2"], principal_point: Float[Tensor, "*batch 2"], height: int, width: int
) -> Float[Tensor, "*batch 3 3"]:
    """Compute intrinsics from the field of view; inverse of `field_of_view`.

    Args:
        angles: Horizontal and vertical field of view in radians, in (0, pi).
        principal_point: Principal point (x, y) in pixels.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        Intrinsics in pixels, without skew.
    """
    focal = _size_vector(angles, height, width) / (2 * torch.tan(angles / 2))
    intrinsics = torch.diag_embed(torch.cat([focal, torch.ones_like(focal[..., :1])], dim=-1))
    return torch.cat([intrinsics[..., :2], _homogeneous(principal_point)[..., None]], dim=-1)


def resized_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], old_size: tuple[int, int], new_size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Adapt intrinsics to a resized image. Each axis is scaled by its own factor.

    Args:
        intrinsics: Intrinsics in pixels of the old size.
        old_size: Height and width before resizing.
        new_size: Height and width after resizing.

    Returns:
        Intrinsics in pixels of the new size.
    """
    factors = intrinsics.new_tensor([new_size[1] / old_size[1], new_size[0] / old_size[0], 1.0])
    return factors[:, None] * intrinsics


def cropped_intrinsics(intrinsics: Float[Tensor, "*batch 3 3"], left: float, top: float) -> Float[Tensor, "*batch 3 3"]:
    """Adapt intrinsics to a cropped image.

    Args:
        intrinsics: Intrinsics in pixels.
        left: Number of columns removed on the left.
        top: Number of rows removed at the top.

    Returns:
        Intrinsics in pixels of the cropped image.
    """
    shift = intrinsics.new_tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])
    return intrinsics - shift


def padded_intrinsics(intrinsics: Float[Tensor, "*batch 3 3"], left: float, top: float) -> Float[Tensor, "*batch 3 3"]:
    """Adapt intrinsics to a padded image.

    Args:
        intrinsics: Intrinsics in pixels.
        left: Number of columns added on the left.
        top: Number of rows added at the top.

    Returns:
        Intrinsics in pixels of the padded image.
    """
    return cropped_intrinsics(intrinsics, -left, -top)


def _size_vector(like: Tensor, height: int, width: int) -> Tensor:
    return like.new_tensor([float(width), float(height)])


def _homogeneous(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
