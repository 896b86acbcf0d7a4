"""Estimation of gravity: the dominant plane below the cameras is the ground (`Scene.levelled`).

RANSAC (Fischler and Bolles 1981) finds the plane among static points of known depth; a least-squares fit to its inliers
refines it. Walls and ceilings are excluded: the ground lies below every camera, and its normal is within 45 degrees of
the mean down axis of the cameras. Cameras may therefore look down during the whole clip, which would tilt an alignment
by camera axes alone. The scene must show a ground plane; a table top or a street is sufficient.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import rigid
from recon4d.records.cameras import Cameras

MAX_POINTS = 20_000
"""Largest number of points that planes are fitted to. Hand-tuned."""
NUM_HYPOTHESES = 500
"""Number of random planes. Hand-tuned."""
INLIER_DISTANCE = 0.01
"""Largest distance of an inlier from the plane, as a fraction of the median depth. Hand-tuned."""
MIN_INLIER_FRACTION = 0.1
"""Smallest fraction of all points that must lie in the ground plane. Hand-tuned."""
MAX_TILT_COSINE = 0.5**0.5
"""Cosine of the largest angle (45 degrees) between the ground normal and the mean down axis. Hand-tuned."""


def ground_from_world(
    cameras: Cameras, points: Float[Tensor, "n 3"], median_depth: float, seed: int = 0
) -> Float[Tensor, "4 4"]:
    """Estimate the rigid transform from the world frame to one whose ground is the plane y = 0, with gravity along +y.

    The origin of the new frame is the ground point below the first camera; the horizontal viewing direction of the
    first camera is +z.

    Args:
        cameras: Cameras of a single scene (no batch axis).
        points: Static points in the world frame of the cameras.
        median_depth: Median distance of the points from their cameras, which sets the tolerance of the plane.
        seed: Seed of the random plane hypotheses; the same seed gives the same result.

    Returns:
        ``ground_from_world``, in the dtype of the cameras.

    Raises:
        UserError: If no ground plane is found.
    """
    has_camera = torch.isfinite(cameras.world_from_cam).flatten(1).all(dim=1)
    if len(points) < 3 or not has_camera[0]:
        raise UserError("no ground plane found: too few static points of known depth, or the first camera is unknown")
    # At random: a stride that shares a factor with the width would keep whole columns and drop others.
    kept = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:MAX_POINTS].to(points.device)
    points, max_distance = points[kept].double(), INLIER_DISTANCE * median_depth
    centers = cameras.centers[has_camera].double()
    mean_down = cameras.world_from_cam[has_camera, :3, 1].double().mean(dim=0)

    normals, offsets = _random_planes(points, mean_down, seed)
    is_below = (normals @ centers.T < offsets[:, None]).all(dim=1)
    is_upright = normals @ mean_down >= MAX_TILT_COSINE * mean_down.norm()
    counts = _count_inliers(points, normals, offsets, max_distance).masked_fill(~(is_below & is_upright), 0)
    best = int(counts.argmax())
    if counts[best] < max(3, MIN_INLIER_FRACTION * len(points)):
        fraction = float(counts[best]) / len(points)
        raise UserError(
            f"no ground plane found: the largest plane below the cameras contains {100 * fraction:.0f} % of the "
            f"points, wanted at least {100 * MIN_INLIER_FRACTION:.0f} %"
        )
    inliers = points[(points @ normals[best] - offsets[best]).abs() <= max_distance]
    down, offset = _least_squares_plane(inliers, normals[best])
    return _ground_from_plane(cameras.world_from_cam[0].double(), down, offset).to(cameras.world_from_cam.dtype)


def _random_planes(points: Tensor, mean_down: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return planes n . x = d through three random points each, n . mean_down >= 0; n is 0 for collinear points."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(points), (NUM_HYPOTHESES, 3), generator=generator).to(points.device)
    a, b, c = points[picked].unbind(dim=1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    normals = torch.where((normals @ mean_down < 0)[:, None], -normals, normals)
    return normals, (normals * a).sum(dim=-1)


def _count_inliers(points: Tensor, normals: Tensor, offsets: Tensor, max_distance: float) -> Tensor:
    """Count the inliers of each plane, 50 planes at a time to limit memory."""
    groups = zip(normals.split(50), offsets.split(50), strict=True)
    return torch.cat([((points @ n.T - d).abs() <= max_distance).sum(dim=0) for n, d in groups])


def _least_squares_plane(points: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the plane n . x = d to points, with n . direction >= 0."""
    mean = points.mean(dim=0)
    normal = torch.linalg.eigh((points - mean).T @ (points - mean)).eigenvectors[:, 0]
    normal = -normal if normal @ direction < 0 else normal
    return normal, normal @ mean


def _ground_from_plane(world_from_cam: Tensor, down: Tensor, offset: Tensor) -> Float[Tensor, "4 4"]:
    """Return the transform to a frame with `down` as y and the heading of the camera as z.

    If the camera looks straight down, the top of its image defines the heading.
    """
    forward, top, center = world_from_cam[:3, 2], -world_from_cam[:3, 1], world_from_cam[:3, 3]
    heading = forward - (forward @ down) * down
    if heading.norm() < 1e-3:
        heading = top - (top @ down) * down
    z = heading / heading.norm()
    rotation = torch.stack([torch.linalg.cross(down, z), down, z])
    foot = center + (offset - center @ down) * down
    return rigid(rotation, -rotation @ foot)
