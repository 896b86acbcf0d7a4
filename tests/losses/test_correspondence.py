"""True matches of cells: exact positions, occlusion and what is unknown."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import make_scene
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.layers import (
    cell_centers,
)
from recon4d.losses import (
    TrueMatches,
    true_matches,
)
from recon4d.records import Cameras, Scene, Tracks

HEIGHT, WIDTH = 12, 16

GRID, CELL = (3, 4), 2.0

CELLS = cell_centers(GRID, CELL, torch.zeros(()))
"""48 cells of 2 x 2 pixels; the central pixel of a cell is the one below and right of its center."""


def flat_scene(centers: list[list[float]], depths: list[float]) -> Scene:
    """Return a batch of one static clip: cameras look along z at a wall, and there are no tracks."""
    time = len(centers)
    intrinsics = torch.tensor([[20.0, 0.0, 8.0], [0.0, 20.0, 6.0], [0.0, 0.0, 1.0]]).expand(time, 3, 3)
    cameras = Cameras(g.rigid(torch.eye(3).expand(time, 3, 3), torch.tensor(centers)), intrinsics)
    maps = torch.tensor(depths)[:, None, None].expand(time, HEIGHT, WIDTH).clone()
    points = g.transform_points(cameras.world_from_cam, g.unproject_map(maps, intrinsics))
    ones = torch.ones_like(maps)
    return Scene.stack([Scene(cameras, maps, ones, points, ones, 0 * ones, torch.tensor(torch.nan))])


SHIFTED = flat_scene([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [10.0, 10.0])
"""In the second frame everything is two pixels further left."""


def first_to_second(scene: Scene, cell_size: float = CELL) -> TrueMatches:
    return true_matches(scene, torch.tensor([[0]]), torch.tensor([[1]]), cell_size)[0]


def changed(scene: Scene, field: str, frame: int, rows: slice, columns: slice, value: float) -> Scene:
    maps = getattr(scene, field).clone()
    maps[0, frame, rows, columns] = value
    return replace(scene, **{field: maps})


def tracked(scene: Scene, shift: tuple[float, float, float], anchor: int = 0) -> Scene:
    """Return the scene with every pixel of the anchor displaced by `shift` per frame, always visible."""
    time = torch.arange(scene.num_frames) - anchor
    start = scene.points[0, anchor].flatten(0, 1)
    points = start + time[:, None, None] * torch.tensor(shift)
    ones = torch.ones(1, 1, scene.num_frames, HEIGHT * WIDTH)
    pixels = g.pixel_grid(HEIGHT, WIDTH).reshape(1, 1, -1, 2)
    tracks = Tracks(points[None, None], ones, ones, torch.tensor([[anchor]]), pixels)
    return replace(scene, dynamic=torch.ones_like(scene.dynamic), tracks=tracks)


class TestTrueMatches:
    def test_static_cells_are_at_the_projection_of_their_points(self) -> None:
        found = first_to_second(SHIFTED)
        assert found.has_match[0].view(6, 8).all(dim=0).tolist() == [False] + 7 * [True]
        wanted = torch.where(found.has_match[0, :, None], CELLS - torch.tensor([2.0, 0.0]), 0)
        assert_close(found.positions[0], wanted, atol=1e-5, rtol=0)

    def test_cells_outside_of_the_image_are_unmatched(self) -> None:
        found = first_to_second(SHIFTED)
        assert found.is_unmatched[0].view(6, 8).any(dim=0).tolist() == [True] + 7 * [False]
        for center in ([0.0, 9.0, 0.0], [0.0, -9.0, 0.0], [9.0, 0.0, 0.0], [-9.0, 0.0, 0.0]):
            found = first_to_second(flat_scene([[0.0, 0.0, 0.0], center], [10.0, 10.0]))
            assert found.is_unmatched.all()
            assert not found.has_match.any()

    def test_cells_behind_the_camera_are_unmatched(self) -> None:
        assert first_to_second(flat_scene([[0.0, 0.0, 0.0], [0.0, 0.0, 20.0]], [10.0, 10.0])).is_unmatched.all()

    def test_matches_on_a_slanted_wall_follow_from_its_plane(self) -> None:
        scene = make_scene(frames=3)
        pairs = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[1, 2, 0, 1]])
        static = replace(scene, tracks=None)
        found = true_matches(Scene.stack([static]), *pairs, CELL)[0]
        for k, (query, target) in enumerate(zip(*(frames[0].tolist() for frames in pairs), strict=True)):
            cameras = scene.cameras
            rays = g.unproject(CELLS, torch.ones(48), cameras.intrinsics[query])
            direction = rays @ cameras.world_from_cam[query, :3, :3].T
            normal = torch.tensor([-0.25, 0.0, 1.0])
            depth = (4 - cameras.centers[query] @ normal) / (direction @ normal)
            points = cameras.centers[query] + depth[:, None] * direction
            wanted = g.project(g.transform_points(cameras.cam_from_world[target], points), cameras.intrinsics[target])
            assert found.has_match[k].sum() > 30
            assert_close(found.positions[k][found.has_match[k]], wanted[found.has_match[k]], atol=0.1, rtol=0)

    def test_cells_of_an_odd_width_have_a_pixel_at_their_center(self) -> None:
        scene = SHIFTED.resized(12, 24)
        found = first_to_second(scene, cell_size=3.0)
        cells = cell_centers((2, 4), 3.0, torch.zeros(()))
        assert_close(found.positions[0][found.has_match[0]], (cells - torch.tensor([3.0, 0.0]))[found.has_match[0]])

    def test_occluded_cells_are_unmatched(self) -> None:
        found = first_to_second(changed(SHIFTED, "depths", 1, slice(None), slice(8, 16), 5.0))
        # Cells move to x - 2; those that arrive in the right half are behind the closer surface.
        assert found.has_match[0].view(6, 8).all(dim=0).tolist() == [False, True, True, True, True, False, False, False]
        assert found.is_unmatched[0].view(6, 8).all(dim=0).tolist() == [
            True,
            False,
            False,
            False,
            False,
            True,
            True,
            True,
        ]

    def test_the_depth_test_uses_the_farthest_of_the_four_surrounding_pixels(self) -> None:
        scene = flat_scene([[0.0, 0.0, 0.0], [0.25, -0.25, 0.0]], [10.0, 10.0])
        # Everything moves by half a pixel left and down, so points lie between four pixels.
        near = changed(scene, "depths", 1, slice(None), slice(None), 5.0)
        for row, column in ((3, 4), (3, 5), (4, 4), (4, 5)):
            found = first_to_second(changed(near, "depths", 1, slice(row, row + 1), slice(column, column + 1), 10.0))
            # The cell at (5, 3) is pixel (5.5, 3.5), now at (5, 4), between pixels 4 and 5 of rows 3 and 4.
            assert found.has_match[0].nonzero().flatten().tolist() == [1 * 8 + 2]

    @pytest.mark.parametrize(("depth", "seen"), [(9.86, True), (9.84, False), (30.0, True)])
    def test_points_slightly_behind_the_surface_are_matched(self, depth: float, seen: bool) -> None:
        found = first_to_second(changed(SHIFTED, "depths", 1, slice(None), slice(None), depth))
        assert found.has_match[0, 20].item() is seen
        assert found.is_unmatched[0, 20].item() is not seen

    def test_close_surfaces_have_an_absolute_tolerance(self) -> None:
        scene = flat_scene([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0.01, 0.01])
        assert first_to_second(changed(scene, "depths", 1, slice(None), slice(None), 0.006)).has_match.all()

    def test_occlusion_is_unknown_where_the_target_has_no_depth(self) -> None:
        hole = changed(SHIFTED, "depth_confidence", 1, slice(None), slice(None), 0.0)
        hole = changed(hole, "depths", 1, slice(None), slice(None), math.nan)
        found = first_to_second(hole)
        assert not found.has_match.any()
        assert found.is_unmatched[0].view(6, 8).any(dim=0).tolist() == [True] + 7 * [False]

    def test_a_hole_in_the_target_depth_is_unknown_next_to_a_closer_surface_only(self) -> None:
        scene = flat_scene([[0.0, 0.0, 0.0], [0.25, -0.25, 0.0]], [10.0, 10.0])
        for depth, seen in ((5.0, False), (10.0, True)):
            scene = changed(scene, "depths", 1, slice(None), slice(None), depth)
            holed = changed(scene, "depth_confidence", 1, slice(3, 4), slice(4, 5), 0.0)
            found = first_to_second(holed)
            assert found.has_match[0, 10].item() is seen
            assert not found.is_unmatched[0, 10]
            assert found.is_unmatched[0, 11].item() is not seen

    @pytest.mark.parametrize("dynamic", [1.0, math.nan])
    def test_dynamic_pixels_are_unknown_without_tracks(self, dynamic: float) -> None:
        found = first_to_second(changed(SHIFTED, "dynamic", 0, slice(0, 6), slice(None), dynamic))
        is_known = (found.has_match | found.is_unmatched)[0].view(6, 8)
        assert not is_known[:3].any()
        assert is_known[3:].all()

    def test_points_without_confidence_are_not_known(self) -> None:
        unknown = changed(SHIFTED, "point_confidence", 0, slice(0, 6), slice(None), 0.0)
        unknown = changed(unknown, "points", 0, slice(0, 6), slice(None), math.nan)
        found = first_to_second(unknown)
        assert not (found.has_match | found.is_unmatched)[0, :24].any()
        assert found.positions.isfinite().all()

    @pytest.mark.parametrize("field", ["world_from_cam", "intrinsics"])
    def test_nothing_is_known_without_the_target_camera(self, field: str) -> None:
        values = getattr(SHIFTED.cameras, field).clone()
        values[:, 1] = math.nan
        dynamic = tracked(SHIFTED, (0.5, 0.0, 0.0))
        assert dynamic.tracks is not None
        hidden = replace(dynamic, tracks=replace(dynamic.tracks, visibility=0 * dynamic.tracks.visibility))
        for scene in (SHIFTED, dynamic, hidden):
            found = first_to_second(replace(scene, cameras=replace(scene.cameras, **{field: values})))
            assert not (found.has_match | found.is_unmatched).any()
            assert found.positions.isfinite().all()

    def test_dynamic_cells_of_anchors_follow_their_tracks(self) -> None:
        # The camera moves by two pixels one way, the surface by one pixel the other way.
        found = first_to_second(tracked(SHIFTED, (0.5, 0.0, 0.0)))
        wanted = torch.where(found.has_match[0, :, None], CELLS - torch.tensor([1.0, 0.0]), 0)
        assert found.has_match.all()
        assert_close(found.positions[0], wanted, atol=1e-5, rtol=0)

    def test_visibility_of_anchors_comes_from_tracks(self) -> None:
        scene = tracked(SHIFTED, (0.5, 0.0, 0.0))
        assert scene.tracks is not None
        visible = scene.tracks.visibility.clone()
        visible[..., 1, : 6 * WIDTH] = 0
        found = first_to_second(replace(scene, tracks=replace(scene.tracks, visibility=visible)))
        assert found.is_unmatched[0, :24].all()
        assert found.has_match[0, 24:].all()
        # The depth map is not used.
        hidden = changed(scene, "depths", 1, slice(None), slice(None), 1.0)
        for found in (first_to_second(hidden), first_to_second(replace(hidden, dynamic=0 * scene.dynamic))):
            assert found.has_match.all()
            assert not found.is_unmatched.any()

    def test_a_visible_track_outside_the_picture_is_not_known(self) -> None:
        found = first_to_second(tracked(SHIFTED, (100.0, 0.0, 0.0)))
        assert not (found.has_match | found.is_unmatched).any()

    def test_static_points_replace_tracks_without_confidence(self) -> None:
        scene = tracked(SHIFTED, (0.5, 0.0, 0.0))
        scene = changed(scene, "dynamic", 0, slice(6, 12), slice(None), 0.0)
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[..., 1, :] = 0
        unknown = replace(scene.tracks, confidence=confidence)
        found = first_to_second(replace(scene, tracks=unknown))
        assert not (found.has_match | found.is_unmatched)[0, :24].any()
        assert_close(found.positions[0, 25:32], CELLS[25:32] - torch.tensor([2.0, 0.0]), atol=1e-5, rtol=0)

    def test_cells_that_move_are_marked_in_the_query_frame(self) -> None:
        scene = changed(SHIFTED, "dynamic", 0, slice(6, 12), slice(None), 1.0)
        scene = changed(scene, "dynamic", 1, slice(None), slice(None), torch.nan)
        expected = (CELLS[:, 1] > 6) & (CELLS[:, 1] < 12)
        assert expected.any()
        assert (first_to_second(scene).is_dynamic[0] == expected).all()
        assert not true_matches(scene, torch.tensor([[1]]), torch.tensor([[0]]), CELL).is_dynamic.any()

    def sparse(self, pixels: torch.Tensor, shifts: torch.Tensor) -> Scene:
        """Return `SHIFTED` with unknown motion and tracks of a few pixels of the first frame, displaced in x."""
        scene = replace(SHIFTED, dynamic=torch.full_like(SHIFTED.dynamic, torch.nan))
        start = g.unproject(pixels, torch.full(pixels.shape[:1], 10.0), scene.cameras.intrinsics[0, 0])
        step = shifts[:, None] * torch.tensor([1.0, 0.0, 0.0])
        points = torch.stack([start, start + step])[None, None]
        ones = torch.ones(points.shape[:-1])
        return replace(scene, tracks=Tracks(points, ones, ones, torch.tensor([[0]]), pixels[None, None]))

    def test_sparse_tracks_match_the_cells_around_them(self) -> None:
        # Cell 20 is centered at (9, 5), cell 21 at (11, 5): one track is close enough, the other just not.
        found = first_to_second(self.sparse(torch.tensor([[9.3, 4.42], [11.0, 5.65]]), torch.tensor([0.5, 0.5])))
        assert found.has_match[0].nonzero().flatten().tolist() == [20]
        assert_close(found.positions[0, 20], CELLS[20] - torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)
        assert not found.is_unmatched.any()

    def test_the_nearest_known_track_of_a_cell_is_used(self) -> None:
        pixels = torch.tensor(
            [[9.4, 5.0], [9.1, 5.1], [9.0, 5.0], [9.0, math.nan], [9.0, 1.2], [-9.0, 99.0], [99.0, 99.0]]
        )
        scene = self.sparse(pixels, torch.tensor([0.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0]))
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[..., 2] = 0
        found = first_to_second(replace(scene, tracks=replace(scene.tracks, confidence=confidence)))
        assert found.has_match[0].nonzero().flatten().tolist() == [4, 20]
        assert_close(found.positions[0, [4, 20]], CELLS[[4, 20]] - torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)

    def test_tracks_without_queries_have_no_effect(self) -> None:
        scene = self.sparse(torch.zeros(0, 2), torch.zeros(0))
        assert not first_to_second(scene).has_match.any()
        static = replace(scene, dynamic=0 * SHIFTED.dynamic)
        assert torch.equal(first_to_second(static).has_match, first_to_second(SHIFTED).has_match)

    def test_subsampled_tracks_give_the_same_matches_as_dense_ones(self) -> None:
        scene = tracked(SHIFTED, (0.5, 0.0, 0.0))
        assert scene.tracks is not None
        dense = scene.tracks
        kept = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)[1::2, 1::2].flatten()
        thin = Tracks(
            dense.points[..., kept, :], dense.visibility[..., kept], dense.confidence[..., kept], dense.anchors,
            dense.pixels[..., kept, :],
        )  # fmt: skip
        given, wanted = first_to_second(replace(scene, tracks=thin)), first_to_second(scene)
        assert torch.equal(given.has_match, wanted.has_match)
        assert given.has_match.all()
        assert_close(given.positions, wanted.positions)

    def test_every_clip_has_its_own_anchors_and_pairs(self) -> None:
        one = tracked(SHIFTED, (0.5, 0.0, 0.0), anchor=1)[0]
        other = tracked(SHIFTED, (0.25, 0.0, 0.0), anchor=0)[0]
        queries, targets = torch.tensor([[1, 0], [1, 0]]), torch.tensor([[0, 1], [0, 1]])
        found = true_matches(Scene.stack([one, other]), queries, targets, CELL)
        is_known = (found.has_match | found.is_unmatched).any(dim=-1)
        assert is_known.tolist() == [[True, False], [False, True]]
        # Back in time: the camera by +2 pixels, the surface by -1; and forth: -2 and +.5.
        assert_close(found.positions[0, 0, 20], CELLS[20] + torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)
        assert_close(found.positions[1, 1, 20], CELLS[20] - torch.tensor([1.5, 0.0]), atol=1e-5, rtol=0)

    def test_the_second_of_two_anchors_is_found(self) -> None:
        first, second = tracked(SHIFTED, (9.0, 0.0, 0.0), anchor=0), tracked(SHIFTED, (0.5, 0.0, 0.0), anchor=1)
        assert first.tracks is not None
        assert second.tracks is not None
        both = Tracks(
            *(
                torch.cat([getattr(first.tracks, name), getattr(second.tracks, name)], dim=1)
                for name in ("points", "visibility", "confidence", "anchors", "pixels")
            )
        )
        found = true_matches(replace(first, tracks=both), torch.tensor([[1]]), torch.tensor([[0]]), CELL)
        assert_close(found.positions[0, 0, 20], CELLS[20] + torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)

    def test_points_and_tracks_of_a_static_scene_agree(self) -> None:
        scene = Scene.stack([make_scene(frames=3)])
        pairs = torch.tensor([[0, 0]]), torch.tensor([[1, 2]])
        by_track, by_point = true_matches(scene, *pairs, CELL), true_matches(replace(scene, tracks=None), *pairs, CELL)
        assert torch.equal(by_track.has_match, by_point.has_match)
        assert_close(by_track.positions, by_point.positions)
