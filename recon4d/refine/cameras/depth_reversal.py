"""Depth reversal: the mirror image of a scene that looks the same under weak perspective.

If the depth range of a scene is small compared to its distance, its images are nearly scaled orthographic projections.
They do not change if all points are reflected about a plane parallel to the image and all rotations are reversed
(Necker reversal, Koenderink and van Doorn 1991, "Affine structure from motion"). Bundle adjustment converges to either.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, rigid, transform_points
from recon4d.records import Cameras

MIN_DEPTH_RATIO = 0.1
"""Smallest depth of a reflected point relative to the median depth. Hand-tuned."""


def reverse_depth(cameras: Cameras, points: Float[Tensor, "track 3"]) -> tuple[Cameras, Float[Tensor, "track 3"]]:
    """Reflect points about their median depth in the first camera, and reverse the rotations of the other cameras.

    Args:
        cameras: Cameras of all frames.
        points: Points of the tracks in world coordinates.

    Returns:
        Initial cameras and points of the mirror image, in float64; the pose of the first camera is unchanged.
    """
    world_from_cam = cameras.world_from_cam.double()
    in_first = transform_points(invert(world_from_cam[0]), points.double())
    is_in_front = in_first[:, 2] > 0
    center = in_first[is_in_front].median(dim=0).values
    # Points keep their ray in the first camera.
    depths = (2 * center[2] - in_first[:, 2]).clamp(min=MIN_DEPTH_RATIO * float(center[2]))
    rays = in_first / in_first[:, 2:]
    reflected = torch.where(is_in_front[:, None], rays * depths[:, None], in_first)

    cam_from_first = invert(world_from_cam) @ world_from_cam[0]
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    rotations = mirror @ cam_from_first[:, :3, :3] @ mirror
    # The center of the points stays where it is in every camera.
    centers = transform_points(cam_from_first, center.expand(len(cam_from_first), 1, 3))[:, 0]
    first_from_cam = invert(rigid(rotations, centers - rotations @ center))
    reversed_cameras = Cameras(world_from_cam[0] @ first_from_cam, cameras.intrinsics.double())
    return reversed_cameras, transform_points(world_from_cam[0], reflected)
