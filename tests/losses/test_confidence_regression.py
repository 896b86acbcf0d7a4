"""Regression under confidence, as published, with its quantile and image gradients."""

import math

import pytest
import torch
from loss_inputs import assert_no_effect, corrupt_invalid, everywhere, noise

from recon4d.geometry import pixel_grid
from recon4d.losses.confidence_regression import (
    below_quantile,
    confidence_terms,
    confidence_weighted,
    filtered_term,
    gradient_terms,
    residual_norms,
)
from recon4d.losses.term import mean

# Confidence regression.


def test_confidence_terms_by_hand() -> None:
    true = torch.zeros(2, 2)
    predicted = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # distances 5 and 1
    terms = confidence_terms(predicted, true, torch.tensor([2.0, math.e]), everywhere(2))
    torch.testing.assert_close(terms.plain.total, torch.tensor(6.0))
    torch.testing.assert_close(terms.weighted.total, torch.tensor(2 * 5 - 0.2 * math.log(2) + math.e - 0.2))
    assert terms.plain.count == 2
    assert terms.weighted.count == 2


def test_the_optimal_confidence_is_a_fifth_divided_by_the_residual() -> None:
    residual = torch.tensor([0.01, 0.1], dtype=torch.float64)
    best = (0.2 / residual).requires_grad_()
    (slope,) = torch.autograd.grad(confidence_weighted(residual, best).sum(), best)
    torch.testing.assert_close(slope, torch.zeros(2, dtype=torch.float64))
    for factor in (0.9, 1.1):
        assert (confidence_weighted(residual, factor * best) > confidence_weighted(residual, best)).all()


def test_equal_values_have_neither_residual_nor_gradient() -> None:
    predicted = noise(5, 3).requires_grad_()
    residuals = residual_norms(predicted, predicted.detach(), everywhere(5))
    assert (residuals == 0).all()
    assert (torch.autograd.grad(residuals.sum(), predicted)[0] == 0).all()


def test_confidence_gradients_equal_finite_differences() -> None:
    valid = torch.tensor([True, True, False, True])

    def loss(predicted: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
        terms = confidence_terms(predicted, noise(4, 3, seed=1), confidence, valid)
        return mean(terms.weighted) + mean(terms.plain)

    assert torch.autograd.gradcheck(loss, (noise(4, 3).requires_grad_(), (1 + noise(4).exp()).requires_grad_()))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_invalid_elements_have_no_effect_on_regression(wrong: float) -> None:
    predicted, confidence = noise(4, 5, 3).requires_grad_(), (1 + noise(4, 5).exp()).requires_grad_()
    true = noise(4, 5, 3, seed=1)
    valid = everywhere(4, 5)
    valid[1, 2] = valid[3, 0] = False
    corrupted = corrupt_invalid(predicted, true, valid, wrong)
    corrupted_confidence = torch.where(valid, confidence, wrong)
    for clean, dirty in zip(
        [
            *confidence_terms(predicted, true, confidence, valid),
            *gradient_terms(predicted, true, valid, confidence),
        ],
        [
            *confidence_terms(*corrupted, corrupted_confidence, valid),
            *gradient_terms(*corrupted, valid, corrupted_confidence),
        ],
        strict=True,
    ):
        torch.testing.assert_close(dirty.total, clean.total)
        torch.testing.assert_close(dirty.count, clean.count)
        for gradient in torch.autograd.grad(dirty.total, (predicted, confidence), allow_unused=True, retain_graph=True):
            assert gradient is None or gradient.isfinite().all()

    nothing = torch.zeros_like(valid)
    bad = torch.full_like(true, wrong).requires_grad_()
    bad_confidence = torch.full_like(confidence, wrong).requires_grad_()
    assert_no_effect(confidence_terms(bad, true, bad_confidence, nothing), bad, bad_confidence)
    assert_no_effect(gradient_terms(bad, true, nothing, bad_confidence), bad, bad_confidence)


def test_the_largest_two_percent_are_left_out() -> None:
    values = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).double().reshape(40, 50) / 100
    valid = everywhere(40, 50)
    kept = below_quantile(values, valid)
    assert torch.equal(kept, values < torch.quantile(values, 0.98))
    assert kept.sum() == 1960
    valid[:, :20] = False
    kept = below_quantile(values, valid)
    assert torch.equal(kept, valid & (values < torch.quantile(values[valid], 0.98)))
    assert filtered_term(values, valid).count == kept.sum()


