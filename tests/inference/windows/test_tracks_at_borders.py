"""Tracks at a single border of two windows, computed by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recon4d import geometry as g
from recon4d.inference.windows.track_stitching import StitchedTracks, begin_stitching
from recon4d.records import (
    Cameras,
    Scene,
    Tracks,
)

# A single border


def view(depths: Tensor, dynamic: Tensor | None = None) -> Scene:
    """Make two equal frames of a static camera with a focal length of 10, and static tracks."""
    height, width = depths.shape
    lens = torch.tensor([[10.0, 0, width / 2], [0, 10, height / 2], [0, 0, 1]])
    cameras = Cameras(torch.eye(4).expand(2, 4, 4), lens.expand(2, 3, 3))
    depths = depths.expand(2, height, width)
    points = g.unproject_map(depths, cameras.intrinsics)
    ones = torch.ones_like(depths)
    dynamic = torch.zeros_like(depths) if dynamic is None else dynamic.expand(2, height, width)
    tracks = Tracks(
        points=points.flatten(1, 2)[None],
        visibility=torch.ones(1, 2, height * width),
        confidence=torch.ones(1, 2, height * width),
        anchors=torch.tensor([0]),
        pixels=g.pixel_grid(height, width).reshape(1, -1, 2),
    )
    return Scene(cameras, depths, ones, points, ones, dynamic, torch.tensor(torch.nan), tracks)


def moved_to(scene: Scene, pixel: tuple[float, float], depth: float, visibility: float = 1.0) -> Scene:
    """Move the first query to a pixel and a depth in the second frame."""
    assert scene.tracks is not None
    points, visibilities = scene.tracks.points.clone(), scene.tracks.visibility.clone()
    points[0, 1, 0] = g.unproject(torch.tensor([pixel]), torch.tensor([depth]), scene.cameras.intrinsics[1])[0]
    visibilities[0, 1, 0] = visibility
    return replace(scene, tracks=replace(scene.tracks, points=points, visibility=visibilities))


def one_query(size: tuple[int, int]) -> StitchedTracks:
    """Return the state of a single query at the first pixel."""
    return replace(begin_stitching(size, 1), **{k: v[:1] for k, v in vars(begin_stitching(size, 1)).items()})


def position_of(stitching: StitchedTracks, scene: Scene) -> Tensor | None:
    """Return the position of the first query in the first frame; None if it has ended."""
    current = stitching.tracks_at(scene, 0, is_first=False)
    return current.points[0, 0, 0] if current.confidence[0, 0, 0] > 0 else None


STEP = torch.where(torch.arange(8) < 4, 1.0, 2.0).expand(6, 8)
"""Depth edge: near on the left, far on the right."""

FLAT = torch.full((6, 8), 2.0)


def test_tracks_are_interpolated_exactly_on_a_plane() -> None:
    """On a plane 1 / z is linear in the image; this plane is as steep as the depth tolerance allows."""
    grid = g.pixel_grid(6, 8)
    inverse = 0.5 + 0.012 * grid[..., 0] - 0.008 * grid[..., 1]
    pixel = (3.8, 2.1)
    depth = 1 / (0.5 + 0.012 * pixel[0] - 0.008 * pixel[1])
    scene = moved_to(view(1 / inverse), pixel, depth)
    # The next window has a world and a unit of its own.
    next_scene = view(1 / inverse).transformed(g.similarity(torch.tensor(3.0), torch.eye(3), torch.ones(3)))
    position = position_of(one_query((6, 8)).continue_in(scene, 1, next_scene), next_scene)
    assert position is not None
    assert scene.tracks is not None
    torch.testing.assert_close(position, 3 * scene.tracks.points[0, 1, 0] + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "column"), [(1.0, 3), (2.0, 4), (1.04, 3)])
def test_tracks_are_not_mixed_across_a_depth_edge(depth: float, column: int) -> None:
    """The query is nearer to one pixel but on the surface of the other."""
    for x in (3.8, 4.2):
        scene = moved_to(view(STEP), (x, 2.5), depth)
        position = position_of(one_query((6, 8)).continue_in(scene, 1, view(STEP)), view(STEP))
        assert position is not None
        torch.testing.assert_close(position, view(STEP).points[0, 2, column])


def test_an_edge_in_the_next_window_only_is_respected() -> None:
    scene = moved_to(view(FLAT), (3.8, 2.5), 2.0)
    position = position_of(one_query((6, 8)).continue_in(scene, 1, view(STEP)), view(STEP))
    assert position is not None
    torch.testing.assert_close(position, view(STEP).points[0, 2, 3])


def without(scene: Scene, name: str, pixels: slice | list[int]) -> Scene:
    """Set the confidence of depth or tracks to 0 in some columns."""
    if name == "depth":
        confidence = scene.depth_confidence.clone()
        confidence[:, :, pixels] = 0
        return replace(scene, depth_confidence=confidence)
    assert scene.tracks is not None
    confidence = scene.tracks.confidence.clone()
    confidence.unflatten(-1, (6, 8))[..., 1:, pixels] = 0
    confidence.unflatten(-1, (6, 8))[..., :1, 1:] = 0
    points = torch.where(confidence[..., None] > 0, scene.tracks.points, torch.nan)
    return replace(scene, tracks=replace(scene.tracks, points=points, confidence=confidence))


@pytest.mark.parametrize(
    ("scene", "next_scene"),
    [
        (moved_to(view(FLAT), (4.3, 2.5), 2.0, visibility=0.4), view(FLAT)),  # hidden
        (moved_to(view(FLAT), (4.3, 2.5), 1.8), view(FLAT)),  # in front of the visible surface
        (moved_to(view(FLAT), (4.3, 2.5), 2.2), view(FLAT)),  # behind it
        (moved_to(view(FLAT), (8.1, 2.5), 2.0), view(FLAT)),  # outside the image, on every side
        (moved_to(view(FLAT), (-0.1, 2.5), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 6.1), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, -0.1), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 1e12), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 2.5), -2.0), view(FLAT)),  # behind the camera
        (without(moved_to(view(FLAT), (4.3, 2.5), 2.0), "depth", slice(None)), view(FLAT)),  # masked
        (moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), "depth", slice(None))),
        (moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), "tracks", slice(None))),
        (moved_to(view(FLAT, torch.eye(6, 8)), (4.3, 2.5), 2.0), view(FLAT)),  # dynamic query, static surface
    ],
)
def test_queries_that_are_not_visible_at_the_border_end(scene: Scene, next_scene: Scene) -> None:
    stitching = one_query((6, 8)).continue_in(scene, 1, next_scene)
    assert position_of(stitching, next_scene) is None
    # It does not continue in later windows.
    assert position_of(stitching.continue_in(view(FLAT), 1, view(FLAT)), view(FLAT)) is None


@pytest.mark.parametrize("name", ["depth", "tracks"])
def test_unknown_tracks_are_not_interpolated(name: str) -> None:
    scene, next_scene = moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), name, [4])
    position = position_of(one_query((6, 8)).continue_in(scene, 1, next_scene), next_scene)
    assert position is not None
    torch.testing.assert_close(position, view(FLAT).points[0, 2, 3])


def test_tracks_unknown_at_one_time_are_not_used_then() -> None:
    """The query lies between two tracks; one of them, then both, are unknown in the second frame."""
    next_scene = view(FLAT)
    stitching = one_query((6, 8)).continue_in(moved_to(view(FLAT), (4.3, 2.5), 2.0), 1, next_scene)
    assert next_scene.tracks is not None
    for lost in ([4], [3, 4]):
        confidence, points = next_scene.tracks.confidence.clone(), next_scene.tracks.points.clone()
        confidence[0, 1].unflatten(-1, (6, 8))[:, lost] = 0
        points[0, 1].unflatten(0, (6, 8))[:, lost] = torch.nan
        for garbled in (confidence, torch.ones_like(confidence)):  # NaN is invalid even if confident
            tracks = replace(next_scene.tracks, confidence=garbled, points=points)
            current = stitching.tracks_at(replace(next_scene, tracks=tracks), 1, is_first=False)
            assert (current.confidence[0, 0, 0] > 0) == (len(lost) == 1)
            if len(lost) == 1:
                torch.testing.assert_close(current.points[0, 0, 0], next_scene.points[0, 2, 3])


def test_tracks_continue_without_motion_prediction() -> None:
    no_motion = view(FLAT, torch.full((6, 8), torch.nan))
    assert (
        position_of(one_query((6, 8)).continue_in(moved_to(no_motion, (4.3, 2.5), 2.0), 1, no_motion), no_motion)
        is not None
    )


@pytest.mark.parametrize(("pixel", "kept"), [((0.1, 0.2), (0, 0)), ((7.9, 5.8), (5, 7))])
def test_the_last_pixel_is_used_at_the_image_border(pixel: tuple[float, float], kept: tuple[int, int]) -> None:
    position = position_of(one_query((6, 8)).continue_in(moved_to(view(FLAT), pixel, 2.0), 1, view(FLAT)), view(FLAT))
    assert position is not None
    torch.testing.assert_close(position, view(FLAT).points[0][kept])
