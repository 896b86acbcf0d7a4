"""Losses of tracks: motion, visibility and queries."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.losses import (
    depths_at_anchors,
    dynamic_term,
    is_known_off_anchor,
    mean,
    motion_term,
    sample_at_pixels,
    sample_tracks,
    track_confidence_term,
    visibility_term,
)
from recon4d.records import Tracks

SIZE = (HEIGHT, WIDTH)

UNKNOWN = (math.nan, math.inf, -math.inf)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_tracks(displacement: torch.Tensor, anchor: int = 0) -> Tracks:
    """Return tracks of one anchor; queries start at (q, 0, 2) and are displaced by (time, query, 3)."""
    time, queries = displacement.shape[:2]
    start = torch.arange(queries, dtype=torch.float64)[:, None] * tensor(1, 0, 0) + tensor(0, 0, 2)
    ones = torch.ones(1, time, queries, dtype=torch.float64)
    pixels = torch.zeros(1, queries, 2, dtype=torch.float64)
    return Tracks((start + displacement)[None], ones, ones, torch.tensor([anchor]), pixels)


class TestMotion:
    def displaced(self) -> torch.Tensor:
        """Return displacements of two queries at three times: the second is displaced by 1, then by 2, at depth 2."""
        displacement = torch.zeros(3, 2, 3, dtype=torch.float64)
        displacement[1, 1, 0], displacement[2, 1, 0] = 1, 2
        return displacement

    depths = torch.full((1, 2), 2.0, dtype=torch.float64)

    def test_dynamic_pixels_weigh_ten_times_as_much(self) -> None:
        truth = make_tracks(self.displaced())
        static = make_tracks(0 * self.displaced())
        term = motion_term(static, truth, self.depths)
        assert term.count == 2 * 1 + 2 * 10
        assert term.total.item() == pytest.approx(10 * (0.5 + 1), abs=5e-3)

    def test_a_displacement_above_a_fiftieth_of_depth_is_dynamic(self) -> None:
        displacement = torch.zeros(2, 2, 3, dtype=torch.float64)
        displacement[1] = torch.stack([tensor(0, 0, 0.039), tensor(0, 0, 0.0415)])
        truth = make_tracks(displacement)
        assert motion_term(truth, truth, self.depths).count == 11

    def test_displacement_is_from_the_tracks_own_point(self) -> None:
        truth = make_tracks(self.displaced())
        elsewhere = replace(truth, points=truth.points + tensor(5, 5, 5))
        assert mean(motion_term(elsewhere, truth, self.depths)).item() == pytest.approx(0, abs=1e-12)

    def test_the_anchor_need_not_be_the_first_frame(self) -> None:
        truth = make_tracks(self.displaced(), anchor=2)
        static = make_tracks(0 * self.displaced(), anchor=2)
        # Relative to the last frame the second query is displaced by -2, then by -1.
        term = motion_term(static, truth, self.depths)
        assert term.count == 22
        assert term.total.item() == pytest.approx(10 * (1 + 0.5), abs=5e-3)

    def test_only_known_times_of_points_known_in_the_anchor_are_used(self) -> None:
        truth = make_tracks(self.displaced())
        confidence = truth.confidence.clone()
        confidence[0, 1, 1] = 0
        assert motion_term(truth, replace(truth, confidence=confidence), self.depths).count == 12
        confidence = truth.confidence.clone()
        confidence[0, 0, 1] = 0
        unknown = replace(truth, confidence=confidence)
        assert is_known_off_anchor(unknown).tolist() == [[[False, False], [True, False], [True, False]]]
        assert motion_term(truth, unknown, self.depths).count == 2

    def test_unknown_depth_leaves_a_query_out(self) -> None:
        truth = make_tracks(self.displaced())
        assert motion_term(truth, truth, torch.tensor([[2.0, math.nan]])).count == 2

    def test_an_anchor_removed_by_slicing_has_no_loss(self) -> None:
        truth = make_tracks(self.displaced(), anchor=-1)
        assert motion_term(truth, truth, self.depths).count == 0
        assert not is_known_off_anchor(truth).any()

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_points_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        truth = make_tracks(self.displaced())
        confidence, points = truth.confidence.clone(), truth.points.clone()
        confidence[0, 1, 1], points[0, 1, 1] = 0, unknown
        given = (points + 0.1).requires_grad_()
        partly = replace(truth, confidence=confidence, points=points)
        term = motion_term(replace(truth, points=given), partly, self.depths)
        mean(term).backward()
        assert term.total.isfinite()
        assert given.grad is not None
        assert given.grad.isfinite().all()
        assert given.grad[0, 1, 1].tolist() == [0, 0, 0]

    def test_gradients(self) -> None:
        truth = make_tracks(self.displaced())
        given = (truth.points + noise(*truth.points.shape)).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda p: mean(motion_term(replace(truth, points=p), truth, self.depths)), given
        )

    def test_the_optimal_track_confidence_matches_the_error(self) -> None:
        truth = make_tracks(self.displaced())
        off = (truth.points + tensor(0, 0, 0.1)).requires_grad_()  # a twentieth of the depth of 2
        best = 0.1 / 0.05

        def cost(confidence: float) -> torch.Tensor:
            given = replace(truth, points=off, confidence=torch.full_like(truth.confidence, confidence))
            return mean(track_confidence_term(given, truth, self.depths))

        assert cost(best) < cost(1.2 * best)
        assert cost(best) < cost(0.8 * best)
        assert cost(best).item() == pytest.approx(0.05 + 0.1 - 0.1 * math.log(2), abs=5e-3)
        assert not cost(best).requires_grad

    def test_track_confidence_has_gradients_where_ground_truth_is_known(self) -> None:
        truth = make_tracks(self.displaced())
        known = truth.confidence.clone()
        known[0, 1, 1] = 0
        confidence = torch.full_like(truth.confidence, 2.0).requires_grad_()
        given = replace(truth, confidence=confidence)
        term = track_confidence_term(given, replace(truth, confidence=known), self.depths)
        assert term.count == 3
        (gradient,) = torch.autograd.grad(term.total, confidence)
        # No gradient at the anchor's own time or where unknown; elsewhere points are exact, so confidence should rise.
        assert (gradient < 0).tolist() == [[[False, False], [True, False], [True, True]]]
        assert (gradient > 0).sum() == 0

    def test_depth_at_the_anchor_is_that_of_its_depth_map(self) -> None:
        scene = make_scene(anchors=(1, 2))
        assert_close(depths_at_anchors(scene), scene.depths[[1, 2]].flatten(1), atol=1e-4, rtol=1e-4)
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[0, 1, 3] = 0
        confidence[1, 1, 4] = 0
        depths = depths_at_anchors(replace(scene, tracks=replace(scene.tracks, confidence=confidence)))
        assert depths.isnan().nonzero().tolist() == [[0, 3]]

    def test_depth_at_the_anchor_needs_tracks(self) -> None:
        with pytest.raises(ValueError, match="no tracks"):
            depths_at_anchors(replace(make_scene(), tracks=None))

    def test_visibility_is_binary_cross_entropy(self) -> None:
        logits = tensor(0.3, -2, 7)
        term = visibility_term(logits, tensor(1, 0, math.nan), torch.tensor([True, True, False]))
        wanted = -math.log(1 / (1 + math.exp(-0.3))) - math.log(1 - 1 / (1 + math.exp(2)))
        assert term.count == 2
        assert term.total.item() == pytest.approx(wanted)

    def test_dynamic_loss_is_over_known_pixels(self) -> None:
        logits = tensor(0.3, math.nan, -1).requires_grad_()
        term = dynamic_term(logits, tensor(1, math.nan, 0))
        term.total.backward()
        assert term.count == 2
        assert term.total.item() == pytest.approx(math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-1)))
        assert logits.grad is not None
        assert_close(logits.grad, tensor(1 / (1 + math.exp(-0.3)) - 1, 0, 1 / (1 + math.exp(1))))


class TestQueries:
    def test_values_are_bilinear_between_pixel_centers(self) -> None:
        grid = g.pixel_grid(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1)
        plane = grid @ tensor(2, -3) + 1
        values = torch.stack([plane, 10 * plane], dim=-1)[None, None].expand(2, 3, -1, -1)
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
        pixels = 0.5 + share * tensor(WIDTH - 1, HEIGHT - 1)
        wanted = pixels @ tensor(2, -3) + 1
        read = sample_at_pixels(values, pixels, SIZE)
        assert read.shape == (2, 3, 5, 2)
        assert_close(read[:, 2], torch.stack([wanted, 10 * wanted], dim=-1))

    def test_sampling_at_all_pixels_is_the_identity(self) -> None:
        tracks = make_scene(anchors=(0, 1)).tracks
        assert tracks is not None
        moved = replace(
            tracks, points=noise(*tracks.points.shape).float(), visibility=noise(*tracks.visibility.shape).float()
        )
        read = sample_tracks(moved, tracks.pixels, SIZE)
        assert_close(read.points, moved.points)
        assert_close(read.visibility, moved.visibility)
        assert_close(read.confidence, moved.confidence)

    def test_beyond_the_outermost_centers_is_the_border(self) -> None:
        values = torch.arange(HEIGHT * WIDTH, dtype=torch.float64)[None, None, :, None]
        pixels = torch.tensor([[[-5.0, -5.0], [WIDTH + 9.0, HEIGHT + 0.0], [math.nan, 0.5]]], dtype=torch.float64)
        assert sample_at_pixels(values, pixels, SIZE).flatten().tolist() == [0, HEIGHT * WIDTH - 1, 0]

    def test_gradients_go_to_the_four_pixels_around(self) -> None:
        values = torch.zeros(1, 1, HEIGHT * WIDTH, 1, dtype=torch.float64, requires_grad=True)
        sample_at_pixels(values, tensor(3.75, 2.5).view(1, 1, 2), SIZE).sum().backward()
        assert values.grad is not None
        pulls = values.grad.view(HEIGHT, WIDTH)
        assert pulls[2, 3:5].tolist() == [0.75, 0.25]
        assert pulls.sum() == 1
