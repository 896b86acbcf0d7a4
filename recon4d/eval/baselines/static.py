"""The trivial baseline: a static camera, constant depth and no motion."""

import math

import torch

from recon4d.geometry import intrinsics_from_field_of_view, pixel_grid, unproject_map
from recon4d.records import Cameras, Clip, Scene, Tracks

FIELD_OF_VIEW = math.radians(60)
"""Field of view across the longer side, in radians: a typical value of unknown cameras. Hand-tuned."""


def static_scene(clip: Clip, anchors: tuple[int, ...]) -> Scene:
    """Predict the same camera and constant depth for all frames of a clip.

    Args:
        clip: A single clip, of which only the size and the number of frames are used.
        anchors: Indices of the anchor frames of the tracks.

    Returns:
        Identity poses, a field of view of 60 degrees, depth 1, and a static track of every pixel of the anchor frames.
    """
    time, (height, width) = clip.num_frames, clip.size
    focal = max(height, width) / (2 * math.tan(FIELD_OF_VIEW / 2))
    angles = torch.tensor([2 * math.atan(width / (2 * focal)), 2 * math.atan(height / (2 * focal))])
    center = torch.tensor([width / 2, height / 2])
    intrinsics = intrinsics_from_field_of_view(angles, center, height, width).expand(time, 3, 3)
    ones = torch.ones(time, height, width)
    points = unproject_map(ones, intrinsics)
    track_points = points[list(anchors)].reshape(len(anchors), 1, height * width, 3).expand(-1, time, -1, -1)
    return Scene(
        cameras=Cameras(torch.eye(4).expand(time, 4, 4), intrinsics),
        depths=ones,
        depth_confidence=ones,
        points=points,
        point_confidence=ones,
        dynamic=torch.zeros_like(ones),
        metres_per_unit=torch.tensor(torch.nan),
        tracks=Tracks(
            points=track_points,
            visibility=torch.ones(track_points.shape[:-1]),
            confidence=torch.ones(track_points.shape[:-1]),
            anchors=torch.tensor(anchors, dtype=torch.long),
            pixels=pixel_grid(height, width).flatten(0, 1).expand(len(anchors), -1, -1),
        ),
    )
