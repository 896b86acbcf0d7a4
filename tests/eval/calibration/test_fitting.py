"""Curves are fitted to predictors whose errors are a known function of their confidence."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated import CALIBRATION, CURVE

from recon4d.eval.calibration import (
    ConfidenceSamples,
    calibration_error,
    compute_reliability,
    fit_curve,
    fit_power_law,
    loss_implied_curve,
)
from recon4d.eval.calibration.reliability import bin_samples
from recon4d.records import ErrorCurve

SIGMA = 0.8
"""Standard deviation of the logarithm of errors around the median."""


def median_error(confidence: torch.Tensor) -> torch.Tensor:
    """Return a law similar to that of the loss, clamped at 0.3, so that it is not a power law."""
    return torch.minimum(0.05 / (confidence - 1), torch.tensor(0.3))


def predictor(seed: int, count: int = 40_000) -> ConfidenceSamples:
    """Draw confidences of 1 + exp(raw) and errors of a log-normal distribution around `median_error`."""
    generator = torch.Generator().manual_seed(seed)
    raw = 1.5 * torch.randn(count, generator=generator)
    confidence = 1 + raw.exp()
    noise = SIGMA * torch.randn(count, generator=generator)
    return ConfidenceSamples(confidence, median_error(confidence) * noise.exp())


class TestErrorCurve:
    def test_it_is_linear_in_logarithms_between_knots_and_constant_beyond_them(self) -> None:
        confidence = torch.tensor([0.5, 1.0, 10**0.5, 10.0, 50.0, 1e9, math.inf])
        expected = torch.tensor([0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
        torch.testing.assert_close(CURVE.expected_error(confidence), expected)
        one = ErrorCurve((3.0,), (0.2,))
        torch.testing.assert_close(one.expected_error(torch.tensor([[1.0, 9.0]])), torch.tensor([[0.2, 0.2]]))

    def test_unknown_pixels_have_no_expected_error(self) -> None:
        assert CURVE.expected_error(torch.tensor([0.0, math.nan, 1.0])).isnan().tolist() == [True, True, False]
        assert CURVE.fraction_within(torch.tensor([0.0, 100.0]), 0.11) == pytest.approx(2 / 3)
        assert math.isnan(CURVE.fraction_within(torch.zeros(3), 0.1))
        assert math.isnan(CURVE.error_quantile(torch.zeros(3), 0.5))

    def test_the_confidence_at_an_error_is_the_smallest_sufficient_one(self) -> None:
        assert CURVE.confidence_for_error(0.2) == pytest.approx(10**0.5)
        assert CURVE.confidence_for_error(0.1) == pytest.approx(10.0)  # not 100, where the error is the same
        assert CURVE.confidence_for_error(0.099) == math.inf
        everything = CURVE.confidence_for_error(0.4)
        assert (torch.tensor([0.0, 1e-6]) >= everything).tolist() == [False, True]
        for error in (0.35, 0.2, 0.11):
            assert float(CURVE.expected_error(torch.tensor(CURVE.confidence_for_error(error)))) == pytest.approx(error)
        with pytest.raises(ValueError, match=r"error of 0; wanted a fraction"):
            CURVE.confidence_for_error(0)

    def test_fractions_follow_from_the_ratios(self) -> None:
        confidence = torch.tensor([1.0, 100.0])  # errors .18 .4 .76 and .045 .1 .19
        assert CURVE.fraction_within(confidence, 0.15) == pytest.approx(2 / 6)
        assert CURVE.fraction_within(confidence, 0.5) == pytest.approx(5 / 6)
        assert CURVE.error_quantile(confidence, 0.5) == pytest.approx(0.185)
        assert CURVE.error_quantile(confidence, 1.0) == pytest.approx(0.76)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (((), ()), "0 confidences"),
            (((1.0, 2.0), (0.1,)), "2 confidences, 1 errors"),
            (((1.0, 1.0), (0.1, 0.1)), "increasing confidences"),
            (((1.0, 2.0), (0.1, 0.2)), "non-increasing errors"),
            (((1.0, 2.0), (0.1, 0.0)), "finite numbers above 0"),
            (((1.0,), (0.1,), (2.0, 1.0)), "ascending"),
            (((1.0,), (0.1,), ()), "0 ratios"),
        ],
    )
    def test_invalid_curves_are_refused(self, arguments: tuple, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            ErrorCurve(*arguments)


class TestFit:
    def test_it_finds_a_known_law(self) -> None:
        curve = fit_curve(predictor(0))
        middle = bin_samples(predictor(1)).confidence[1:-1].float()
        found, true = curve.expected_error(middle), median_error(middle)
        assert ((found / true).log().abs() < 0.08).all()
        # The ratios are those of a log-normal distribution: 16 % lie below -1 sigma, 84 % below +1.
        ratios = torch.tensor(curve.ratios)
        assert float(ratios.quantile(0.16).log()) == pytest.approx(-SIGMA, abs=0.06)
        assert float(ratios.quantile(0.84).log()) == pytest.approx(SIGMA, abs=0.06)

    def test_it_is_accurate_on_new_data_and_the_simpler_curves_are_not(self) -> None:
        fresh = predictor(1)
        errors = [
            calibration_error(compute_reliability(curve, fresh))
            for curve in (fit_curve(predictor(0)), fit_power_law(predictor(0)), loss_implied_curve())
        ]
        assert errors[0] < 0.03
        assert errors[1] > 0.2
        assert errors[2] > 0.2

    def test_a_power_law_is_recovered(self) -> None:
        confidence = torch.logspace(0, 2, 2000)
        exact = ConfidenceSamples(confidence, 0.1 / confidence)
        power_law = fit_power_law(exact)
        slope = np.diff(np.log(power_law.errors)) / np.diff(np.log(power_law.confidences))
        assert slope == pytest.approx(-1, abs=1e-3)
        assert calibration_error(compute_reliability(power_law, exact)) < 0.01
        assert calibration_error(compute_reliability(loss_implied_curve(), exact)) < 0.01

    def test_rising_errors_are_pooled(self) -> None:
        counts = torch.tensor([20, 20, 60, 20])
        confidence = torch.arange(1, 5).repeat_interleave(counts).float()
        errors = torch.tensor([0.4, 0.1, 0.4, 0.05]).repeat_interleave(counts)
        curve = fit_curve(ConfidenceSamples(confidence, errors))
        assert curve.confidences == (1, 2, 3, 4)
        pooled = 0.1**0.25 * 0.4**0.75  # mean of the logarithms of 20 errors of .1 and 60 of .4
        assert curve.errors == pytest.approx((0.4, pooled, pooled, 0.05), rel=1e-4)

    def test_pooling_continues_backwards_until_errors_fall(self) -> None:
        counts, errors = torch.tensor([20, 10, 20, 60]), torch.tensor([0.4, 0.1, 0.05, 0.3])
        confidence = torch.arange(1, 5).repeat_interleave(counts).float()
        curve = fit_curve(ConfidenceSamples(confidence, errors.repeat_interleave(counts)))
        # Pooling the last two gives .19, which is above the .1 before them.
        pooled = math.exp(float((counts[1:] * errors[1:].log()).sum() / counts[1:].sum()))
        assert curve.errors == pytest.approx((0.4, pooled, pooled, pooled), rel=1e-4)

    def test_a_power_law_weights_bins_by_their_pixels(self) -> None:
        counts, errors = np.array([90, 20, 10]), np.array([0.4, 0.4, 0.1])
        confidences = np.array([1.0, 2.0, 4.0])
        samples = ConfidenceSamples(
            torch.from_numpy(confidences.repeat(counts)).float(), torch.from_numpy(errors.repeat(counts)).float()
        )
        slope, offset = np.polyfit(np.log(confidences), np.log(errors), 1, w=np.sqrt(counts))
        curve = fit_power_law(samples)
        assert curve.confidences == (1, 4)
        assert curve.errors == pytest.approx(np.exp(offset + slope * np.log([1, 4])), rel=1e-4)

    def test_a_single_confidence_is_a_power_law_of_one_knot(self) -> None:
        curve = fit_power_law(ConfidenceSamples(torch.full((50,), 2.0), torch.full((50,), 0.3)))
        assert (curve.confidences, curve.errors) == ((2.0,), pytest.approx((0.3,)))

    def test_a_reversed_confidence_gives_a_constant_curve(self) -> None:
        samples = predictor(0)
        reversed_samples = replace(samples, confidence=1 / samples.confidence)
        for curve in (fit_curve(reversed_samples), fit_power_law(reversed_samples)):
            assert max(curve.errors) == pytest.approx(min(curve.errors))

    def test_bins_have_equal_counts_and_never_split_one_confidence(self) -> None:
        assert bin_samples(predictor(0)).counts.tolist() == [2500] * 16
        bins = bin_samples(ConfidenceSamples(torch.tensor([1.0] * 90 + [2.0] * 10), torch.rand(100)))
        assert bins.counts.tolist() == [90, 10]
        assert fit_curve(ConfidenceSamples(torch.full((50,), 2.0), torch.full((50,), 0.3))).errors == pytest.approx(
            (0.3,)
        )
        with pytest.raises(ValueError, match="there are no samples"):
            fit_curve(ConfidenceSamples(torch.zeros(0), torch.zeros(0)))


def test_a_curve_is_extended_to_higher_confidence() -> None:
    longer = CURVE.extended(1000.0, 0.01)
    assert longer.expected_error(torch.tensor([10.0, 100.0, 1000.0, 5000.0])).tolist() == pytest.approx(
        [0.1, 0.1, 0.01, 0.01]
    )
    assert CURVE.extended(1000.0, 0.5).errors[-1] == 0.1  # never rises
    with pytest.raises(ValueError, match="increasing confidences"):
        CURVE.extended(50.0, 0.01)
    both = CALIBRATION.extended(1000.0, 0.01, "corners")
    assert both.measured_on == "3 worlds; corners"
    assert (both.depth, both.tracks) == (longer, None)
