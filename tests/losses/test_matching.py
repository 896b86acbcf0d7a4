"""Losses of matching: true positions of cells in other frames, and the likelihood of matches."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import make_scene
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.datasets.synthetic import (
    Lattice,
    SyntheticConfig,
    make_scenes,
    render_scenes,
)
from recon4d.layers import (
    AssignmentKind,
    Matches,
    Matching,
    MatchingConfig,
    cell_centers,
    sinkhorn,
)
from recon4d.losses import (
    TrueMatches,
    matching_terms,
    mean,
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


PATCHES = (2, 3)
COUNT = 24


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1)


class Problem:
    """Two clips of three frames with four pairs; the third pair is invalid, the fourth is a frame with itself."""

    def __init__(self, assignment: AssignmentKind = "soft", epipolar_width: float | None = None) -> None:
        config = MatchingConfig(
            channels=5, temperature=0.3, dustbin_logit=1.5, assignment=assignment, epipolar_width=epipolar_width
        )
        self.matching = Matching(config, width=8, patch_size=4, eighth_channels=0).double()
        self.queries, self.targets = (
            torch.tensor([[0, 2, 1, 1], [1, 0, 2, 2]]),
            torch.tensor([[1, 0, 2, 1], [2, 2, 2, 2]]),
        )
        self.valid = torch.tensor([[True, True, False, True], [True, True, False, True]])
        self.features = unit(noise(2, 3, COUNT, 5))
        generator = torch.Generator().manual_seed(1)
        state = torch.randint(0, 3, (2, 4, COUNT), generator=generator)
        inside = torch.rand(2, 4, COUNT, 2, generator=generator, dtype=torch.float64)
        self.truth = TrueMatches(
            inside * torch.tensor([12.0, 8.0]), state == 0, state == 1, torch.zeros_like(state == 0)
        )

    def match(self, features: torch.Tensor) -> Matches:
        return self.matching.match(features, self.queries, self.targets, self.valid, PATCHES)

    def log_probabilities(self, clip: int, pair: int) -> torch.Tensor:
        """Compute the log softmax over all target cells and the dustbin by its definition."""
        query, target = self.features[clip, self.queries[clip, pair]], self.features[clip, self.targets[clip, pair]]
        logits = query @ target.T * torch.exp(-self.matching.log_temperature)
        bins = self.matching.no_match.expand(COUNT, 1)
        return torch.cat([logits, bins], dim=-1).log_softmax(dim=-1)


def bilinear(position: torch.Tensor) -> torch.Tensor:
    """Return the bilinear weights of all 4 x 6 cells of two pixels for a position in pixels, constant at the border."""
    centers = cell_centers(PATCHES, 2.0, torch.zeros((), dtype=torch.float64))
    held = torch.stack([position[0].clamp(1, 11), position[1].clamp(1, 7)])
    return (1 - (centers - held).abs() / 2).clamp(min=0).prod(dim=-1)


class TestMatchingTerms:
    def test_cross_entropy_is_of_the_four_cells_about_the_true_position(self) -> None:
        problem = Problem()
        term = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        ).cross_entropy
        losses = [
            -(
                bilinear(problem.truth.positions[clip, pair, cell]) * problem.log_probabilities(clip, pair)[cell, :-1]
            ).sum()
            for clip in range(2)
            for pair in range(2)
            for cell in problem.truth.has_match[clip, pair].nonzero().flatten().tolist()
        ]
        assert term.count == len(losses)
        assert_close(term.total, torch.stack(losses).sum())

    def test_cells_that_move_may_weigh_more(self) -> None:
        problem = Problem()
        dynamic = torch.zeros_like(problem.truth.has_match)
        dynamic[:, :, ::3] = True
        parts = {}
        for name, has_match in (("all", True), ("moving", dynamic), ("still", ~dynamic)):
            truth = replace(problem.truth, has_match=problem.truth.has_match & has_match, is_dynamic=dynamic)
            weight = 5.0 if name == "all" else 1.0
            matches = problem.match(problem.features)
            parts[name] = matching_terms(matches, problem.features, problem.matching, truth, PATCHES, weight)
        for term in ("cross_entropy", "position"):
            whole, moving, still = (getattr(parts[name], term) for name in ("all", "moving", "still"))
            assert_close(whole.total, 5 * moving.total + still.total)
            assert whole.count == 5 * moving.count + still.count

    def test_dustbin_loss_is_the_negative_log_probability_of_the_dustbin(self) -> None:
        problem = Problem()
        term = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        ).dustbin
        losses = [
            -problem.log_probabilities(clip, pair)[problem.truth.is_unmatched[clip, pair], -1]
            for clip in range(2)
            for pair in range(2)
        ]
        assert term.count == len(torch.cat(losses))
        assert_close(term.total, torch.cat(losses).sum())

    def test_position_is_the_distance_in_cells_up_to_three(self) -> None:
        problem = Problem()
        matches = problem.match(problem.features)
        positions = problem.truth.positions.clone()
        positions[0, 0, 0], seen = (
            matches.positions[0, 0, 0] + torch.tensor([3.0, -4.0]),
            torch.zeros(2, 4, COUNT).bool(),
        )
        positions[0, 0, 1] = matches.positions[0, 0, 1] + 100
        seen[0, 0, :2] = True
        truth = TrueMatches(positions, seen, ~seen, torch.zeros_like(seen))
        term = matching_terms(matches, problem.features, problem.matching, truth, PATCHES).position
        assert term.count == 2
        assert term.total.item() == pytest.approx(2.5 + 3, abs=2e-3)
        exact = replace(truth, positions=matches.positions.detach())
        assert mean(matching_terms(matches, problem.features, problem.matching, exact, PATCHES).position) == 0

    def test_the_true_match_costs_least(self) -> None:
        problem = Problem()
        features = unit(noise(1, 1, COUNT, 64)).expand(2, 3, COUNT, 64)
        matches = problem.match(features)
        cells = cell_centers(PATCHES, 2.0, features).expand(2, 4, COUNT, 2)
        seen = torch.ones(2, 4, COUNT, dtype=torch.bool)

        def cost(shift: float) -> float:
            truth = TrueMatches(cells + shift * torch.tensor([1.0, 0.0]), seen, ~seen, torch.zeros_like(seen))
            return mean(matching_terms(matches, features, problem.matching, truth, PATCHES).cross_entropy).item()

        assert cost(0) < min(cost(-1), cost(1), cost(-2), cost(2))

    def test_invalid_pairs_and_pairs_of_equal_frames_have_no_loss(self) -> None:
        problem = Problem()
        seen = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        seen[:, 2:] = True
        for truth in (
            replace(problem.truth, has_match=seen, is_unmatched=~seen & False),
            replace(problem.truth, has_match=~seen & False, is_unmatched=seen),
        ):
            terms = matching_terms(problem.match(problem.features), problem.features, problem.matching, truth, PATCHES)
            assert [term.count.item() for term in terms] == [0, 0, 0]

    def test_without_known_cells_the_loss_is_zero_with_a_gradient(self) -> None:
        problem = Problem()
        features = problem.features.clone().requires_grad_()
        matches = problem.match(features)
        matches = replace(
            matches, positions=matches.positions * math.nan, log_partition=matches.log_partition * math.inf
        )
        nothing = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        truth = TrueMatches(problem.truth.positions * math.nan, nothing, nothing, nothing)
        terms = matching_terms(matches, features, problem.matching, truth, PATCHES)
        for term in terms:
            assert mean(term) == 0
            assert mean(term).requires_grad

    def test_unknown_positions_have_neither_loss_nor_gradient(self) -> None:
        problem = Problem()
        features = problem.features.clone().requires_grad_()
        unknown = torch.where(problem.truth.has_match[..., None], problem.truth.positions, math.nan)
        terms = matching_terms(
            problem.match(features), features, problem.matching, replace(problem.truth, positions=unknown), PATCHES
        )
        torch.stack([mean(term) for term in terms]).sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()
        assert features.grad.abs().max() > 0

    def test_temperature_and_dustbin_have_gradients(self) -> None:
        problem = Problem()
        terms = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        )
        for parameter in (problem.matching.log_temperature, problem.matching.no_match):
            gradients = [torch.autograd.grad(mean(term), parameter, retain_graph=True)[0] for term in terms[:2]]
            assert all(gradient.abs() > 1e-4 for gradient in gradients)

    def test_sinkhorn_is_scored_by_its_own_probabilities(self) -> None:
        problem = Problem("sinkhorn")
        scale, dustbin = torch.exp(-problem.matching.log_temperature), problem.matching.no_match
        terms = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        )
        matched, unmatched = [], []
        for clip in range(2):
            for pair in range(2):
                query, target = (
                    problem.features[clip, frames[clip, pair]] for frames in (problem.queries, problem.targets)
                )
                logits = scale * query @ target.T
                log_partition, potentials = (values[0] for values in sinkhorn(logits[None], dustbin, 5))
                log_probability = logits + potentials - log_partition[:, None]
                for cell in problem.truth.has_match[clip, pair].nonzero().flatten().tolist():
                    weights = bilinear(problem.truth.positions[clip, pair, cell])
                    matched.append(-(weights * log_probability[cell]).sum())
                unmatched.append((log_partition - dustbin)[problem.truth.is_unmatched[clip, pair]])
        assert_close(terms.cross_entropy.total, torch.stack(matched).sum())
        assert_close(terms.dustbin.total, torch.cat(unmatched).sum())
        soft = Problem()
        other = matching_terms(soft.match(soft.features), soft.features, soft.matching, soft.truth, PATCHES)
        assert (other.cross_entropy.total - terms.cross_entropy.total).abs() > 0.01

    @pytest.mark.parametrize("assignment", ["soft", "sinkhorn", "nearest", "hough"])
    def test_features_learn_to_match_with_every_assignment(self, assignment: AssignmentKind) -> None:
        problem = Problem(assignment)
        cells = cell_centers(PATCHES, 2.0, problem.features).expand(2, 4, COUNT, 2)
        seen = torch.rand(2, 4, COUNT, generator=torch.Generator().manual_seed(3)) > 0.3
        truth = TrueMatches(cells, seen, ~seen, torch.zeros_like(seen))
        raw = noise(2, 3, COUNT, 5).requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=0.05)
        losses = []
        for _ in range(15):
            features = unit(raw)
            terms = matching_terms(problem.match(features), features, problem.matching, truth, PATCHES)
            loss = torch.stack([mean(term) for term in terms]).sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            assert raw.grad is not None
            assert raw.grad.isfinite().all()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0]

    def test_a_true_match_that_the_epipolar_filter_excludes_gains_nothing_beyond_certainty(self) -> None:
        problem = Problem(epipolar_width=1.0)
        # The camera moves sideways, so matches stay in their rows; but everything moves down by two rows.
        world_from_cam = torch.eye(4, dtype=torch.float64).repeat(2, 3, 1, 1)
        world_from_cam[:, :, 0, 3] = torch.arange(3)
        intrinsics = torch.tensor([[9.0, 0.0, 6.0], [0.0, 9.0, 4.0], [0.0, 0.0, 1.0]]).double().expand(2, 3, 3, 3)
        two_view = problem.matching.two_view_filter(Cameras(world_from_cam, intrinsics))
        start = unit(noise(COUNT, 64))
        features = torch.stack([start, start.roll(12, 0), start]).expand(2, 3, COUNT, 64)
        matches = problem.matching.match(features, problem.queries, problem.targets, problem.valid, PATCHES, two_view)
        below = (cell_centers(PATCHES, 2.0, features) + torch.tensor([0.0, 4.0])).expand(2, 4, COUNT, 2)
        seen = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        seen[0, 0, :12] = True
        truth = TrueMatches(below, seen, ~seen, torch.zeros_like(seen))
        logit = torch.exp(-problem.matching.log_temperature)
        assert (matches.log_partition[0, 0, :12] < logit).any()  # the excluded match alone exceeds the partition
        cost = matching_terms(matches, features, problem.matching, truth, PATCHES).cross_entropy
        expected = (matches.log_partition[0, 0, :12] - logit).clamp(min=0).sum()
        assert_close(cost.total, expected)

    def test_gradients(self) -> None:
        problem = Problem()

        def loss(raw: torch.Tensor, log_temperature: torch.Tensor, no_match: torch.Tensor) -> torch.Tensor:
            problem.matching.log_temperature.data = log_temperature.data
            problem.matching.no_match.data = no_match.data
            features = unit(raw)
            terms = matching_terms(problem.match(features), features, problem.matching, problem.truth, PATCHES)
            return torch.stack([mean(term) for term in terms])

        given = noise(2, 3, COUNT, 5).requires_grad_()
        held = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda raw: loss(raw, *held), given, atol=1e-5, fast_mode=True)

    def test_half_types_are_compared_in_single_precision(self) -> None:
        problem = Problem()
        problem.matching.float()
        features = problem.features.bfloat16()
        matches = problem.match(features.float())
        terms = matching_terms(matches, features, problem.matching, problem.truth.to(dtype=torch.float32), PATCHES)
        exact = matching_terms(
            matches, features.float(), problem.matching, problem.truth.to(dtype=torch.float32), PATCHES
        )
        for term, wanted in zip(terms, exact, strict=True):
            assert term.total.dtype == torch.float32
            assert_close(term.total, wanted.total)

    def test_no_transfer_to_the_host(self) -> None:
        """Fake tensors have no values, so reading one on the host raises an error."""
        problem = Problem()
        matches = problem.match(problem.features).detach()
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            scene = Scene.stack([make_scene(anchors=(0, 2))]).map(mode.from_tensor)
            frames = torch.zeros(1, 4, dtype=torch.long)
            assert true_matches(scene, frames, frames, CELL).has_match.shape == (1, 4, 48)
            features = mode.from_tensor(problem.features.requires_grad_())
            truth = problem.truth.map(mode.from_tensor)
            terms = matching_terms(matches.map(mode.from_tensor), features, problem.matching, truth, PATCHES)
            torch.stack([mean(term) for term in terms]).sum().backward()


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, Scene]:
    """Two scenes with tracks from frames 0 and 2, of every pixel and of every fourth in x and y."""
    config = SyntheticConfig(num_frames=3, height=48, width=64, static_scene_share=0.0, static_camera_share=0.0)
    scenes = make_scenes(config, 7, (0, 1))
    dense, thin = (
        render_scenes(scenes, config, anchors=(0, 2), query_lattice=Lattice(stride)).scene for stride in (1, 4)
    )
    return dense, thin


class TestRenderedScenes:
    """Matches in rendered scenes, whose ground truth is computed independently."""

    pairs = torch.tensor([[0, 0, 2, 2]] * 2), torch.tensor([[1, 2, 1, 0]] * 2)

    def is_dynamic(self, scene: Scene) -> torch.Tensor:
        """Return whether the central pixel of each cell of 4 x 4 pixels is dynamic."""
        return scene.dynamic[:, :, 2::4, 2::4].flatten(2)[:, [0, 0, 2, 2]] > 0

    def test_depth_and_tracks_agree_on_static_cells(self, scenes: tuple[Scene, Scene]) -> None:
        by_track = true_matches(scenes[0], *self.pairs, 4.0)
        by_point = true_matches(replace(scenes[0], tracks=None), *self.pairs, 4.0)
        static = ~self.is_dynamic(scenes[0])
        both = by_track.has_match & by_point.has_match
        assert both.sum() > 400
        assert_close(by_point.positions[both], by_track.positions[both], atol=1e-3, rtol=0)
        agree = (by_track.has_match == by_point.has_match)[static & (by_point.has_match | by_point.is_unmatched)]
        assert agree.float().mean() > 0.99

    def test_dynamic_cells_are_known_from_tracks_only(self, scenes: tuple[Scene, Scene]) -> None:
        by_track = true_matches(scenes[0], *self.pairs, 4.0)
        by_point = true_matches(replace(scenes[0], tracks=None), *self.pairs, 4.0)
        dynamic = self.is_dynamic(scenes[0])
        assert dynamic.sum() > 100
        assert not (by_point.has_match | by_point.is_unmatched)[dynamic].any()
        assert (by_track.has_match | by_track.is_unmatched)[dynamic].float().mean() > 0.95

    def test_sparse_and_dense_tracks_agree(self, scenes: tuple[Scene, Scene]) -> None:
        dense, thin = (true_matches(scene, *self.pairs, 4.0) for scene in scenes)
        assert torch.equal(dense.has_match, thin.has_match)
        assert torch.equal(dense.is_unmatched, thin.is_unmatched)
        assert_close(dense.positions, thin.positions, atol=1e-3, rtol=1e-4)
