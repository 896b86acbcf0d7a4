"""Which pixels and tracks a viewer shows, by hand-made cases."""

from dataclasses import replace

import pytest
import scenes
import torch
import walls

from recon4d.geometry import stratified_indices, subsample_mask
from recon4d.viewer.selection import (
    band_map,
    displayable_pixels,
    select_queries,
)
from recon4d.viewer.trails import FADING, HIDDEN_BRIGHTNESS, select_trails

NUM_FRAMES, HEIGHT, WIDTH = walls.NUM_FRAMES, walls.HEIGHT, walls.WIDTH


def test_bands_part_the_confidences_of_the_whole_clip_at_their_percentiles():
    confidence = torch.arange(1.0, 12.0).reshape(1, 1, 11).repeat(2, 1, 1)
    shown = torch.ones(2, 1, 11, dtype=torch.bool)
    shown[0, 0, 10] = shown[1, 0, 10] = False
    confidence[~shown] = 1e6
    bands = band_map(confidence, shown)
    # Of 20 values the 20th percentile lies between the 4th and the 5th, the 60th between the 12th and the 13th.
    assert bands[0, 0].tolist() == bands[1, 0].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, -1]


def test_what_is_equally_confident_is_all_in_the_high_band_and_nothing_shown_is_in_none():
    confidence = torch.full((1, 2, 3), 0.1)
    assert (band_map(confidence, torch.ones(1, 2, 3, dtype=torch.bool)) == 2).all()
    assert (band_map(confidence, torch.zeros(1, 2, 3, dtype=torch.bool)) == -1).all()


def test_unknown_pixels_and_edges_and_frames_without_camera_are_not_shown():
    scene = walls.make_scene()
    depths, confidence, poses = (
        scene.depths.clone(),
        scene.depth_confidence.clone(),
        scene.cameras.world_from_cam.clone(),
    )
    depths[0, 0, :4] = torch.tensor([torch.nan, torch.inf, 0.0, -1.0])
    confidence[0, 0, 4] = 0
    depths[0, 5:, 8:] = 1.06 * walls.DEPTH
    poses[2, 0, 3] = torch.nan
    changed = replace(
        scene, depths=depths, depth_confidence=confidence, cameras=replace(scene.cameras, world_from_cam=poses)
    )
    expected = torch.ones(NUM_FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 0, :5] = False
    expected[0, 4:6, 8:] = expected[0, 5:, 7:9] = False  # both sides of the step, which is a corner
    expected[2] = False
    assert torch.equal(displayable_pixels(changed), expected)
    depths[0, 5:, 8:] = 1.04 * walls.DEPTH
    expected[0, 4:6, 8:] = expected[0, 5:, 7:9] = True
    assert torch.equal(displayable_pixels(replace(changed, depths=depths)), expected)


def test_where_nothing_says_so_nothing_moves():
    scene = walls.make_scene(1)
    moving = scene.dynamic.clone()
    moving[0, 0, :3] = torch.tensor([0.49, 0.5, 1.0])
    assert replace(scene, dynamic=moving).is_dynamic.nonzero().tolist() == [[0, 0, 2]]


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (5, 5), (6, 5), (1000, 7), (384, 96)])
def test_thinning_takes_one_of_each_run(count: int, limit: int):
    numbers = stratified_indices(count, limit)
    assert len(numbers) == min(count, limit)
    if count <= limit:
        assert numbers.tolist() == list(range(count))
    else:
        edges = torch.arange(limit + 1) * count // limit
        assert ((numbers >= edges[:-1]) & (numbers < edges[1:])).all()


