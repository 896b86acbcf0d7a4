"""Tests of the depth reversal of a scene under weak perspective."""

import math

import torch

from recon4d.geometry import project, rigid, rotation_from_axis_angle, transform_points
from recon4d.records import Cameras
from recon4d.refine.cameras.depth_reversal import reverse_depth


def test_the_mirror_image_looks_the_same_from_afar() -> None:
    """Points within 1 unit, at a distance of 200: their images are nearly scaled orthographic projections."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(40, 3, generator=generator).double() + torch.tensor([0.0, 0.0, 200.0])
    angles = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.05, -0.1, 0.02]]).double()
    rotations = rotation_from_axis_angle(angles)
    center = points.mean(dim=0)
    # All cameras look at the points from the same distance.
    world_from_cam = rigid(rotations, center - rotations @ torch.tensor([0.0, 0.0, 200.0]).double())
    world_from_cam[0, :3, 3] = 0
    intrinsics = torch.tensor([[20000.0, 0, 50], [0, 20000, 50], [0, 0, 1]]).double().expand(3, 3, 3)
    cameras = Cameras(world_from_cam, intrinsics)

    def pixels(cameras: Cameras, points: torch.Tensor) -> torch.Tensor:
        return project(transform_points(cameras.cam_from_world, points.expand(3, 40, 3)), intrinsics)

    reversed_cameras, reversed_points = reverse_depth(cameras, points)
    assert (reversed_points[:, 2] - points[:, 2]).abs().max() > 0.5
    assert torch.corrcoef(torch.stack([reversed_points[:, 2], points[:, 2]]))[0, 1] < -0.99
    torch.testing.assert_close(reversed_cameras.world_from_cam[0], cameras.world_from_cam[0])
    difference = (pixels(reversed_cameras, reversed_points) - pixels(cameras, points)).norm(dim=-1)
    moved = (pixels(cameras, points)[1:] - pixels(cameras, points)[0]).std(dim=1).norm(dim=-1)
    assert difference.max() < 0.2 * moved.min()
    turned = reversed_cameras.world_from_cam[1, :3, :3]
    assert math.isclose(float(turned[0, 2]), -float(rotations[1, 0, 2]), abs_tol=1e-6)
