"""Losses of depth and of point maps."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import make_scene
from torch.testing import assert_close

from recon4d.losses import (
    depth_gradient_term,
    depths_at_anchors,
    log_depth_term,
    mean,
    point_term,
    tracking_point_term,
)

UNKNOWN = (math.nan, math.inf, -math.inf)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_valid(maps: torch.Tensor) -> torch.Tensor:
    return torch.ones(maps.shape, dtype=torch.bool)


class TestDepth:
    def test_log_depth_is_the_error_of_the_logarithm(self) -> None:
        depths, truth = tensor(2, 1).view(1, 1, 2), tensor(1, 1).view(1, 1, 2)
        term = log_depth_term(depths, torch.full_like(depths, 3), truth, all_valid(depths))
        assert term.count == 2
        assert mean(term).item() == pytest.approx(4 * math.log(2) / 2 - 0.1 * math.log(3))

    def test_small_true_depths_are_clamped(self) -> None:
        depths = tensor(0.02).view(1, 1, 1)
        value = mean(log_depth_term(depths, torch.ones_like(depths), torch.full_like(depths, 1e-5), all_valid(depths)))
        assert value == 0

    def test_a_depth_rounded_to_zero_is_finite(self) -> None:
        depths = torch.zeros(1, 1, 1, dtype=torch.float16)
        value = mean(log_depth_term(depths, torch.ones_like(depths), torch.ones(1, 1, 1), all_valid(depths)))
        assert value.item() == pytest.approx(-2 * math.log(1e-9), rel=1e-5)

    def test_depth_gradients_ignore_scale(self) -> None:
        truth = 1 + noise(2, 9, 10).abs()
        assert mean(depth_gradient_term(3 * truth, truth, all_valid(truth))).item() == pytest.approx(0, abs=1e-12)
        assert mean(depth_gradient_term(truth + 0.1, truth, all_valid(truth))) > 0

    def test_depth_gradients_of_a_ramp_grow_with_the_stride(self) -> None:
        ramp = torch.exp(0.01 * torch.arange(9, dtype=torch.float64)).expand(1, 9, 9)
        # Along x a difference is .01, .02, .04; along y there is none. Weights: pairs times the stride squared.
        pairs = {1: 9 * 8, 2: 5 * 4 * 4, 4: 3 * 2 * 16}
        wanted = 6 * sum(0.01 * k * n for k, n in pairs.items()) / (2 * sum(pairs.values()))
        value = depth_gradient_term(ramp, torch.ones_like(ramp), all_valid(ramp))
        assert value.count == 2 * sum(pairs.values())
        assert mean(value).item() == pytest.approx(wanted)
        along_y = depth_gradient_term(ramp.transpose(-1, -2), torch.ones_like(ramp), all_valid(ramp))
        assert mean(along_y).item() == pytest.approx(wanted)

    def test_an_edge_costs_at_most_one(self) -> None:
        depths = tensor(1, 1e6).view(1, 1, 2)
        assert mean(depth_gradient_term(depths, torch.ones_like(depths), all_valid(depths))) == 6

    def test_both_neighbors_must_be_valid(self) -> None:
        depths = tensor(1, 2, math.nan, 4, 5).view(1, 1, 5)
        valid = torch.tensor([True, True, False, True, True]).view(1, 1, 5)
        # Stride 1: pairs (0, 1) and (3, 4); stride 2: none; stride 4: (0, 4), clamped.
        value = depth_gradient_term(depths, torch.ones_like(depths), valid)
        assert value.count == 2 + 16
        assert value.total.item() == pytest.approx(6 * (math.log(2) + math.log(5 / 4) + 16))

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_depths_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        truth, valid = 1 + noise(1, 6, 7).abs(), noise(1, 6, 7, seed=1) > 0
        given = 1 + noise(1, 6, 7, seed=2).abs()
        confidence = 1 + noise(1, 6, 7, seed=3).abs()

        def losses(fill: float) -> tuple[torch.Tensor, torch.Tensor]:
            depths = torch.where(valid, given, fill).requires_grad_()
            confidences = torch.where(valid, confidence, fill).requires_grad_()
            wanted = torch.where(valid, truth, fill)
            terms = log_depth_term(depths, confidences, wanted, valid), depth_gradient_term(depths, wanted, valid)
            loss = mean(terms[0]) + mean(terms[1])
            loss.backward()
            assert depths.grad is not None
            assert depths.grad[~valid].abs().max() == 0
            return loss, depths.grad

        assert_close(losses(unknown), losses(1.5))

    def test_no_valid_entries_give_zero_with_zero_gradient(self) -> None:
        depths = torch.full((1, 6, 6), math.nan, requires_grad=True)
        none = torch.zeros(1, 6, 6, dtype=torch.bool)
        loss = mean(log_depth_term(depths, depths, depths.detach(), none))
        loss = loss + mean(depth_gradient_term(depths, depths.detach(), none))
        loss.backward()
        assert loss == 0
        assert depths.grad is not None
        assert depths.grad.abs().max() == 0

    def test_gradients_equal_finite_differences(self) -> None:
        truth, valid = 1 + noise(1, 5, 6).abs(), noise(1, 5, 6, seed=1) > -1
        inputs = (1 + noise(1, 5, 6, seed=2).abs(), 1 + noise(1, 5, 6, seed=3).abs())
        assert torch.autograd.gradcheck(
            lambda d, c: mean(log_depth_term(d, c, truth, valid)) + mean(depth_gradient_term(d, truth, valid)),
            tuple(value.requires_grad_() for value in inputs),
        )


class TestPoints:
    def test_point_errors_are_relative_to_depth(self) -> None:
        points, truth = tensor(3, 4, 2).view(1, 3), tensor(0, 0, 2).view(1, 3)
        value = mean(point_term(points, tensor(2), truth, tensor(2), torch.tensor([True])))
        assert value.item() == pytest.approx(3 * 2.5 - 0.1 * math.log(2), abs=1e-3)

    def test_depth_that_divides_errors_is_bounded(self) -> None:
        value = mean(
            point_term(tensor(0.3, 0, 0)[None], tensor(1), tensor(0, 0, 0)[None], tensor(1e-3), torch.tensor([True]))
        )
        assert value.item() == pytest.approx(2 * 0.3 / 0.15, abs=2e-3)

    def test_equal_points_have_no_loss(self) -> None:
        scene = make_scene()
        valid = all_valid(scene.depths)
        truth = point_term(scene.points, scene.point_confidence, scene.points, scene.depths, valid)
        assert mean(truth) == 0
        assert truth.count == scene.depths.numel()

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_points_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        valid = torch.tensor([True, False])
        points = torch.stack([tensor(1, 2, 3), tensor(unknown, 1, 1)]).requires_grad_()
        fill = tensor(2, unknown)
        term = point_term(points, fill, points.detach() + 1, fill, valid)
        mean(term).backward()
        assert term.count == 1
        assert points.grad is not None
        assert points.grad.isfinite().all()
        assert points.grad[1].tolist() == [0, 0, 0]

    def test_gradients(self) -> None:
        truth, depths, valid = noise(2, 3, 3), 0.1 + noise(2, 3).abs(), noise(2, 3, seed=4) > -0.5
        inputs = (noise(2, 3, 3, seed=1).requires_grad_(), (1 + noise(2, 3, seed=2).abs()).requires_grad_())
        assert torch.autograd.gradcheck(lambda p, c: mean(point_term(p, c, truth, depths, valid)), inputs)

    def test_tracking_compares_positions_at_every_time(self) -> None:
        scene = make_scene(anchors=(0, 2))
        truth, depths = scene.tracks, depths_at_anchors(scene)
        assert truth is not None
        assert mean(tracking_point_term(truth, truth, depths)) == 0
        points = truth.points.clone()
        points[1, 0] += torch.tensor([0.0, 0.3, 0.4])
        term = tracking_point_term(replace(truth, points=points), truth, depths)
        assert term.count == truth.confidence.numel()
        assert term.total.item() == pytest.approx((2 * 0.5 / depths[1]).sum().item(), rel=1e-3)

    def test_tracking_ignores_unknown_ground_truth(self) -> None:
        scene = make_scene()
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[0, 1, 5] = 0
        truth = replace(scene.tracks, confidence=confidence)
        depths = depths_at_anchors(scene)
        depths[0, 7] = math.nan
        assert tracking_point_term(scene.tracks, truth, depths).count == confidence.sum() - 3
