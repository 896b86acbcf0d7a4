"""Tests of the tracks of what moves: a textured square with known motion in front of a textured wall."""

from dataclasses import replace

import pytest
import torch
from moving_square import FOCAL, FRAMES, HEIGHT, SIDE, SPEED, WIDTH, filmed

from recon4d.geometry import pixel_grid
from recon4d.records import Scene, Tracks
from recon4d.refine.dynamic.dynamic_tracks import HIDDEN_CONFIDENCE, MAX_EXTRAPOLATION, track_dynamic_pixels
from recon4d.refine.dynamic.flow_tracking import FlowTracker, is_agreeing
from recon4d.refine.dynamic.optical_flow import returns_to_start

DEPTH = 5.0
"""Depth of everything in the scenes of `filmed`."""
METERS_PER_PIXEL = DEPTH / FOCAL


def with_tracks(scene: Scene, mask: torch.Tensor, anchor: int) -> Scene:
    """Give a scene the true mask of what moves, and tracks of all pixels of one frame that stand still."""
    start = scene.points_from_depth[anchor].flatten(0, 1)
    ones = torch.ones(1, FRAMES, HEIGHT * WIDTH)
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixels = torch.stack([column, row], dim=-1).flatten(0, 1)[None] + 0.5
    tracks = Tracks(start.expand(1, FRAMES, -1, 3).clone(), 0.4 * ones, ones, torch.tensor([anchor]), pixels)
    return replace(scene, dynamic=mask.float(), tracks=tracks)


def motion_of_square(scene: Scene, mask: torch.Tensor) -> torch.Tensor:
    """Return the displacement over time of the inner pixels of the square, in pixels of the picture."""
    tracks = scene.tracks
    assert tracks is not None
    anchor = int(tracks.anchors[0])
    moved = (tracks.points[0] - tracks.points[0, anchor])[:, mask[anchor].flatten()]
    return moved / METERS_PER_PIXEL


@pytest.mark.parametrize(("degrees", "speed"), [(0.0, SPEED), (0.5, 3)])
@pytest.mark.parametrize("anchor", [0, 3])
def test_a_square_is_followed_over_any_motion_of_the_camera(degrees: float, speed: int, anchor: int) -> None:
    clip, scene, mask = filmed(degrees, speed)
    tracked = track_dynamic_pixels(clip, with_tracks(scene, mask, anchor))
    moved = motion_of_square(tracked, mask)
    # The square moves in the picture: in the world, the rotation of the camera is added.
    inside = mask[anchor].nonzero().float() + 0.5
    x = inside[:, 1] - WIDTH / 2
    angles = torch.deg2rad(torch.tensor(degrees)) * (torch.arange(FRAMES) - anchor)
    steps = speed * (torch.arange(FRAMES) - anchor)
    expected = FOCAL * torch.tan((x[None] + steps[:, None]).div(FOCAL).atan() + angles[:, None]) - x
    error = (moved[..., 0] - expected).abs()
    assert error.median() < 0.3
    assert error.quantile(0.9) < 1.5
    assert moved[..., 1].abs().median() < 0.3


def test_static_pixels_keep_their_tracks() -> None:
    clip, scene, mask = filmed()
    before = with_tracks(scene, mask, 0)
    after = track_dynamic_pixels(clip, before)
    assert before.tracks is not None
    assert after.tracks is not None
    still = ~mask[0].flatten()
    for name in ("points", "visibility", "confidence"):
        torch.testing.assert_close(getattr(after.tracks, name)[:, :, still], getattr(before.tracks, name)[:, :, still])


def test_what_was_followed_is_visible_and_what_was_not_is_less_certain() -> None:
    clip, scene, mask = filmed()
    images = clip.images.clone()
    images[4:, :, :, 20:] = 128  # a gray curtain hides the last frames, and the square behind it
    hidden = mask.clone()
    hidden[4:] = False
    tracked = track_dynamic_pixels(replace(clip, images=images), with_tracks(scene, hidden, 0))
    tracks = tracked.tracks
    assert tracks is not None
    square = mask[0].flatten()
    assert tracks.visibility[0, 1:4, square].median() > 0.8
    assert (tracks.visibility[0, 4:, square] == 0.4).all()
    assert (tracks.confidence[0, 4:, square] == HIDDEN_CONFIDENCE).all()
    # What is hidden keeps its velocity for half as long again as it was seen.
    moved = motion_of_square(tracked, mask)[4:, :, 0].median(dim=1).values
    torch.testing.assert_close(moved, SPEED * torch.tensor([4.0, 3 * MAX_EXTRAPOLATION]), atol=1.0, rtol=0.0)


