"""Poses between frames: exact at the known ones, smooth between them, right for a turn at constant speed."""

import pytest
import torch

from recon4d.geometry import rigid, rotation_angle, rotation_from_axis_angle
from recon4d.geometry.pose_interpolation import interpolate_poses

TIMES = torch.tensor([0.0, 0.1, 0.3, 0.4, 0.6])


def poses_at(times: torch.Tensor) -> torch.Tensor:
    """Turn about a fixed axis at a constant speed, on an arc."""
    axis = torch.tensor([0.2, 0.9, -0.1])
    return rigid(
        rotation_from_axis_angle(3 * times[:, None] * axis),
        torch.stack([torch.cos(3 * times), torch.sin(3 * times), times], dim=-1),
    )


def test_known_poses_stay_and_others_are_near_the_path() -> None:
    torch.testing.assert_close(interpolate_poses(poses_at(TIMES), TIMES, TIMES), poses_at(TIMES), atol=1e-5, rtol=0)
    between = torch.tensor([0.05, 0.2, 0.35, 0.5])
    found, wanted = interpolate_poses(poses_at(TIMES), TIMES, between), poses_at(between)
    assert rotation_angle(found[:, :3, :3].mT @ wanted[:, :3, :3]).max() < 1e-3
    straight = (poses_at(TIMES)[1:3, :3, 3].mean(dim=0) - wanted[1, :3, 3]).norm()
    assert (found[:, :3, 3] - wanted[:, :3, 3]).norm(dim=-1).max() < 0.3 * straight


def test_unknown_poses_are_bridged_and_ends_are_kept() -> None:
    poses = poses_at(TIMES)
    poses[[0, 2]] = torch.nan
    found = interpolate_poses(poses, TIMES, torch.tensor([-1.0, 0.3, 9.0]))
    torch.testing.assert_close(found[0], poses[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2], poses[4], atol=1e-5, rtol=0)
    assert (found[1, :3, 3] - poses_at(TIMES)[2, :3, 3]).norm() < 0.1


def test_one_known_pose_holds_everywhere_and_none_is_an_error() -> None:
    poses = poses_at(TIMES)
    poses[1:] = torch.nan
    assert torch.equal(interpolate_poses(poses, TIMES, TIMES), poses[:1].expand(5, 4, 4))
    with pytest.raises(ValueError, match="no pose is known"):
        interpolate_poses(torch.full_like(poses, torch.nan), TIMES, TIMES)
