"""Points from tracks: where still things were followed to, whatever a few frames say of them, in any unit."""

from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_clip, make_scene
from scored import tracks_of

from recon4d.io.exporters.colmap_tracks import TrackedPoints, tracked_points
from recon4d.records import Scene

FRAMES, ANCHOR = 5, 2
IMAGES = make_clip(FRAMES).images
STILL = torch.ones(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
QUERY = 5 * WIDTH + 8
"""Near the middle of the picture: every frame sees it."""


@pytest.fixture
def scene() -> Scene:
    return make_scene(FRAMES, anchors=(ANCHOR,))


def followed(scene: Scene, still: torch.Tensor = STILL, most: int = 10_000) -> TrackedPoints:
    found = tracked_points(scene, IMAGES, still, most)
    assert found is not None
    return found


def queries_of(found: TrackedPoints, scene: Scene) -> torch.Tensor:
    """Of every point the pixel of the anchor, counted row by row, whose point it is."""
    distances = torch.cdist(found.points, scene.points[ANCHOR].reshape(-1, 3).double())
    assert distances.amin(dim=1).max() < 1e-4
    return distances.argmin(dim=1)


def seen_of(scene: Scene) -> list[bool]:
    """Which frames see `QUERY`."""
    found = followed(scene)
    (row,) = (queries_of(found, scene) == QUERY).nonzero().flatten()
    return found.visibility[:, row].tolist()


def moved(scene: Scene, frames: list[int], step: list[float]) -> Scene:
    points = tracks_of(scene).points.clone()
    points[0, frames, QUERY] += torch.tensor(step)
    return replace(scene, tracks=replace(tracks_of(scene), points=points))


def test_colors_are_those_of_the_picture_they_begin_in(scene: Scene) -> None:
    found = followed(scene)
    assert torch.equal(found.colors, IMAGES[ANCHOR].reshape(3, -1).T[queries_of(found, scene)])
    assert len(found.points) > HEIGHT * WIDTH // 2


def test_they_begin_where_the_anchor_stands_still(scene: Scene) -> None:
    right = torch.arange(WIDTH) >= 8
    still = torch.ones_like(STILL)
    still[ANCHOR] = right
    assert (queries_of(followed(scene, still), scene) % WIDTH >= 8).all()
    still[ANCHOR] = False
    assert tracked_points(scene, IMAGES, still, 100) is None


def test_there_are_none_without_tracks_that_begin_in_the_scene(scene: Scene) -> None:
    tracks = tracks_of(scene)
    cut = replace(tracks, anchors=torch.tensor([-1]))
    hidden = replace(tracks, visibility=torch.zeros_like(tracks.visibility))
    for nothing in (None, cut, hidden):
        assert tracked_points(replace(scene, tracks=nothing), IMAGES, STILL, 100) is None
    assert tracked_points(scene, IMAGES, STILL, 0) is None


def test_no_more_than_were_asked_for(scene: Scene) -> None:
    assert len(followed(scene, most=7).points) == 7


def test_a_query_at_the_very_edge_is_that_of_the_last_pixel(scene: Scene) -> None:
    pixels = tracks_of(scene).pixels.clone()
    pixels[0, QUERY] = torch.tensor([WIDTH, HEIGHT])
    found = followed(replace(scene, tracks=replace(tracks_of(scene), pixels=pixels)))
    (row,) = (queries_of(found, scene) == QUERY).nonzero().flatten()
    assert torch.equal(found.colors[row], IMAGES[ANCHOR, :, -1, -1])


def test_two_percent_of_depth_is_still(scene: Scene) -> None:
    depth = float(scene.depths[ANCHOR].flatten()[QUERY])
    for share, is_seen in ((0.015, True), (0.03, False)):
        away = moved(scene, [4], [0.0, share * depth, 0.0])
        for scale in (0.05, 1.0, 20.0):
            unit = torch.diag(torch.tensor([scale] * 3 + [1.0]))
            assert seen_of(away.transformed(unit)) == [True] * 4 + [is_seen], (share, scale)


def test_a_point_is_where_most_frames_that_see_it_say(scene: Scene) -> None:
    assert seen_of(moved(scene, [0, 3], [0.0, 0.5, 0.0])) == [False, True, True, False, True]
    # What is said of it while it is hidden does not count.
    away = moved(scene, [0, 1, 3], [0.0, 0.5, 0.0])
    visible = tracks_of(away).visibility.clone()
    visible[0, [0, 1, 3], QUERY] = 0.4
    hidden = replace(away, tracks=replace(tracks_of(away), visibility=visible))
    assert seen_of(hidden) == [False, False, True, False, True]


@pytest.mark.parametrize("step", [(-30.0, 0.0), (30.0, 0.0), (0.0, -30.0), (0.0, 30.0)])
def test_outside_a_picture_nothing_is_seen(scene: Scene, step: tuple[float, float]) -> None:
    intrinsics = scene.cameras.intrinsics.clone()
    intrinsics[1, :2, 2] += torch.tensor(step)
    aside = replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics))
    assert seen_of(aside) == [True, False, True, True, True]


def test_behind_a_camera_nothing_is_seen(scene: Scene) -> None:
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[1, :3, 3] += torch.tensor([0.0, 0.0, 20.0])
    beyond = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
    assert seen_of(beyond) == [True, False, True, True, True]
    assert seen_of(scene) == [True] * FRAMES
