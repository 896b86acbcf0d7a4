"""Metrics of sampled motion against cases computed by hand and distributions that are known."""

import math

import pytest
import torch

from recon4d.eval.metrics.motion_samples import score_motion
from recon4d.eval.motion_evaluation import constant_velocity, nearest_observation, scored_positions
from recon4d.motion.trajectories import DynamicTracks


def test_two_samples_by_hand() -> None:
    truth = torch.zeros(2, 1, 3)
    samples = torch.tensor([[[[1.0, 0, 0]], [[4.0, 0, 0]]], [[[-2.0, 0, 0]], [[2.0, 0, 0]]]])  # (sample, track, 1, 3)
    scores = score_motion(samples, truth, torch.ones(2, 1, dtype=torch.bool))
    assert scores is not None
    assert scores.best == pytest.approx((1 + 2) / 2)
    assert scores.best_together == pytest.approx((2 + 2) / 2)
    assert scores.mean == pytest.approx((0.5 + 3) / 2)
    assert scores.diversity == pytest.approx((3 + 2) / 2)
    assert scores.energy == pytest.approx(((1.5 - 1.5) + (3 - 1)) / 2)
    assert scores.tracks == 2


def test_a_single_prediction_has_its_error_as_energy_score() -> None:
    truth = torch.randn(5, 4, 3)
    scores = score_motion(truth[None] + torch.tensor([0.0, 3.0, 4.0]), truth, torch.ones(5, 4, dtype=torch.bool))
    assert scores is not None
    assert scores.best == scores.mean == scores.energy == pytest.approx(5)
    assert scores.diversity == 0
    assert math.isnan(scores.within_90)


def test_only_counted_positions_matter() -> None:
    truth = torch.zeros(2, 3, 3)
    samples = torch.full((1, 2, 3, 3), 100.0)
    samples[0, 1, 2] = torch.tensor([2.0, 0, 0])
    is_counted = torch.zeros(2, 3, dtype=torch.bool)
    assert score_motion(samples, truth, is_counted) is None
    is_counted[1, 2] = True
    scores = score_motion(samples, truth, is_counted)
    assert scores is not None
    assert scores.mean == pytest.approx(2)
    assert scores.tracks == 1


def test_intervals_hold_as_often_as_they_say() -> None:
    """Truth and samples of the same normal distribution: the intervals hold for any number of samples."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 1, 3, generator=generator)
    for count in (3, 8):
        samples = torch.randn(count, 20_000, 1, 3, generator=generator)
        scores = score_motion(samples, truth, torch.ones(20_000, 1, dtype=torch.bool))
        assert scores is not None
        assert scores.within_50 == pytest.approx(0.5, abs=0.01)
        assert scores.within_90 == pytest.approx(0.9, abs=0.01)


def test_energy_score_prefers_the_true_distribution() -> None:
    """A proper score: neither too wide nor too narrow a distribution does better."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 1, 3, generator=generator)
    energy = {}
    for factor in (0.5, 1.0, 2.0):
        samples = factor * torch.randn(6, 20_000, 1, 3, generator=generator)
        scores = score_motion(samples, truth, torch.ones(20_000, 1, dtype=torch.bool))
        assert scores is not None
        energy[factor] = scores.energy
    assert energy[1.0] < min(energy[0.5], energy[2.0])
    # E|X - y| - E|X - X'| / 2 of the normal distribution is half the mean distance of two samples.
    assert energy[1.0] == pytest.approx(0.5 * math.sqrt(2) * 2 * math.sqrt(2 / math.pi), rel=0.02)


def test_parts_are_hidden_later_and_static() -> None:
    """Three of four frames are observed; the first point moves and is hidden in frame 1, the second stands still."""
    true = torch.zeros(3, 4, 3)
    true[0, :, 0] = torch.arange(4)
    true[2] = math.nan
    visibility = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]).bool()
    parts = {name: chosen.int().tolist() for name, chosen in scored_positions(true, visibility, 3).items()}
    nothing = [0, 0, 0, 0]
    assert parts == {
        "hidden": [[0, 1, 0, 0], nothing, nothing],
        "later": [[0, 0, 0, 1], nothing, nothing],
        "static": [nothing, [1, 1, 1, 1], nothing],
    }


class TestBaselines:
    TIMES = torch.tensor([0.0, 1.0, 3.0, 4.0])
    """Times of the observations."""

    def tracks(self, weights: list[float]) -> DynamicTracks:
        """Return one track whose x is the square of the time."""
        points = torch.zeros(4, 1, 3)
        points[:, 0, 0] = self.TIMES.square()
        weight = torch.tensor(weights, dtype=torch.float32)[:, None]
        return DynamicTracks(points, weight, weight, torch.zeros(1, dtype=torch.long), torch.zeros(1, 2))

    def test_hold_still(self) -> None:
        wanted = torch.tensor([-1.0, 0.0, 1.9, 2.5, 9.0])
        found = nearest_observation(self.tracks([1, 1, 1, 1]), self.TIMES, wanted)
        assert found[0, :, 0].tolist() == [0, 0, 1, 9, 16]
        found = nearest_observation(self.tracks([0, 1, 0, 0]), self.TIMES, wanted)
        assert found[0, :, 0].tolist() == [1, 1, 1, 1, 1]

    def test_constant_velocity(self) -> None:
        wanted = torch.tensor([-1.0, 0.0, 2.0, 3.0, 5.0])
        found = constant_velocity(self.tracks([1, 1, 1, 1]), self.TIMES, wanted)
        assert found[0, :, 0].tolist() == [-1, 0, 5, 9, 23]
        found = constant_velocity(self.tracks([1, 1, 0, 0]), self.TIMES, wanted)
        assert found[0, :, 0].tolist() == [-1, 0, 2, 3, 5]
        found = constant_velocity(self.tracks([0, 0, 1, 0]), self.TIMES, wanted)
        assert found[0, :, 0].tolist() == [9, 9, 9, 9, 9]
