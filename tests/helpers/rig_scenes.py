"""An exact wavy wall seen by cameras that are fixed to each other, with lenses of their own."""

from dataclasses import replace

import torch
from torch import Tensor

from recon4d import geometry as g
from recon4d.records import Cameras, Clip, FeatureTracks, Rig, Scene

HEIGHT, WIDTH = 90, 120
FOCALS = (100.0, 125.0, 112.0)


def rig_from_cam(count: int) -> Tensor:
    """The first camera is the rig; the others are beside it and turned."""
    turns = torch.tensor([[0.0, 0, 0], [0.02, 0.2, 0.01], [-0.03, -0.18, 0.02]]).double()
    places = torch.tensor([[0.0, 0, 0], [-0.6, 0.05, 0.1], [0.5, -0.1, 0.05]]).double()
    return g.rigid(g.rotation_from_axis_angle(turns), places)[:count]


def make_rig(count: int, moments: int) -> Rig:
    cameras = tuple(camera for camera in range(count) for _ in range(moments))
    return Rig(("left", "right", "top")[:count], cameras, tuple(range(moments)) * count)


def wall(x: Tensor, y: Tensor) -> Tensor:
    """Depth of the wall in the world."""
    return 5 + 0.7 * torch.sin(1.1 * x + 0.3) + 0.6 * torch.cos(1.4 * y)


def make_rig_scene(count: int, moments: int, focals: tuple[float, ...] = FOCALS) -> Scene:
    steps = torch.arange(moments).double()[:, None]
    turns = steps * torch.tensor([0.01, -0.04, 0.015]).double()
    world_from_rig = g.rigid(g.rotation_from_axis_angle(turns), steps * torch.tensor([0.35, 0.06, 0.12]).double())
    rig = make_rig(count, moments)
    world_from_cam = world_from_rig[list(rig.moments)] @ rig_from_cam(count)[list(rig.cameras)]
    intrinsics = torch.stack(
        [
            torch.tensor([[focals[camera], 0, WIDTH / 2], [0, focals[camera], HEIGHT / 2], [0, 0, 1]])
            for camera in rig.cameras
        ]
    )
    cameras = Cameras(world_from_cam.float(), intrinsics)
    rays = g.unproject_map(torch.ones(len(intrinsics), HEIGHT, WIDTH).double(), intrinsics.double())
    directions = rays @ world_from_cam[:, None, :3, :3].mT
    centers = world_from_cam[:, None, None, :3, 3]
    depths = torch.full(directions.shape[:3], 5.0).double()
    for _ in range(60):  # the slope of the wall is below 1 along all rays
        points = centers + depths[..., None] * directions
        depths = depths + 0.6 * (wall(points[..., 0], points[..., 1]) - points[..., 2])
    points = (centers + depths[..., None] * directions).float()
    ones = torch.ones_like(points[..., 0])
    return Scene(
        cameras, depths.float(), ones, points, ones, torch.zeros_like(ones), metres_per_unit=torch.tensor(torch.nan)
    )


def make_rig_tracks(scene: Scene, count: int = 500, noise: float = 0.05) -> FeatureTracks:
    """Points on the wall, seen by every camera in whose picture they are."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, count, generator=generator).double() * torch.tensor([[7.0], [4.0]])) + torch.tensor(
        [[-3.0], [-2.0]]
    )
    points = torch.stack([x, y, wall(x, y)], dim=-1)
    in_camera = g.transform_points(
        scene.cameras.cam_from_world.double(), points.expand(scene.num_frames, -1, -1).contiguous()
    )
    pixels = g.project(in_camera, scene.cameras.intrinsics.double())
    inside = (pixels > 1).all(dim=-1) & (pixels < torch.tensor([WIDTH - 1, HEIGHT - 1])).all(dim=-1)
    pixels = pixels + noise * torch.randn(pixels.shape, generator=generator)
    return FeatureTracks(pixels.float(), (inside & (in_camera[..., 2] > 0)).float())


def perturbed(scene: Scene, degrees: float = 1.5, distance: float = 0.1, zoom: float = 0.04) -> Scene:
    """Rotate and move every camera but the first at random, and change all focal lengths."""
    generator = torch.Generator().manual_seed(1)
    axes, directions = torch.nn.functional.normalize(torch.randn(2, scene.num_frames, 3, generator=generator), dim=-1)
    turn = g.rotation_from_axis_angle(torch.deg2rad(torch.tensor(degrees)) * axes)
    turn[0], directions[0] = torch.eye(3), 0
    cameras = scene.cameras
    world_from_cam = g.rigid(cameras.world_from_cam[:, :3, :3] @ turn, cameras.centers + distance * directions)
    factors = 1 + zoom * torch.linspace(1, -1, scene.num_frames)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 0] *= factors
    intrinsics[:, 1, 1] *= factors
    return replace(scene, cameras=Cameras(world_from_cam, intrinsics))


def make_rig_clip(rig: Rig) -> Clip:
    images = torch.zeros(len(rig.cameras), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    return Clip(images, torch.tensor(rig.moments) / 10, rig=rig)
