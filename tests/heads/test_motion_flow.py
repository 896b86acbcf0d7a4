"""The generative head of motion: what is known of tracks, the flow and its noise."""

import math

import pytest
import torch

from recon4d.geometry.bsplines import bspline_weights
from recon4d.heads.motion_flow import FlowConfig, FlowNetwork, motion_conditions, sample_motion
from recon4d.heads.motion_flow.conditions import (
    BEND,
    CHANNELS,
    CONTROLS,
    FEATURES,
    MIN_SCALE,
    NOISE_RATIOS,
    SEGMENTS,
    VELOCITY_PENALTY,
    fitted_control_points,
)
from recon4d.heads.motion_flow.flow_matching import (
    TEMPERATURE,
    draw_noise,
    flow_matching_error,
    integrate_flow,
    noise_factor,
)

TIMES = torch.linspace(0, 1, 9)
LOG_SCALE, LOG_RATIO = -6, -5
"""Places of the logarithms of the unit of motion and of the noise ratio among the features."""


def tracks(count: int = 6) -> torch.Tensor:
    """Return smooth tracks (time, track, 3) that differ in place and direction."""
    phase = torch.arange(count) / 2
    time = TIMES[:, None]
    x = phase + time
    return torch.stack([x, torch.sin(2 * time + phase), 0.3 * phase + 0.5 * time.square()], dim=-1)


def first_part(count: int, frames: int = 5) -> torch.Tensor:
    """Return weights (time, track) that observe the first frames only."""
    weights = torch.zeros(len(TIMES), count)
    weights[:frames] = 1
    return weights


def positions(control_points: torch.Tensor, times: torch.Tensor = TIMES) -> torch.Tensor:
    """Evaluate control points (..., track, control, 3) as (..., track, time, 3)."""
    return bspline_weights(times * SEGMENTS, SEGMENTS) @ control_points


