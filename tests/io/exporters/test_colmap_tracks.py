"""COLMAP points from tracks: static points at the median of their tracked positions, in any unit."""

from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_clip, make_scene
from scored import tracks_of

from recon4d.io.exporters.colmap_tracks import TrackedPoints, find_query_starts, select_tracked_points
from recon4d.records import Scene

FRAMES, ANCHOR = 5, 2
IMAGES = make_clip(FRAMES).images
STATIC = torch.ones(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
QUERY = 5 * WIDTH + 8
"""A query near the center of the picture, which every frame observes."""


@pytest.fixture
def scene() -> Scene:
    return make_scene(FRAMES, anchors=(ANCHOR,))


def select(scene: Scene, static: torch.Tensor = STATIC, max_points: int = 10_000) -> TrackedPoints | None:
    """Select points as an export does, from frames that are read one at a time."""
    frames = [scene.frames([number]) for number in range(FRAMES)]
    starts = find_query_starts(frames, lambda number, _: (IMAGES[number], static[number]))
    assert (starts is None) == (scene.tracks is None)
    return None if starts is None else select_tracked_points(scene, starts, max_points)


def select_some(scene: Scene, static: torch.Tensor = STATIC, max_points: int = 10_000) -> TrackedPoints:
    found = select(scene, static, max_points)
    assert found is not None
    return found


def queries_of(found: TrackedPoints, scene: Scene) -> torch.Tensor:
    """Return the query of each point, which is the number of its pixel in the anchor frame, row by row."""
    distances = torch.cdist(found.points, scene.points[ANCHOR].reshape(-1, 3).double())
    assert distances.amin(dim=1).max() < 1e-4
    return distances.argmin(dim=1)


def observing_frames(scene: Scene) -> list[bool]:
    """Return for each frame whether it observes `QUERY`."""
    found = select_some(scene)
    (row,) = (queries_of(found, scene) == QUERY).nonzero().flatten()
    return found.visibility[:, row].tolist()


def displace(scene: Scene, frames: list[int], step: list[float]) -> Scene:
    points = tracks_of(scene).points.clone()
    points[0, frames, QUERY] += torch.tensor(step)
    return replace(scene, tracks=replace(tracks_of(scene), points=points))


def test_colors_are_those_of_the_anchor_frame(scene: Scene) -> None:
    found = select_some(scene)
    assert torch.equal(found.colors, IMAGES[ANCHOR].reshape(3, -1).T[queries_of(found, scene)])
    assert len(found.points) > HEIGHT * WIDTH // 2


def test_points_start_at_static_pixels_of_the_anchor(scene: Scene) -> None:
    right = torch.arange(WIDTH) >= 8
    static = torch.ones_like(STATIC)
    static[ANCHOR] = right
    assert (queries_of(select_some(scene, static), scene) % WIDTH >= 8).all()
    static[ANCHOR] = False
    assert select(scene, static, 100) is None


def test_tracks_without_an_anchor_in_the_scene_give_no_points(scene: Scene) -> None:
    tracks = tracks_of(scene)
    cut = replace(tracks, anchors=torch.tensor([-1]))
    hidden = replace(tracks, visibility=torch.zeros_like(tracks.visibility))
    for nothing in (None, cut, hidden):
        assert select(replace(scene, tracks=nothing)) is None
    assert select(scene, max_points=0) is None


def test_a_query_at_the_image_border_belongs_to_the_last_pixel(scene: Scene) -> None:
    pixels = tracks_of(scene).pixels.clone()
    pixels[0, QUERY] = torch.tensor([WIDTH, HEIGHT])
    found = select_some(replace(scene, tracks=replace(tracks_of(scene), pixels=pixels)))
    (row,) = (queries_of(found, scene) == QUERY).nonzero().flatten()
    assert torch.equal(found.colors[row], IMAGES[ANCHOR, :, -1, -1])


def test_static_points_stay_within_two_percent_of_their_depth(scene: Scene) -> None:
    depth = float(scene.depths[ANCHOR].flatten()[QUERY])
    for share, is_observed in ((0.015, True), (0.03, False)):
        away = displace(scene, [4], [0.0, share * depth, 0.0])
        for scale in (0.05, 1.0, 20.0):
            unit = torch.diag(torch.tensor([scale] * 3 + [1.0]))
            assert observing_frames(away.transformed(unit)) == [True] * 4 + [is_observed], (share, scale)


def test_a_point_is_the_median_of_the_positions_where_it_is_visible(scene: Scene) -> None:
    assert observing_frames(displace(scene, [0, 3], [0.0, 0.5, 0.0])) == [False, True, True, False, True]
    # Positions at times when the point is hidden do not count.
    away = displace(scene, [0, 1, 3], [0.0, 0.5, 0.0])
    visible = tracks_of(away).visibility.clone()
    visible[0, [0, 1, 3], QUERY] = 0.4
    hidden = replace(away, tracks=replace(tracks_of(away), visibility=visible))
    assert observing_frames(hidden) == [False, False, True, False, True]


@pytest.mark.parametrize("step", [(-30.0, 0.0), (30.0, 0.0), (0.0, -30.0), (0.0, 30.0)])
def test_points_outside_the_image_are_not_observed(scene: Scene, step: tuple[float, float]) -> None:
    intrinsics = scene.cameras.intrinsics.clone()
    intrinsics[1, :2, 2] += torch.tensor(step)
    aside = replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics))
    assert observing_frames(aside) == [True, False, True, True, True]


def test_points_behind_a_camera_are_not_observed(scene: Scene) -> None:
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[1, :3, 3] += torch.tensor([0.0, 0.0, 20.0])
    beyond = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
    assert observing_frames(beyond) == [True, False, True, True, True]
    assert observing_frames(scene) == [True] * FRAMES