def test_thinning_spares_no_column_of_a_picture():
    kept = subsample_mask(torch.ones(2, 48, 64, dtype=torch.bool), 2 * 48 * 64 // 4)
    per_column = kept.sum(dim=(0, 1))
    assert kept.sum() == 2 * 48 * 64 // 4
    assert per_column.min() > 12
    assert per_column.max() < 36


def test_movers_get_up_to_half_of_the_tracks():
    scene = scenes.make_scene()
    assert scene.tracks is not None
    moving = scene.dynamic.clone()
    moving[0, 3, 4:8] = 1  # queries 3 * 16 + 4 to 3 * 16 + 7
    movers = {3 * 16 + column for column in range(4, 8)}
    moved = replace(scene, dynamic=moving)
    few = select_queries(moved, scene.tracks, 0, 6, movers_only=False).tolist()
    assert len(set(few)) == 6
    assert len(movers & set(few)) == 3
    many = select_queries(moved, scene.tracks, 0, 40, movers_only=False).tolist()
    assert movers < set(many)
    assert set(select_queries(moved, scene.tracks, 0, 40, movers_only=True).tolist()) == movers
    assert len(select_queries(moved, scene.tracks, 0, 3, movers_only=True)) == 3
    assert many == sorted(set(many))
    assert len(many) == 40
    # Where all move, still ones leave their places, and where the anchor is not in the archive none is known to move.
    everything = replace(scene, dynamic=torch.ones_like(moving))
    assert len(select_queries(everything, scene.tracks, 0, 40, movers_only=False)) == 40
    away = replace(scene.tracks, anchors=torch.tensor([-1]))
    moving[-1] = moving[0]  # frame -1 is no frame
    assert torch.equal(
        select_queries(replace(scene, dynamic=moving), away, 0, 6, movers_only=False), stratified_indices(12 * 16, 6)
    )


def test_trails_show_where_points_were_and_whether_they_are_seen():
    scene = scenes.make_scene(4)
    assert scene.tracks is not None
    visible, confidence = scene.tracks.visibility.clone(), scene.tracks.confidence.clone()
    visible[0, 2, 0] = 0.4
    confidence[0, 1, 1] = 0
    confidence[0, :, 2] = 0
    tracks = replace(
        scene.tracks,
        points=scene.tracks.points + torch.arange(4.0)[:, None, None],
        visibility=visible,
        confidence=confidence,
    )
    (trails,) = select_trails(replace(scene, tracks=tracks), 1000, movers_only=False)
    known = [0, 1, *range(3, 192)]
    positions, colors = trails.heads(2)
    torch.testing.assert_close(positions, tracks.points[0, 2, known])
    assert torch.equal(colors[0], (HIDDEN_BRIGHTNESS * trails.colors[0]).to(torch.uint8))
    assert torch.equal(colors[1:], trails.colors[1:])
    assert len(trails.heads(1)[0]) == len(known) - 1
    # A tail of two steps at frame 3 begins at frame 1, where query 1 is unknown; of one step, it does not.
    queries = [0, *known[2:]]
    (newest, bright), (older, faded) = trails.tails(3, 2)
    torch.testing.assert_close(newest, tracks.points[0, 2:4, queries].transpose(0, 1))
    torch.testing.assert_close(older, tracks.points[0, 1:3, queries].transpose(0, 1))
    colors = trails.colors[[0, *range(2, len(known))]]
    assert torch.equal(bright, colors)
    assert torch.equal(faded, (0.6 * colors).to(torch.uint8))
    assert [lines.shape for lines, _ in trails.tails(3, 1)] == [(len(known), 2, 3)]
    assert [lines.shape for lines, _ in trails.tails(1, 12)] == [(len(known) - 1, 2, 3)]
    assert trails.tails(0, 12) == trails.tails(3, 0) == []


def test_tails_fade_in_three_parts_that_join():
    scene = scenes.make_scene(8)
    (trails,) = select_trails(scene, 5, movers_only=False)
    parts = trails.tails(7, 7)
    assert len(parts) == len(FADING)
    joined = torch.cat([lines[:, :-1] for lines, _ in parts[::-1]] + [parts[0][0][:, -1:]], dim=1)
    torch.testing.assert_close(joined, trails.positions.transpose(0, 1))


def test_a_scene_without_tracks_has_no_trails():
    assert list(select_trails(walls.make_scene(), 10, movers_only=False)) == []