class TestConditions:
    def test_straight_tracks_go_on_straight(self) -> None:
        points = torch.tensor([1.0, -2.0, 0.5]) * TIMES[:, None, None] + torch.randn(1, 6, 3)
        conditions = motion_conditions(points, first_part(6, 7), TIMES)
        found = positions(conditions.continuation).movedim(0, 1)
        assert (found - points)[:7].norm(dim=-1).max() < 0.02
        # The end is short of the straight line, since a track may also slow down.
        assert (found - points)[-1].norm(dim=-1).max() < 0.25
        assert ((found[-1] - found[6]) * (points[-1] - points[6])).sum(dim=-1).min() > 0

    def test_units_and_places_of_the_world_do_not_matter(self) -> None:
        points, weights = tracks(), first_part(6)
        here = motion_conditions(points, weights, TIMES)
        there = motion_conditions(50 * points + torch.tensor([3.0, -80.0, 2.0]), weights, TIMES)
        torch.testing.assert_close(there.features, here.features, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(there.factor, 50 * here.factor, atol=1e-2, rtol=1e-3)

    def test_what_is_hidden_does_not_matter(self) -> None:
        points, weights = tracks(), first_part(6)
        damaged = torch.where(weights[..., None] > 0, points, math.nan)
        for value, same in zip(
            vars(motion_conditions(damaged, weights, TIMES)).values(),
            vars(motion_conditions(points, weights, TIMES)).values(),
            strict=True,
        ):
            torch.testing.assert_close(value, same)

    def test_deviations_grow_with_time_since_the_last_observation(self) -> None:
        conditions = motion_conditions(tracks(), first_part(6), TIMES)
        basis = bspline_weights(TIMES * SEGMENTS, SEGMENTS)
        deviation = (basis @ conditions.factor).norm(dim=-1)  # (track, time)
        assert (deviation[:, 5:].diff(dim=1) > 0).all()
        assert (deviation[:, 8] > 10 * deviation[:, 2]).all()

    def test_whitened_coordinates_are_inverse(self) -> None:
        conditions = motion_conditions(tracks(), first_part(6), TIMES)
        values = torch.randn(6, CHANNELS)
        found = conditions.whitened(conditions.control_points(values))
        torch.testing.assert_close(found, values, atol=5e-3, rtol=5e-3)
        assert conditions.whitened(conditions.continuation).abs().max() < 1e-3

    def test_noise_is_recognized(self) -> None:
        """The continuation of noisy tracks is smoother than the observations, that of exact ones follows them."""
        generator = torch.Generator().manual_seed(3)
        points, weights = tracks(40), torch.ones(9, 40)
        noisy = points + 0.1 * torch.randn(points.shape, generator=generator)
        error, ratio = {}, {}
        for name, given in (("exact", points), ("noisy", noisy)):
            conditions = motion_conditions(given, weights, TIMES)
            found = positions(conditions.continuation).movedim(0, 1)
            error[name] = (found - points).square().mean().sqrt()
            ratio[name] = 10 ** float(conditions.features[0, LOG_RATIO])
        assert ratio["exact"] == pytest.approx(NOISE_RATIOS[0], rel=1e-3)
        assert ratio["noisy"] > 5 * NOISE_RATIOS[0]
        assert error["exact"] < 0.01
        assert error["noisy"] < 0.85 * (noisy - points).square().mean().sqrt()

    def test_curves_bend_as_much_as_in_training_scenes_before_they_are_observed(self) -> None:
        """Of a track with a single observation, only the place is known: second differences have the prior's size."""
        weights = torch.zeros(9, 6)
        weights[4] = 1
        conditions = motion_conditions(tracks(), weights, TIMES)
        bends = conditions.factor.diff(n=2, dim=-2).norm(dim=-1)
        center = tracks()[4].mean(dim=0)
        radius = (tracks()[4] - center).square().sum(dim=-1).mean().sqrt()
        torch.testing.assert_close(bends / (MIN_SCALE * radius), torch.full_like(bends, BEND), atol=0.03, rtol=0)

    def test_covariance_is_that_of_bayes(self) -> None:
        """Second and first differences are random, and the observations have noise of the ratio that was found."""
        weights = first_part(6)
        conditions = motion_conditions(tracks(), weights, TIMES)
        basis = bspline_weights(TIMES * SEGMENTS, SEGMENTS)[:5].double()
        differences = torch.eye(CONTROLS, dtype=torch.float64)
        first, second = differences.diff(dim=0), differences.diff(n=2, dim=0)
        ratio = 10 ** float(conditions.features[0, LOG_RATIO])
        mean = tracks()[:5].mean(dim=0)
        radius = (mean - mean.mean(dim=0)).square().sum(dim=-1).mean().sqrt()
        size = BEND * float(conditions.features[0, LOG_SCALE].exp() * radius)
        precision = second.T @ second + VELOCITY_PENALTY * first.T @ first + basis.T @ basis / ratio
        expected = size**2 * torch.linalg.inv(precision)
        found = (conditions.factor @ conditions.factor.mT)[0].double()
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.max()), rtol=1e-2)

    def test_targets_are_the_complete_tracks(self) -> None:
        points = tracks()
        conditions = motion_conditions(points, first_part(6), TIMES)
        fitted = fitted_control_points(conditions, points, TIMES)
        assert (positions(fitted).movedim(0, 1) - points).abs().max() < 0.01

    def test_one_observation_is_enough(self) -> None:
        weights = torch.zeros(9, 6)
        weights[4] = 1
        conditions = motion_conditions(tracks(), weights, TIMES)
        found = positions(conditions.continuation)
        torch.testing.assert_close(found, tracks()[4][:, None].expand_as(found), atol=1e-3, rtol=1e-3)
        assert conditions.features.isfinite().all()
        assert conditions.features.shape == (6, FEATURES)


