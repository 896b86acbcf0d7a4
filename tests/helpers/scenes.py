"""Small exact scenes and clips for tests: a slanted wall seen by cameras that move past it."""

import torch

from recon4d import geometry as g
from recon4d.records import (
    Cameras,
    Clip,
    Scene,
    Tracks,
)

HEIGHT, WIDTH = 12, 16


def make_clip(frames: int = 3, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Clip:
    """Create a clip of colored noise, a tenth of a second between frames."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)
    return Clip(images, torch.arange(frames) / 10)


def make_scene(
    frames: int = 3, anchors: tuple[int, ...] = (0,), seed: int = 0, metres_per_unit: float = torch.nan
) -> Scene:
    """Create the wall z = 4 + x / 4 with exact depth, points and tracks (every pixel of the anchors, static)."""
    steps = torch.arange(frames, dtype=torch.float32)[:, None]
    rotation = g.rotation_from_axis_angle(steps * torch.tensor([0.02, 0.05 + 0.01 * seed, -0.01]))
    cameras = Cameras(
        world_from_cam=g.rigid(rotation, steps * torch.tensor([0.1, -0.05, 0.2])),
        intrinsics=torch.tensor([[20.0, 0.0, 7.0], [0.0, 22.0, 6.5], [0.0, 0.0, 1.0]]).expand(frames, 3, 3),
    )
    depths = _depth_of_wall(cameras)
    points = g.transform_points(cameras.world_from_cam, g.unproject_map(depths, cameras.intrinsics))
    ones = torch.ones_like(depths)
    still = points[list(anchors)].reshape(len(anchors), 1, -1, 3).expand(-1, frames, -1, -1)
    pixels = g.pixel_grid(HEIGHT, WIDTH).reshape(-1, 2)
    return Scene(
        cameras=cameras,
        depths=depths,
        depth_confidence=ones,
        points=points,
        point_confidence=ones,
        dynamic=torch.zeros_like(depths),
        metres_per_unit=torch.tensor(metres_per_unit),
        tracks=Tracks(
            points=still,
            visibility=torch.ones(still.shape[:-1]),
            confidence=torch.ones(still.shape[:-1]),
            anchors=torch.tensor(anchors),
            pixels=pixels.expand(len(anchors), -1, -1),
        ),
    )


def _depth_of_wall(cameras: Cameras) -> torch.Tensor:
    """Intersect the ray of each pixel with the plane n . X = 4, n = (-1/4, 0, 1)."""
    ones = torch.ones(cameras.intrinsics.shape[0], HEIGHT, WIDTH)
    rays = g.unproject_map(ones, cameras.intrinsics)
    directions = rays @ cameras.world_from_cam[:, None, :3, :3].transpose(-1, -2)
    normal = torch.tensor([-0.25, 0.0, 1.0])
    return (4 - cameras.centers @ normal)[:, None, None] / (directions @ normal)
