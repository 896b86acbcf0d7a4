"""Terms are sums with counts, and errors of single elements are robust."""

import math

import pytest
import torch

from recon4d.losses import (
    Term,
    masked_term,
    mean,
    merge_terms,
)
from recon4d.losses.errors import confidence_weighted_error, smooth_length

UNKNOWN = (math.nan, math.inf, -math.inf)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestTerms:
    def test_a_mean_over_ranks_is_total_over_count(self) -> None:
        first = masked_term(tensor(1, 2, 3), torch.tensor([True, True, False]))
        second = masked_term(tensor(7), torch.tensor([True]))
        assert (first.total, first.count) == (3, 2)
        assert mean(merge_terms(first, second)).item() == pytest.approx(10 / 3)

    def test_weights_scale_total_and_count(self) -> None:
        term = masked_term(tensor(1, 5), tensor(3, 0.5))
        assert (term.total, term.count) == (5.5, 3.5)
        assert mean(masked_term(tensor(4), tensor(0.5))) == 4

    def test_negative_and_unknown_weights_count_as_zero(self) -> None:
        term = masked_term(tensor(1, 5, 7), tensor(2, -1, math.nan))
        assert (term.total, term.count) == (2, 2)

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_invalid_values_may_be_anything(self, unknown: float) -> None:
        values = tensor(2, unknown).requires_grad_()
        term = masked_term(values, torch.tensor([True, False]))
        mean(term).backward()
        assert term.total == 2
        assert values.grad is not None
        assert values.grad.tolist() == [1, 0]

    def test_no_valid_entries_give_zero_with_zero_gradient(self) -> None:
        values = tensor(2, math.nan).requires_grad_()
        average = mean(masked_term(values, torch.tensor([False, False])))
        average.backward()
        assert average == 0
        assert values.grad is not None
        assert values.grad.tolist() == [0, 0]

    def test_half_types_are_summed_in_single_precision(self) -> None:
        term = masked_term(torch.ones(5000, dtype=torch.bfloat16), torch.ones(5000, dtype=torch.bool))
        assert term.total == 5000
        assert term.total.dtype == torch.float32

    def test_counts_have_no_gradient(self) -> None:
        weights = tensor(1, 2).requires_grad_()
        assert not masked_term(tensor(1, 1), weights).count.requires_grad

    def test_a_term_is_two_scalars(self) -> None:
        assert Term(torch.tensor(1.0), torch.tensor(2.0)).count == 2


class TestErrors:
    def test_smooth_length_is_quadratic_near_zero_and_a_length_far_from_it(self) -> None:
        assert smooth_length(tensor(3, 4), 0.1) == pytest.approx(math.sqrt(25.01) - 0.1)
        assert smooth_length(tensor(1e-6, 0), 1e-2) == pytest.approx(1e-12 / 2e-2)
        zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        smooth_length(zero, 1e-3).backward()
        assert zero.grad is not None
        assert zero.grad.tolist() == [0, 0, 0]

    def test_confidence_scales_the_error_and_is_rewarded(self) -> None:
        assert confidence_weighted_error(tensor(0.5), tensor(3)) == pytest.approx(0.5 + 1.5 - 0.1 * math.log(3))

    def test_the_optimal_confidence_is_a_tenth_divided_by_the_error(self) -> None:
        confidence = torch.linspace(1, 100, 99001, dtype=torch.float64)
        best = confidence_weighted_error(torch.full_like(confidence, 0.004), confidence).argmin()
        assert confidence[best].item() == pytest.approx(25, abs=1e-3)

    def test_confidence_is_bounded(self) -> None:
        huge = tensor(1e8).requires_grad_()
        loss = confidence_weighted_error(tensor(1), huge)
        loss.sum().backward()
        assert loss.item() == pytest.approx(3001 - 0.1 * math.log(3000))
        assert huge.grad == 0