class TestFlow:
    def test_heun_integrates_an_exponential(self) -> None:
        start = torch.tensor([[[1.0, -2.0]]])
        found = integrate_flow(lambda values, time: -values, start, steps=8)
        torch.testing.assert_close(found, start * math.exp(-1), atol=2e-3, rtol=2e-3)

    def test_heun_evaluates_at_the_right_times(self) -> None:
        found = integrate_flow(lambda values, time: 2 * time[:, None, None].expand_as(values), torch.zeros(1, 1, 1), 3)
        torch.testing.assert_close(found, torch.ones(1, 1, 1))

    def test_noise_of_like_tracks_is_alike(self) -> None:
        places = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [5.0, 0, 0]])
        factor = noise_factor(places, torch.zeros(3, CHANNELS))
        covariance = factor @ factor.mT
        torch.testing.assert_close(covariance.diagonal(), torch.ones(3))
        assert covariance[0, 1] > 0.95
        assert covariance[0, 2] < 1e-3
        faster = torch.zeros(3, CHANNELS)
        faster[1] = 2
        factor = noise_factor(places, faster)
        assert (factor @ factor.mT)[0, 1] < 0.1

    def test_noise_has_the_covariance_of_its_factor(self) -> None:
        factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
        noise = draw_noise(factor.expand(4000, 2, 2), torch.Generator().manual_seed(1))
        found = torch.einsum("sic,sjc->ij", noise, noise) / (len(noise) * noise.shape[-1])
        torch.testing.assert_close(found, torch.tensor([[1.0, 0.8], [0.8, 1.0]]), atol=0.02, rtol=0)

    def test_a_new_network_returns_the_noise(self) -> None:
        """The flow starts from plausible curves, and a network that learned nothing leaves them as they are."""
        conditions = motion_conditions(tracks(), first_part(6), TIMES)
        network = FlowNetwork(FlowConfig(width=16, depth=1, heads=2, token_width=8))
        values = sample_motion(network, conditions, None, 400, torch.Generator().manual_seed(0))
        assert values.shape == (400, 6, CHANNELS)
        assert abs(float(values.std()) - TEMPERATURE) < 0.05

    def test_error_is_zero_for_the_velocity_of_the_path(self) -> None:
        target, noise = torch.randn(2, 3, CHANNELS), torch.randn(2, 3, CHANNELS)

        class Exact(FlowNetwork):
            def forward(self, values: torch.Tensor, flow_time: torch.Tensor, *_: object) -> torch.Tensor:
                # On the straight path, the rest of the way divided by the rest of the time.
                return (target - values) / (1 - flow_time)[:, None, None]

        network = Exact(FlowConfig(width=8, depth=1, heads=1))
        time = torch.tensor([0.2, 0.7])
        error = flow_matching_error(network, target, noise, time, torch.zeros(2, 3, FEATURES), None)
        assert error.abs().max() < 1e-4

    def test_the_order_of_tracks_does_not_matter(self) -> None:
        network = trained_like(FlowNetwork(FlowConfig(width=16, depth=2, heads=2, token_width=8)))
        values, features, tokens = torch.randn(1, 5, CHANNELS), torch.randn(1, 5, FEATURES), torch.randn(1, 5, 8)
        time, order = torch.tensor([0.4]), torch.tensor([3, 1, 4, 0, 2])
        found = network(values, time, features, tokens)
        torch.testing.assert_close(
            network(values[:, order], time, features[:, order], tokens[:, order]), found[:, order]
        )

    def test_tracks_tokens_and_time_matter(self) -> None:
        network = trained_like(FlowNetwork(FlowConfig(width=16, depth=1, heads=2, token_width=8)))
        values, features, tokens = torch.randn(1, 4, CHANNELS), torch.randn(1, 4, FEATURES), torch.randn(1, 4, 8)
        found = network(values, torch.tensor([0.4]), features, tokens)
        assert (network(values, torch.tensor([0.6]), features, tokens) - found).abs().max() > 1e-4
        assert (network(values, torch.tensor([0.4]), features, None) - found).abs().max() > 1e-4
        other = features.clone()
        other[:, 3] += 1
        assert (network(values, torch.tensor([0.4]), other, tokens) - found)[:, :3].abs().max() > 1e-4


def trained_like(network: FlowNetwork) -> FlowNetwork:
    """Give all weights values, since a new network returns 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_control_points_cover_the_interval() -> None:
    assert bspline_weights(torch.tensor([0.0, SEGMENTS]), SEGMENTS).shape == (2, CONTROLS)
