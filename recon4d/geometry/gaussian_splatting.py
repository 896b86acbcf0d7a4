"""Rasterization of 3D Gaussians on any device: EWA splatting (Zwicker et al. 2001) as in Kerbl et al. 2023.

A Gaussian is projected to a Gaussian in the image by the Jacobian of the pinhole projection at its center. Pixels blend
the Gaussians from near to far. It is written in plain PyTorch, for tests and figures: trainers use kernels instead.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry.pinhole import pixel_grid, project
from recon4d.geometry.rotations import rotation_from_quaternion
from recon4d.geometry.transforms import transform_points

LOW_PASS_VARIANCE = 0.3
"""Variance that is added to every projected Gaussian, in square pixels. From Kerbl et al. 2023."""
MAX_ALPHA = 0.99
"""Largest opacity of a Gaussian at a pixel. From Kerbl et al. 2023."""
MIN_ALPHA = 1 / 255
"""Smaller opacities of a Gaussian at a pixel count as zero. From Kerbl et al. 2023."""
MIN_TRANSMITTANCE = 1e-4
"""Farther Gaussians are not blended where all pixels of a tile let less light through. From Kerbl et al. 2023."""
MIN_DEPTH = 0.01
"""Gaussians whose center is nearer than this share of the median depth are not drawn. Hand-tuned."""
FIELD_MARGIN = 1.3
"""Centers further out than this times the half image are moved there for the Jacobian. From Kerbl et al. 2023."""
RADIUS = 3.33
"""Extent of a projected Gaussian in standard deviations: exp(-RADIUS**2 / 2) is `MIN_ALPHA`."""
TILE = 8
"""Side of a tile in pixels. Hand-tuned: most Gaussians of a scene of this package are a few pixels large."""
CHUNK = 256
"""Number of Gaussians of a tile that are blended at once. Hand-tuned."""


def gaussian_covariances(
    scales: Float[Tensor, "*batch 3"], quaternions: Float[Tensor, "*batch 4"]
) -> Float[Tensor, "*batch 3 3"]:
    """Compute covariances from standard deviations and orientations.

    Args:
        scales: Standard deviations along the axes of the Gaussians.
        quaternions: Rotations (w, x, y, z) from the axes of the Gaussians to the world.

    Returns:
        Covariances in the world.
    """
    axes = rotation_from_quaternion(quaternions) * scales[..., None, :]
    return axes @ axes.transpose(-1, -2)


def project_covariances(
    in_camera: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    cam_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
) -> Float[Tensor, "n 2 2"]:
    """Project covariances to the image, to first order at the center (Zwicker et al. 2001, eq. 29).

    Args:
        in_camera: Centers in camera coordinates, with z > 0.
        covariances: Covariances in the world.
        cam_from_world: Pose of the camera.
        intrinsics: Intrinsics in pixels.
        size: Height and width of the image.

    Returns:
        Covariances in square pixels.
    """
    focal_x, skew, center_x = intrinsics[0]
    focal_y, center_y = intrinsics[1, 1], intrinsics[1, 2]
    depth = in_camera[:, 2]
    # Far outside the image the first order is wrong by any amount.
    limits = FIELD_MARGIN * torch.stack([size[1] / focal_x, size[0] / focal_y])
    middle = torch.stack([(size[1] / 2 - center_x) / focal_x, (size[0] / 2 - center_y) / focal_y])
    on_plane = in_camera[:, :2] / depth[:, None]
    x, y = (middle + (on_plane - middle).clamp(-limits / 2, limits / 2)).unbind(dim=-1)
    zero = torch.zeros_like(depth)
    rows = (
        torch.stack([focal_x / depth, skew / depth, -(focal_x * x + skew * y) / depth], dim=-1),
        torch.stack([zero, focal_y / depth, -focal_y * y / depth], dim=-1),
    )
    pixels_from_world = torch.stack(rows, dim=-2) @ cam_from_world[:3, :3]
    return pixels_from_world @ covariances @ pixels_from_world.transpose(-1, -2)


def rasterize_gaussians(
    centers: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    opacities: Float[Tensor, " n"],
    colors: Float[Tensor, "n channel"],
    cam_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "height width channel"], Float[Tensor, "height width"]]:
    """Draw Gaussians.

    Args:
        centers: Centers in the world.
        covariances: Covariances in the world.
        opacities: Opacities at the centers, 0 to 1.
        colors: Colors, or any other values to blend.
        cam_from_world: Pose of the camera.
        intrinsics: Intrinsics in pixels.
        size: Height and width of the image.

    Returns:
        The image before a black background, and the opacity of each pixel: add ``(1 - opacity) * background`` for
        another background.
    """
    in_camera = transform_points(cam_from_world, centers)
    is_ahead = in_camera[:, 2] > 0
    if is_ahead.any():
        is_ahead &= in_camera[:, 2] > MIN_DEPTH * in_camera[is_ahead, 2].median()
    order = is_ahead.nonzero()[:, 0]
    order = order[in_camera[order, 2].argsort()]
    in_camera = in_camera[order]
    means = project(in_camera, intrinsics)
    projected = project_covariances(in_camera, covariances[order], cam_from_world, intrinsics, size)
    projected = projected + LOW_PASS_VARIANCE * torch.eye(2).to(projected)
    inverses = torch.linalg.inv(projected)
    radii = RADIUS * projected.diagonal(dim1=-2, dim2=-1).sqrt()
    values = torch.cat([colors[order], torch.ones_like(opacities[order, None])], dim=1)
    image = values.new_zeros(*size, values.shape[1])
    pixels = pixel_grid(*size, device=values.device, dtype=values.dtype)
    tiles_across = -(-size[1] // TILE)
    for tile, members in _members_of_tiles(means, radii, size):
        row, column = TILE * (tile // tiles_across), TILE * (tile % tiles_across)
        part = pixels[row : row + TILE, column : column + TILE]
        image[row : row + TILE, column : column + TILE] = _blend(
            part.reshape(-1, 2), means[members], inverses[members], opacities[order[members]], values[members]
        ).reshape(*part.shape[:2], -1)
    return image[..., :-1], image[..., -1]


def _members_of_tiles(means: Tensor, radii: Tensor, size: tuple[int, int]) -> list[tuple[int, Int[Tensor, " n"]]]:
    """Return the number of each tile that Gaussians reach, with the Gaussians in the order given."""
    counts = torch.tensor([-(-size[1] // TILE), -(-size[0] // TILE)], device=means.device)
    low = ((means - radii) / TILE).floor().clamp(min=0).minimum(counts.to(means)).long()
    high = (((means + radii) / TILE).floor() + 1).clamp(min=0).minimum(counts.to(means)).long()
    shape = (high - low).clamp(min=0)
    number = shape.prod(dim=1)
    member = torch.repeat_interleave(torch.arange(len(means), device=means.device), number)
    first = number.cumsum(dim=0) - number
    position = torch.arange(len(member), device=means.device) - first[member]
    column = low[member, 0] + position % shape[member, 0]
    row = low[member, 1] + position // shape[member, 0]
    tile, by_tile = (row * counts[0] + column).sort(stable=True)
    found, lengths = torch.unique_consecutive(tile, return_counts=True)
    return list(zip(found.tolist(), member[by_tile].split(lengths.tolist()), strict=True))


def _blend(pixels: Tensor, means: Tensor, inverses: Tensor, opacities: Tensor, values: Tensor) -> Tensor:
    """Blend Gaussians from near to far at some pixels (Kerbl et al. 2023, eq. 3)."""
    blended = values.new_zeros(len(pixels), values.shape[1])
    transmittance = values.new_ones(len(pixels))
    for start in range(0, len(means), CHUNK):
        chunk = slice(start, start + CHUNK)
        off_x, off_y = (pixels[:, None] - means[chunk]).unbind(dim=-1)
        inverse = inverses[chunk]
        squared = inverse[:, 0, 0] * off_x * off_x + inverse[:, 1, 1] * off_y * off_y
        squared = squared + 2 * inverse[:, 0, 1] * off_x * off_y
        alpha = (opacities[chunk] * torch.exp(-squared / 2)).clamp(max=MAX_ALPHA)
        alpha = torch.where(alpha < MIN_ALPHA, 0.0, alpha)
        after = transmittance[:, None] * (1 - alpha).cumprod(dim=1)
        before = torch.cat([transmittance[:, None], after[:, :-1]], dim=1)
        blended = blended + (alpha * before) @ values[chunk]
        transmittance = after[:, -1]
        if float(transmittance.detach().max()) < MIN_TRANSMITTANCE:
            break
    return blended
