"""Cameras from rays: exact for exact rays, robust against wrong ones, and right where the published code is not."""

import pytest
import torch
from torch import Tensor

from recon4d.geometry import pixel_grid, rigid, rotation_angle, rotation_from_axis_angle, unproject
from recon4d.heads import Rays, cameras_from_rays
from recon4d.records import Cameras

SIZE = (56, 70)
GRID = (32, 40)


@pytest.fixture
def cameras() -> Cameras:
    """Three cameras in general position whose principal points are off the center by several pixels."""
    axes = torch.tensor([[0.0, 0.0, 0.0], [0.4, -0.7, 0.2], [-0.9, 0.3, 1.4]])
    centers = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [3.0, 0.2, -1.0]])
    intrinsics = torch.tensor([[60.0, 0.0, 38.0], [0.0, 66.0, 25.0], [0.0, 0.0, 1.0]]).repeat(3, 1, 1)
    return Cameras(rigid(rotation_from_axis_angle(axes), centers), intrinsics)


def rays_of(cameras: Cameras) -> Rays:
    rows, columns = GRID
    cells = pixel_grid(rows, columns) * torch.tensor([SIZE[1] / columns, SIZE[0] / rows])
    pixels = cells.expand(len(cameras.intrinsics), -1, -1, -1)
    in_camera = unproject(pixels, torch.ones_like(pixels[..., 0]), cameras.intrinsics)
    directions = torch.einsum("tij,thwj->thwi", cameras.world_from_cam[:, :3, :3], in_camera)
    origins = cameras.centers[:, None, None].expand_as(directions)
    return Rays(directions, origins, torch.full(directions.shape[:-1], 2.0))


def rotation_errors(found: Cameras, wanted: Cameras) -> Tensor:
    relative = found.world_from_cam[:, :3, :3].transpose(-1, -2) @ wanted.world_from_cam[:, :3, :3]
    return rotation_angle(relative).rad2deg()


def test_exact_rays_give_exact_cameras(cameras: Cameras) -> None:
    found = cameras_from_rays(rays_of(cameras), SIZE)
    torch.testing.assert_close(found.world_from_cam, cameras.world_from_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.intrinsics, cameras.intrinsics, rtol=1e-5, atol=1e-4)


def test_directions_are_determined_up_to_length_and_sign(cameras: Cameras) -> None:
    rays = rays_of(cameras)
    lengths = torch.rand(rays.confidence.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    found = cameras_from_rays(rays._replace(directions=rays.directions * lengths[..., None]), SIZE)
    assert rotation_errors(found, cameras).max() < 0.01


def test_the_published_triangle_is_on_the_wrong_side(cameras: Cameras) -> None:
    found = cameras_from_rays(rays_of(cameras), SIZE, parity=True)
    assert rotation_errors(found, cameras).min() > 2
    # The principal point comes out on the other side of the center.
    offset = found.intrinsics[:, :2, 2] - torch.tensor([35.0, 28.0])
    assert (offset[:, 0] < 0).all()
    assert (offset[:, 1] > 0).all()


def test_a_third_of_wrong_rays_does_no_harm(cameras: Cameras) -> None:
    rays = rays_of(cameras)
    generator = torch.Generator().manual_seed(1)
    is_wrong = torch.rand(rays.confidence.shape, generator=generator) < 0.3
    noise = torch.randn(rays.directions.shape, generator=generator)
    spoilt = rays._replace(directions=torch.where(is_wrong[..., None], noise, rays.directions))
    assert rotation_errors(cameras_from_rays(spoilt, SIZE), cameras).max() < 0.5


def test_rays_parallel_to_the_plane_have_no_weight(cameras: Cameras) -> None:
    rays = rays_of(cameras)
    directions, origins = rays.directions.clone(), rays.origins.clone()
    directions[:, ::4, :, 2] = 0.0
    origins[:, ::4] = 1e6
    found = cameras_from_rays(Rays(directions, origins, rays.confidence), SIZE)
    torch.testing.assert_close(found.world_from_cam, cameras.world_from_cam, rtol=0, atol=1e-4)


def test_meaningless_rays_give_finite_cameras() -> None:
    nothing = torch.zeros(1, 2, *GRID, 3)
    found = cameras_from_rays(Rays(nothing, nothing, torch.ones(1, 2, *GRID)), SIZE)
    assert found.world_from_cam.isfinite().all()
    assert found.intrinsics.isfinite().all()
