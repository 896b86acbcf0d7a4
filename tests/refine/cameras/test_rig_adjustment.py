"""Rigs: relative poses, focal lengths and paths of cameras that are fixed to each other are recovered exactly."""

from dataclasses import replace

import pytest
import torch
from perturbed_scenes import rotation_errors
from rig_scenes import FOCALS, make_rig, make_rig_clip, make_rig_scene, make_rig_tracks, perturbed, rig_from_cam

from recon4d.geometry import fit_rig, invert, rigid, rotation_angle, rotation_from_axis_angle
from recon4d.inference.rigs import apply_rig
from recon4d.records import rig_poses
from recon4d.refine import refine_scene


def relative_errors(scene, count: int, moments: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles in degrees and distances between relative poses of cameras and the true ones, at each moment."""
    poses = scene.cameras.world_from_cam.double().reshape(count, moments, 4, 4)
    relative = invert(poses[:1]) @ poses
    true = rig_from_cam(count)[:, None].expand_as(relative)
    angles = rotation_angle(relative[..., :3, :3].mT @ true[..., :3, :3]).rad2deg()
    return angles, (relative[..., :3, 3] - true[..., :3, 3]).norm(dim=-1)


@pytest.mark.parametrize(("count", "moments"), [(2, 6), (3, 5)])
def test_relative_poses_and_lenses_are_recovered(count: int, moments: int) -> None:
    truth, rig = make_rig_scene(count, moments), make_rig(count, moments)
    tracks = make_rig_tracks(truth)
    before = perturbed(truth)
    refinement = refine_scene(before, tracks, clip=make_rig_clip(rig))
    assert refinement.is_accepted
    angles, distances = relative_errors(refinement.scene, count, moments)
    assert angles.max() < 0.1
    assert distances.max() < 0.03
    # They are the same at all moments, up to float32.
    assert angles.std(dim=1).max() < 1e-3
    assert distances.std(dim=1).max() < 1e-4
    focal = refinement.scene.cameras.intrinsics[:, 0, 0].reshape(count, moments)
    torch.testing.assert_close(focal, torch.tensor(FOCALS[:count])[:, None].expand_as(focal), rtol=0.01, atol=0)
    assert rotation_errors(refinement.scene, truth).max() < 0.1
    assert f"rig: {count} cameras at {moments} moments are fixed to each other" in refinement.rig_report


def test_known_relative_poses_and_intrinsics_stay_as_they_are() -> None:
    truth, rig = make_rig_scene(3, 4), make_rig(3, 4)
    rig = replace(rig, rig_from_cam=rig_poses(rig_from_cam(3)))
    clip = make_rig_clip(rig)
    before = apply_rig(perturbed(truth, zoom=0), clip).scene
    angles, distances = relative_errors(before, 3, 4)
    assert angles.max() < 1e-3
    assert distances.max() < 1e-5
    from recon4d.refine import RefineConfig

    refinement = refine_scene(before, make_rig_tracks(truth), RefineConfig(refine_intrinsics=False), clip)
    assert refinement.is_accepted
    assert "known relative poses" in refinement.rig_report
    angles, distances = relative_errors(refinement.scene, 3, 4)
    assert angles.max() < 1e-3
    torch.testing.assert_close(refinement.scene.cameras.intrinsics, truth.cameras.intrinsics)
    assert rotation_errors(refinement.scene, truth).max() < 0.1


@pytest.mark.end_to_end
def test_cameras_that_share_no_corners_are_placed_by_the_motion_of_the_rig() -> None:
    """Two cameras see different parts of the wall: only the rig connects them."""
    truth, rig = make_rig_scene(2, 8), make_rig(2, 8)
    tracks = make_rig_tracks(truth, 1200)
    shared = (tracks.visibility[:8] > 0).any(dim=0) & (tracks.visibility[8:] > 0).any(dim=0)
    generator = torch.Generator().manual_seed(3)
    is_left = torch.rand(len(shared), generator=generator) < 0.5
    visibility = tracks.visibility.clone()
    visibility[:8, shared & ~is_left] = 0
    visibility[8:, shared & is_left] = 0
    before = apply_rig(perturbed(truth, degrees=4), make_rig_clip(rig)).scene
    refinement = refine_scene(before, replace(tracks, visibility=visibility), clip=make_rig_clip(rig))
    assert refinement.is_accepted
    angles, _ = relative_errors(refinement.scene, 2, 8)
    before_angles, _ = relative_errors(before, 2, 8)
    assert angles.max() < 0.5 * before_angles.max()
    assert not refinement.unknown_frames


def test_a_rig_is_fitted_in_spite_of_wrong_poses() -> None:
    truth, rig = make_rig_scene(2, 9), make_rig(2, 9)
    poses = truth.cameras.world_from_cam.double().clone()
    wrong = rigid(rotation_from_axis_angle(torch.tensor([0.0, 0.5, 0.2])), torch.tensor([0.5, 0.0, 1.0])).double()
    poses[12] = poses[12] @ wrong
    poses[15] = poses[15] @ wrong
    numbers, moments = torch.tensor(rig.cameras), torch.tensor(rig.moments)
    is_known = torch.ones(18, dtype=torch.bool)
    is_known[4] = False
    poses[4] = torch.eye(4)
    fit = fit_rig(poses, numbers, moments, is_known)
    torch.testing.assert_close(fit.rig_from_cam[1], rig_from_cam(2)[1], atol=1e-3, rtol=0)
    # The frame that is not known follows from the other camera at its moment.
    torch.testing.assert_close(fit.world_from_cam[4], truth.cameras.world_from_cam[4].double(), atol=2e-3, rtol=0)
    assert fit.angles[4] == 0
    assert float(fit.angles.median()) < 1e-3
    assert float(fit.angles.max()) > 0.1


def test_known_relative_poses_are_believed_more_than_predicted_directions() -> None:
    """Each camera's path is right by itself, but the cameras are predicted to look anywhere."""
    truth, rig = make_rig_scene(3, 5), make_rig(3, 5)
    numbers, moments = torch.tensor(rig.cameras), torch.tensor(rig.moments)
    anywhere = rigid(
        rotation_from_axis_angle(torch.tensor([[0.0, 0, 0], [0.3, 1.0, 0.2], [-1.5, 0.4, 0.8]]).double()),
        torch.tensor([[0.0, 0, 0], [1.0, 2.0, -1.0], [0.5, -3.0, 2.0]]).double(),
    )
    poses = anywhere[numbers] @ truth.cameras.world_from_cam.double()
    fit = fit_rig(poses, numbers, moments, torch.ones(15, dtype=torch.bool), rig_from_cam(3))
    found, wanted = (invert(own[:1]) @ own for own in (fit.world_from_cam, truth.cameras.world_from_cam.double()))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_single_pass_fixes_cameras_and_shares_lenses() -> None:
    truth, rig = make_rig_scene(2, 5), make_rig(2, 5)
    fixed = apply_rig(perturbed(truth), make_rig_clip(rig))
    angles, distances = relative_errors(fixed.scene, 2, 5)
    assert angles.std(dim=1).max() < 1e-3
    assert distances.std(dim=1).max() < 1e-5
    assert len(fixed.scene.cameras.intrinsics[:, 0, 0].unique()) == 2
    assert torch.equal(fixed.scene.cameras.world_from_cam[0], torch.eye(4))
    assert "2 cameras at 5 moments are fixed to each other, with estimated relative poses" in fixed.report
    unchanged = apply_rig(truth, replace(make_rig_clip(rig), rig=None))
    assert unchanged.scene is truth
    assert unchanged.report == ""