def test_features_find_motions_that_flow_does_not() -> None:
    clip, scene, mask = filmed(speed=17)
    followed = FlowTracker(clip, replace(scene, dynamic=mask.float())).follow(0)
    assert followed.is_followed[1:, mask[0]].float().mean() > 0.5
    moved = (followed.positions[-1] - followed.positions[0])[mask[0] & followed.is_followed[-1]]
    torch.testing.assert_close(moved.median(dim=0).values, torch.tensor([5 * 17.0, 0.0]), atol=0.5, rtol=0.0)


def test_matches_that_move_alone_are_no_start() -> None:
    """Nine features move together, one elsewhere; two features alone agree with too few others."""
    sources = torch.tensor([[10.0 * x, 10.0 * y] for x in range(3) for y in range(3)] + [[15.0, 15.0]])
    moves = torch.tensor([[20.0, 0.0]]).repeat(10, 1)
    moves[9] = torch.tensor([-30.0, 40.0])
    assert is_agreeing(sources, moves).tolist() == 9 * [True] + [False]
    assert not is_agreeing(sources[:2], moves[:2]).any()
    assert not is_agreeing(sources[:0], moves[:0]).any()


def test_what_was_hidden_in_one_frame_is_not_found_again() -> None:
    """A curtain hides the lower half of the square in one frame; the upper half is followed to the end."""
    clip, scene, mask = filmed()
    images, dynamic = clip.images.clone(), mask.clone()
    images[2, :, 44:], dynamic[2, 44:] = 128, False
    followed = FlowTracker(replace(clip, images=images), replace(scene, dynamic=dynamic.float())).follow(0)
    assert followed.is_followed[3:, 33:40, 18:34].float().mean() > 0.8
    assert not followed.is_followed[3:, 47:].any()


def test_flow_that_does_not_lead_back_or_leaves_the_picture_is_not_relied_on() -> None:
    grid = pixel_grid(HEIGHT, WIDTH)
    there = torch.tensor([5.0, 0.0]).expand(HEIGHT, WIDTH, 2)
    returns = returns_to_start(grid + there, there, -there)
    assert returns[:, : WIDTH - 5].all()
    assert not returns[:, WIDTH - 4 :].any()
    assert not returns_to_start(grid + there, there, torch.zeros_like(there)).any()


def test_nothing_is_followed_onto_the_background() -> None:
    """The square disappears: flow then finds the background, which does not move."""
    clip, scene, mask = filmed()
    images = clip.images.clone()
    images[3:] = filmed(speed=0)[0].images[3:]
    gone = mask.clone()
    gone[3:] = False
    followed = FlowTracker(replace(clip, images=images), replace(scene, dynamic=gone.float())).follow(0)
    assert followed.is_followed[1:3, mask[0]].float().mean() > 0.8
    assert not followed.is_followed[3:].any()


def test_a_scene_in_which_nothing_moves_or_without_tracks_does_not_change() -> None:
    clip, scene, mask = filmed()
    assert track_dynamic_pixels(clip, replace(scene, dynamic=mask.float())).tracks is None
    still = with_tracks(scene, torch.zeros_like(mask), 0)
    assert track_dynamic_pixels(clip, still) is still


def test_maps_larger_than_the_working_size_and_queries_of_any_size() -> None:
    clip, scene, mask = filmed()
    tracked = track_dynamic_pixels(clip, with_tracks(scene, mask, 0).resized(2 * HEIGHT, 2 * WIDTH))
    tracks = tracked.tracks
    assert tracks is not None
    assert tracks.points.shape[2] == HEIGHT * WIDTH
    moved = motion_of_square(tracked, mask)
    assert abs(float(moved[-1, :, 0].median()) - 5 * SPEED) < 0.5
    assert int(mask[0].sum(dim=1).max()) == SIDE
