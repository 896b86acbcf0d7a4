"""Turns a scene so that its floor is level: gravity is the normal of the dominant plane under the cameras.

The plane is found by random sampling (Fischler and Bolles 1981) among still, known points, and refined by least
squares over those that lie in it. Walls and ceilings are ruled out: a floor is below every camera, and its normal
within 45 degrees of the cameras' mean "down". Cameras may so look down for the whole clip, which would tilt a world
that is leveled by their axes alone; the price is that there must be a floor (a table top or a street will do).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import rigid
from recon4d.records.scene import Scene

MAX_POINTS, HYPOTHESES = 20_000, 500
THICKNESS = 0.01
"""Points this share of the median depth from a plane lie in it."""
LEAST_SHARE = 0.1
"""A floor holds at least this share of the points."""
MAX_TILT_COSINE = 0.5**0.5
MOVING = 0.5


def leveled(scene: Scene, seed: int = 0) -> Scene:
    """The scene in a world whose floor is the plane y = 0, with y down: gravity is (0, 1, 0).

    The origin is the point of the floor under the first camera, and the first camera looks along z, seen from above.
    The same seed answers the same world. Raises ``ValueError`` where no floor is found.
    """
    return scene.transformed(level_from_world(scene, seed))


def level_from_world(scene: Scene, seed: int = 0) -> Float[Tensor, "4 4"]:
    """The rigid transform of `leveled`."""
    if scene.batch_shape:
        raise ValueError(f"wanted one scene, given a batch of {tuple(scene.batch_shape)}")
    cameras = scene.cameras
    has_camera = torch.isfinite(cameras.world_from_cam).flatten(1).all(dim=1)
    points, thickness = _still_points(scene)
    if len(points) < 3 or not has_camera[0]:
        raise ValueError("no floor is found: too few known points that stand still, or the first camera is unknown")
    centers = cameras.centers[has_camera].double()
    usual_down = cameras.world_from_cam[has_camera, :3, 1].double().mean(dim=0)

    normals, offsets = _hypotheses(points, usual_down, seed)
    is_below = (normals @ centers.T < offsets[:, None]).all(dim=1)
    is_upright = normals @ usual_down >= MAX_TILT_COSINE * usual_down.norm()
    counts = _counts(points, normals, offsets, thickness).masked_fill(~(is_below & is_upright), 0)
    best = int(counts.argmax())
    if counts[best] < max(3, LEAST_SHARE * len(points)):
        share = float(counts[best]) / len(points)
        raise ValueError(
            f"no floor is found: the largest plane under the cameras holds {100 * share:.0f} % of the points, "
            f"wanted {100 * LEAST_SHARE:.0f} %"
        )
    in_plane = points[(points @ normals[best] - offsets[best]).abs() <= thickness]
    down, offset = _least_squares_plane(in_plane, normals[best])
    return _level_from_plane(cameras.world_from_cam[0].double(), down, offset).to(cameras.world_from_cam.dtype)


def _still_points(scene: Scene) -> tuple[Float[Tensor, "n 3"], float]:
    """At most `MAX_POINTS` of the known points that do not move, and how thick a plane is."""
    is_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    points = scene.points_from_depth
    is_known &= ~(scene.dynamic > MOVING) & torch.isfinite(points).all(dim=-1)
    count = int(is_known.sum())
    if not count:
        return points.new_zeros(0, 3).double(), 0.0
    # At random: a stride that shares a factor with the width would keep whole columns and lose others.
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MAX_POINTS].to(points.device)
    return points[is_known][kept].double(), THICKNESS * float(scene.depths[is_known].median())


def _hypotheses(points: Tensor, usual_down: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Planes n . x = d through three points each, with n to the side of `usual_down`; n is 0 for points in a line."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(points), (HYPOTHESES, 3), generator=generator).to(points.device)
    a, b, c = points[picked].unbind(dim=1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    normals = torch.where((normals @ usual_down < 0)[:, None], -normals, normals)
    return normals, (normals * a).sum(dim=-1)


def _counts(points: Tensor, normals: Tensor, offsets: Tensor, thickness: float) -> Tensor:
    """How many points lie in each plane; a few planes at a time, which takes less memory."""
    groups = zip(normals.split(50), offsets.split(50), strict=True)
    return torch.cat([((points @ n.T - d).abs() <= thickness).sum(dim=0) for n, d in groups])


def _least_squares_plane(points: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """The plane n . x = d nearest to the points, n to the side of `side`."""
    mean = points.mean(dim=0)
    normal = torch.linalg.eigh((points - mean).T @ (points - mean)).eigenvectors[:, 0]
    normal = -normal if normal @ side < 0 else normal
    return normal, normal @ mean


def _level_from_plane(world_from_cam: Tensor, down: Tensor, offset: Tensor) -> Float[Tensor, "4 4"]:
    """The world with `down` as y and the camera's heading as z; where it looks straight down, its top edge's."""
    forward, top, center = world_from_cam[:3, 2], -world_from_cam[:3, 1], world_from_cam[:3, 3]
    heading = forward - (forward @ down) * down
    if heading.norm() < 1e-3:
        heading = top - (top @ down) * down
    z = heading / heading.norm()
    rotation = torch.stack([torch.linalg.cross(down, z), down, z])
    foot = center + (offset - center @ down) * down
    return rigid(rotation, -rotation @ foot)