def test_the_quantile_lies_between_two_values() -> None:
    values = torch.arange(1500, dtype=torch.float64)
    # Rank .98 * 1499 = 1469.02: the quantile is above 1469 and below 1470.
    assert below_quantile(values, everywhere(1500)).sum() == 1470


def test_few_elements_and_equal_elements_are_all_kept() -> None:
    assert below_quantile(noise(1000), everywhere(1000)).all()
    assert below_quantile(noise(1020), everywhere(1020)).all()  # 1000 would be left, which is too few
    assert below_quantile(noise(1100), everywhere(1100)).sum() < 1100
    assert below_quantile(torch.ones(3000), everywhere(3000)).all()


def test_elements_are_clamped_to_100() -> None:
    values = torch.tensor([1e6, 1.0, 99.0]).requires_grad_()
    term = filtered_term(values, everywhere(3))
    assert term.total == 200
    assert torch.autograd.grad(term.total, values)[0].tolist() == [0, 1, 1]


def test_image_gradients_by_hand() -> None:
    # An error of x + 10 y: a step right costs 1 per pixel, a step down 10, at scale k 2^k times as much.
    grid = pixel_grid(8, 16, dtype=torch.float64)
    true = noise(8, 16, 1)
    predicted = true + (grid[..., :1] + 10 * grid[..., 1:])
    terms = gradient_terms(predicted, true, everywhere(8, 16))
    for scale, term in enumerate(terms):
        step = 2**scale
        rows, columns = 8 // step, 16 // step
        assert term.count == rows * columns
        expected = step * (rows * (columns - 1) + 10 * (rows - 1) * columns)
        torch.testing.assert_close(term.total, torch.tensor(expected, dtype=torch.float64))
    assert len(terms) == 4


def test_image_gradients_ignore_offsets_and_average_channels() -> None:
    predicted, true = noise(2, 8, 9, 3), noise(2, 8, 9, 3, seed=1)
    valid = everywhere(2, 8, 9)
    plain = gradient_terms(predicted, true, valid)
    shifted = gradient_terms(predicted + 5, true, valid)
    channels = [gradient_terms(predicted[..., c : c + 1], true[..., c : c + 1], valid) for c in range(3)]
    for scale in range(4):
        torch.testing.assert_close(plain[scale].total, shifted[scale].total)
        average = torch.stack([terms[scale].total for terms in channels]).mean()
        torch.testing.assert_close(plain[scale].total, average)


def test_image_gradients_need_both_neighbors_and_are_bounded() -> None:
    error = torch.tensor([[0.0, 1.0, 3.0, 1000.0]], dtype=torch.float64)[..., None]
    valid = torch.tensor([[True, True, True, True]])
    true = torch.zeros_like(error)
    assert gradient_terms(error, true, valid)[0].total == 1 + 2 + 100
    valid = torch.tensor([[True, False, True, True]])
    term = gradient_terms(error, true, valid)[0]
    assert term.total == 100
    assert term.count == 3


def test_image_gradients_under_confidence_are_weighted_by_the_later_pixel() -> None:
    error = torch.tensor([[0.0, 1.0], [4.0, 0.0]], dtype=torch.float64)[..., None]
    confidence = torch.tensor([[7.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    total = gradient_terms(error, torch.zeros_like(error), everywhere(2, 2), confidence)[0].total
    weighted = [2 * 1, 5 * 4, 3 * 4, 5 * 1]
    logs = [2.0, 5.0, 3.0, 5.0]
    torch.testing.assert_close(total.item(), sum(weighted) - 0.2 * sum(map(math.log, logs)))
