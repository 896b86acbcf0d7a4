"""Fundamental matrices of all pairs of frames: epipolar lines of exact points, and pairs without lines."""

import torch
from torch.testing import assert_close

from recon4d import geometry as g


def cameras(frames: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return poses that move and turn, and intrinsics with skew that differ between frames."""
    generator = torch.Generator().manual_seed(0)
    turn, move = torch.randn(2, frames, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([[90.0, 2.0, 40.0], [0.0, 80.0, 30.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    scales = 1 + torch.arange(frames, dtype=torch.float64)[:, None, None] / 10
    scaled = intrinsics * torch.cat([scales.expand(-1, 2, 3), torch.ones(frames, 1, 3)], dim=1)
    return g.rigid(g.rotation_from_axis_angle(0.2 * turn), 0.3 * move), scaled


def test_true_pixels_are_on_their_epipolar_lines() -> None:
    world_from_cam, intrinsics = cameras()
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = points + torch.tensor([0.0, 0.0, 6.0])
    in_cameras = g.transform_points(g.invert(world_from_cam), points.expand(4, -1, -1))
    assert in_cameras[..., 2].min() > 1
    pixels = g.project(in_cameras, intrinsics)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    fundamental = g.fundamental_matrices(world_from_cam, intrinsics)
    for a in range(4):
        for b in range(4):
            lines = homogeneous[a] @ fundamental[a, b].T
            if a == b:
                assert (lines == 0).all()
                continue
            distance = (lines * homogeneous[b]).sum(dim=-1) / lines[:, :2].norm(dim=-1)
            assert_close(distance, torch.zeros_like(distance), atol=1e-9, rtol=0)
            other_order = (lines * homogeneous[b].roll(1, 0)).sum(dim=-1) / lines[:, :2].norm(dim=-1)
            assert other_order.abs().median() > 1


def test_the_unit_of_the_scene_does_not_matter() -> None:
    world_from_cam, intrinsics = cameras()
    scaled = world_from_cam.clone()
    scaled[..., :3, 3] *= 1e-7
    expected = g.fundamental_matrices(world_from_cam, intrinsics)
    assert_close(g.fundamental_matrices(scaled, intrinsics), expected)


def test_unknown_cameras_give_nan_for_their_pairs_only() -> None:
    world_from_cam, intrinsics = cameras()
    world_from_cam[1], intrinsics[2] = torch.nan, torch.nan
    is_known = torch.isfinite(g.fundamental_matrices(world_from_cam, intrinsics)).all(dim=(-1, -2))
    expected = torch.tensor([True, False, False, True])
    assert torch.equal(is_known, expected[:, None] & expected)
