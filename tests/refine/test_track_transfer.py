"""Tracks of a scene whose cameras and depth change begin at the same pixels and go the same way."""

from dataclasses import replace

import pytest
import torch
from scenes import make_scene

from recon4d.geometry import rigid, rotation_from_axis_angle
from recon4d.records import Cameras, Scene, Tracks
from recon4d.refine.track_transfer import transfer_tracks

WAY = torch.tensor([0.3, -0.1, 0.2])
"""In the world of the first camera, from frame to frame."""


def moving_scene() -> Scene:
    """Everything but the first two rows of each anchor goes `WAY` in every frame."""
    scene = make_scene(anchors=(0, 2))
    assert scene.tracks is not None
    steps = torch.arange(3) - scene.tracks.anchors[:, None]
    moves = torch.ones_like(scene.dynamic)
    moves[:, :2] = 0
    goes = moves[scene.tracks.anchors].flatten(1)[:, None, :, None]
    points = scene.tracks.points + goes * steps[..., None, None] * WAY
    return replace(scene, dynamic=moves, tracks=replace(scene.tracks, points=points))


def carried(before: Scene, after: Scene) -> Tracks:
    tracks = transfer_tracks(before, after)
    assert tracks is not None
    return tracks


def test_nothing_changes_where_nothing_changed() -> None:
    scene = moving_scene()
    assert scene.tracks is not None
    torch.testing.assert_close(carried(scene, scene).points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_other_cameras_of_other_times_have_no_part_in_it() -> None:
    scene = moving_scene()
    assert scene.tracks is not None
    turned = rotation_from_axis_angle(torch.tensor([0.1, 0.2, -0.1]))
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[1] = rigid(turned, torch.tensor([3.0, 1.0, 2.0]))
    placed = scene.with_cameras(Cameras(world_from_cam, scene.cameras.intrinsics))
    torch.testing.assert_close(carried(scene, placed).points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_tracks_turn_and_move_with_their_own_camera() -> None:
    scene = moving_scene()
    assert scene.tracks is not None
    new_from_old = rigid(rotation_from_axis_angle(torch.tensor([0.1, 0.2, -0.1])), torch.tensor([3.0, 1.0, 2.0]))
    placed = replace(scene, cameras=scene.cameras.transformed(new_from_old))
    wanted = scene.tracks.points @ new_from_old[:3, :3].T + new_from_old[:3, 3]
    torch.testing.assert_close(carried(scene, placed).points, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_what_is_deeper_goes_farther_and_through_a_longer_lens_less(factor: float) -> None:
    scene = moving_scene()
    assert scene.tracks is not None
    deeper = replace(scene, depths=factor * scene.depths)
    tracks = carried(scene, deeper)
    first = tracks.points[0]  # of the first camera, which stands in the world's origin
    torch.testing.assert_close(first, factor * scene.tracks.points[0], atol=1e-4, rtol=1e-4)

    longer = scene.cameras.intrinsics * torch.tensor([factor, factor, 1.0])
    zoomed = replace(scene, cameras=replace(scene.cameras, intrinsics=longer))
    way = carried(scene, zoomed).points[0, 2] - carried(scene, zoomed).points[0, 0]
    # As many pixels and as deep as before: across the axis that is shorter, along it it is not.
    wanted = 2 * WAY / torch.tensor([factor, factor, 1.0])
    moved = scene.dynamic[0].flatten() > 0
    torch.testing.assert_close(way[moved], wanted.expand(int(moved.sum()), 3), atol=1e-4, rtol=1e-4)
    assert way[~moved].abs().max() < 1e-5


def test_what_stands_still_stays_where_its_pixel_is_and_unknown_depth_says_nothing() -> None:
    scene = moving_scene()
    assert scene.tracks is not None
    still = replace(scene, dynamic=torch.zeros_like(scene.dynamic))
    points = carried(scene, still).points
    for place, anchor in enumerate(scene.tracks.anchors.tolist()):
        own = still.points_from_depth[anchor].flatten(0, 1)
        torch.testing.assert_close(points[place], own.expand(3, -1, -1), atol=1e-4, rtol=1e-4)
    unknown = replace(scene, depths=torch.zeros_like(scene.depths))
    assert carried(unknown, scene).points.isfinite().all()


def test_a_scene_without_tracks_has_none() -> None:
    scene = replace(make_scene(), tracks=None)
    assert transfer_tracks(scene, scene) is None
