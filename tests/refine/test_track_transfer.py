"""Tests of track transfer: tracks start at the same pixels and keep their motion when cameras or depth change."""

from dataclasses import replace

import pytest
import torch
from scenes import make_scene

from recon4d.geometry import rigid, rotation_from_axis_angle
from recon4d.records import Cameras, Scene, Tracks
from recon4d.refine.track_transfer import hold_static_tracks, transfer_tracks

MOTION = torch.tensor([0.3, -0.1, 0.2])
"""Displacement per frame, in the world of the first camera."""


def dynamic_scene() -> Scene:
    """Return a scene in which everything but the first two rows of each anchor moves by `MOTION` in every frame."""
    scene = make_scene(anchors=(0, 2))
    assert scene.tracks is not None
    steps = torch.arange(3) - scene.tracks.anchors[:, None]
    moves = torch.ones_like(scene.dynamic)
    moves[:, :2] = 0
    goes = moves[scene.tracks.anchors].flatten(1)[:, None, :, None]
    points = scene.tracks.points + goes * steps[..., None, None] * MOTION
    return replace(scene, dynamic=moves, tracks=replace(scene.tracks, points=points))


def transferred(before: Scene, after: Scene) -> Tracks:
    tracks = transfer_tracks(before, after)
    assert tracks is not None
    return tracks


def test_tracks_do_not_change_without_changes_of_the_scene() -> None:
    scene = dynamic_scene()
    assert scene.tracks is not None
    torch.testing.assert_close(transferred(scene, scene).points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_cameras_of_other_frames_have_no_influence() -> None:
    scene = dynamic_scene()
    assert scene.tracks is not None
    turned = rotation_from_axis_angle(torch.tensor([0.1, 0.2, -0.1]))
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[1] = rigid(turned, torch.tensor([3.0, 1.0, 2.0]))
    placed = scene.with_cameras(Cameras(world_from_cam, scene.cameras.intrinsics))
    torch.testing.assert_close(transferred(scene, placed).points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_tracks_move_with_their_anchor_camera() -> None:
    scene = dynamic_scene()
    assert scene.tracks is not None
    new_from_old = rigid(rotation_from_axis_angle(torch.tensor([0.1, 0.2, -0.1])), torch.tensor([3.0, 1.0, 2.0]))
    placed = replace(scene, cameras=scene.cameras.transformed(new_from_old))
    expected = scene.tracks.points @ new_from_old[:3, :3].T + new_from_old[:3, 3]
    torch.testing.assert_close(transferred(scene, placed).points, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_displacements_scale_with_depth_and_inversely_with_the_focal_length(factor: float) -> None:
    scene = dynamic_scene()
    assert scene.tracks is not None
    deeper = replace(scene, depths=factor * scene.depths)
    tracks = transferred(scene, deeper)
    first = tracks.points[0]  # of the first camera, which is at the origin of the world
    torch.testing.assert_close(first, factor * scene.tracks.points[0], atol=1e-4, rtol=1e-4)

    longer = scene.cameras.intrinsics * torch.tensor([factor, factor, 1.0])
    zoomed = replace(scene, cameras=replace(scene.cameras, intrinsics=longer))
    displacement = transferred(scene, zoomed).points[0, 2] - transferred(scene, zoomed).points[0, 0]
    # Equal pixels and depth: displacements across the optical axis shrink, those along it do not.
    expected = 2 * MOTION / torch.tensor([factor, factor, 1.0])
    moved = scene.dynamic[0].flatten() > 0
    torch.testing.assert_close(displacement[moved], expected.expand(int(moved.sum()), 3), atol=1e-4, rtol=1e-4)
    assert displacement[~moved].abs().max() < 1e-5


def test_static_tracks_stay_at_their_pixels_and_unknown_depth_gives_finite_tracks() -> None:
    scene = dynamic_scene()
    assert scene.tracks is not None
    still = replace(scene, dynamic=torch.zeros_like(scene.dynamic))
    held = hold_static_tracks(replace(still, tracks=transferred(scene, still))).tracks
    assert held is not None
    points = held.points
    for place, anchor in enumerate(scene.tracks.anchors.tolist()):
        own = still.points_from_depth[anchor].flatten(0, 1)
        torch.testing.assert_close(points[place], own.expand(3, -1, -1), atol=1e-4, rtol=1e-4)
    unknown = replace(scene, depths=torch.zeros_like(scene.depths))
    assert transferred(unknown, scene).points.isfinite().all()


def test_a_scene_without_tracks_has_none() -> None:
    scene = replace(make_scene(), tracks=None)
    assert transfer_tracks(scene, scene) is None
