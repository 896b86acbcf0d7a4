"""Tests of scale and shift of depths: exact methods reach the minimum, published ones equal their formulas."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from recon4d.eval.alignment.depth import (
    DepthAlignment,
    l1_scale_and_shift,
    l1_scale_and_shift_by_adam,
    l1_scale_weiszfeld,
    median_scale,
)

ALL = [median_scale, l1_scale_weiszfeld, l1_scale_and_shift, l1_scale_and_shift_by_adam]


def frozen(count: int = 501, seed: int = 0, shift: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw depths from 1 to 9 and a prediction at half their scale, with an offset and heavy-tailed errors."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(1, 9, count)
    predicted = (true - shift) / 2 * rng.lognormal(0, 0.1, count) + 0.02 * rng.standard_t(2, count)
    return torch.from_numpy(predicted), torch.from_numpy(true)


def total(alignment: DepthAlignment, p: torch.Tensor, g: torch.Tensor) -> float:
    return float((alignment.apply(p.double()) - g.double()).abs().sum())


def smallest_total(p: torch.Tensor, g: torch.Tensor) -> float:
    """Solve least absolute deviations as a linear program: min sum e, -e <= s p + t - g <= e."""
    n = len(p)
    line = np.column_stack([p.double().numpy(), np.ones(n)])
    above, below = np.hstack([line, -np.eye(n)]), np.hstack([-line, -np.eye(n)])
    limits = np.concatenate([g.double().numpy(), -g.double().numpy()])
    costs = np.concatenate([[0, 0], np.ones(n)])
    solved = linprog(costs, np.vstack([above, below]), limits, bounds=[(None, None)] * 2 + [(0, None)] * n)
    assert solved.success
    # The solver satisfies its constraints only to 1e-7, so the sum is evaluated at its line.
    return float(np.abs(line @ solved.x[:2] - g.double().numpy()).sum())


# Exact cases


@pytest.mark.parametrize("align", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truth_against_itself_is_perfect(align, dtype) -> None:
    _, true = frozen()
    found = align(true.to(dtype), true.to(dtype))
    assert (found.scale, found.shift) == (pytest.approx(1, abs=1e-9), pytest.approx(0, abs=1e-8))
    assert found.count == 501


def test_a_known_line_is_found() -> None:
    predicted, _ = frozen()
    found = l1_scale_and_shift(predicted, 3 * predicted - 7)
    assert (found.scale, found.shift) == (pytest.approx(3, rel=1e-9), pytest.approx(-7, rel=1e-8))


def test_the_median_scale_of_four_pixels_computed_by_hand() -> None:
    """The lower medians of P = 1, 2, 3, 4 and G = 3, 4, 9, 4 are 2 and 4."""
    p, g = torch.tensor([1.0, 2, 3, 4]), torch.tensor([3.0, 4, 9, 4])
    assert median_scale(p, g) == DepthAlignment("median scale", 2.0, 0.0, 4)


def test_an_l1_line_through_most_pixels_ignores_outliers() -> None:
    p = torch.tensor([1.0, 2, 3, 4, 5])
    g = torch.tensor([3.0, 5, 7, 100, 11])
    found = l1_scale_and_shift(p, g)
    assert (found.scale, found.shift) == (pytest.approx(2), pytest.approx(1))
    assert found.name == "L1 scale and shift"


def test_apply_scales_and_shifts_maps_of_any_shape() -> None:
    applied = DepthAlignment("by hand", 2.0, -1.0, 1).apply(torch.tensor([[1.0, 0.25]]))
    torch.testing.assert_close(applied, torch.tensor([[1.0, -0.5]]))


# Reference solutions


@pytest.mark.parametrize("seed", range(2))
def test_no_line_has_a_smaller_sum_by_linear_programming(seed: int) -> None:
    p, g = frozen(150 + seed, seed)
    found = l1_scale_and_shift(p, g)
    assert total(found, p, g) <= smallest_total(p, g) * (1 + 1e-9)


# Small integers produce ties, equal pixels and many pixels on one line, at which a descent along edges gets stuck.
pixels = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 6)), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(pixels)
def test_no_line_through_two_pixels_has_a_smaller_sum(given_pixels) -> None:
    p, g = torch.tensor(given_pixels, dtype=torch.float64).T
    sums = [float((g - g.median()).abs().sum())]
    for i in range(len(p)):
        for j in range(i):
            if p[i] != p[j]:
                slope = (g[i] - g[j]) / (p[i] - p[j])
                sums.append(float((slope * (p - p[i]) + g[i] - g).abs().sum()))
    assert total(l1_scale_and_shift(p, g), p, g) <= min(sums) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("scale_p", [1e-6, 1e6])
@pytest.mark.parametrize("offset", [1000.0])
def test_the_minimum_is_found_in_any_unit_and_with_any_offset(scale_p: float, offset: float) -> None:
    p, g = frozen(301)
    least = smallest_total(p, g)
    assert total(l1_scale_and_shift(scale_p * (p + offset), g), scale_p * (p + offset), g) <= least * (1 + 1e-9)


def test_weiszfeld_is_the_published_formula() -> None:
    for count in (10, 501):
        p, g = frozen(count)
        predicted, true = p.numpy(), g.numpy()
        s = np.mean(true) / np.mean(predicted)
        for _ in range(10):
            w = 1 / (np.abs(s * predicted - true) + 1e-8)
            s = np.sum(w * predicted * true) / np.sum(w * predicted**2)
        found = l1_scale_weiszfeld(p, g)
        assert (found.name, found.shift, found.count) == ("L1 scale by Weiszfeld", 0.0, count)
        assert found.scale == pytest.approx(s, rel=1e-12)


def test_the_weiszfeld_scale_is_at_least_a_thousandth() -> None:
    p, g = frozen()
    assert l1_scale_weiszfeld(p * 1e4, g).scale == 1e-3
    assert l1_scale_weiszfeld(-p, g).scale == 1e-3
    assert l1_scale_weiszfeld(p * 1e3, g).scale == pytest.approx(l1_scale_weiszfeld(p, g).scale / 1e3, rel=1e-5)


def adam_by_torch(p: torch.Tensor, g: torch.Tensor) -> tuple[float, float, int]:
    """Compute the published scale and shift with torch's optimizer and gradients, and the number of steps."""
    s = (g.median() / p.median()).clone().requires_grad_()
    t = torch.zeros((), dtype=p.dtype, requires_grad=True)
    adam = torch.optim.Adam([s, t], lr=1e-4)
    losses: list[float] = []
    for _ in range(1000):
        adam.zero_grad()
        loss = torch.sum(torch.abs(s * p + t - g))
        loss.backward()
        adam.step()
        losses.append(loss.item())
        if len(losses) > 1 and abs(losses[-2] - losses[-1]) < 1e-6:
            break
    return s.item(), t.item(), len(losses)


@pytest.mark.parametrize("steps", ["all", "few"])
def test_adam_equals_torch(steps: str) -> None:
    p, g = (
        frozen(200) if steps == "all" else (torch.tensor([1.0, 2, 3.0001]).double(), torch.tensor([1.0, 2, 3]).double())
    )
    scale, shift, taken = adam_by_torch(p, g)
    assert (taken == 1000) == (steps == "all")
    found = l1_scale_and_shift_by_adam(p, g)
    assert (found.scale, found.shift) == (pytest.approx(scale, abs=1e-12), pytest.approx(shift, abs=1e-12))
    assert found.name == "L1 scale and shift by Adam"


def test_adam_stops_when_the_loss_is_constant() -> None:
    """For one pixel at 1 that is predicted at 1, the gradient is always 0."""
    one = torch.ones(1)
    assert l1_scale_and_shift_by_adam(one, one) == DepthAlignment("L1 scale and shift by Adam", 1.0, 0.0, 1)


# Invariances


@pytest.mark.parametrize("align", [median_scale, l1_scale_and_shift])
def test_alignment_is_equivariant_to_units_and_invariant_to_the_order_of_pixels(align) -> None:
    p, g = frozen()
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(0))
    found, changed = align(p, g), align(4 * p[order], 3 * g[order])
    assert changed.scale == pytest.approx(found.scale * 3 / 4, rel=1e-7)
    assert changed.shift == pytest.approx(found.shift * 3, rel=1e-6)


def test_an_offset_of_the_prediction_changes_only_the_shift() -> None:
    p, g = frozen()
    found, changed = l1_scale_and_shift(p, g), l1_scale_and_shift(p + 10, g)
    assert changed.scale == pytest.approx(found.scale, rel=1e-7)
    assert changed.shift == pytest.approx(found.shift - 10 * found.scale, rel=1e-6)


# Degenerate input


def test_equal_predictions_are_only_shifted() -> None:
    p, g = torch.full((4,), 2.0), torch.tensor([1.0, 3.0, 4.0, 12.0])
    assert l1_scale_and_shift(p, g) == DepthAlignment("L1 scale and shift", 1.0, 1.0, 4)
    assert l1_scale_and_shift(p[:1], g[:1]) == DepthAlignment("L1 scale and shift", 1.0, -1.0, 1)


def test_an_anticorrelated_prediction_has_a_negative_scale() -> None:
    _, true = frozen()
    assert l1_scale_and_shift(10 - true, true).scale == pytest.approx(-1)


def test_predictions_without_a_scale_raise_value_errors() -> None:
    true = torch.tensor([1.0, 2.0, 3.0])
    for align in (median_scale, l1_scale_and_shift_by_adam):
        for middle in (0.0, -1.0):
            with pytest.raises(ValueError, match="median of 3 predicted depths is"):
                align(torch.tensor([-2.0, middle, 5.0]), true)
    with pytest.raises(ValueError, match="mean of 3 predicted depths is 0"):
        l1_scale_weiszfeld(torch.tensor([-1.0, 0.0, 1.0]), true)


@pytest.mark.parametrize("align", ALL)
def test_empty_and_non_finite_depths_raise_value_errors(align) -> None:
    with pytest.raises(ValueError, match="0 predicted and 0 true depths"):
        align(torch.zeros(0), torch.zeros(0))
    good, bad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, torch.nan, torch.inf])
    with pytest.raises(ValueError, match="2 of 3 predicted depths are not finite"):
        align(bad, good)
    with pytest.raises(ValueError, match="2 of 3 true depths are not finite"):
        align(good, bad)


@pytest.mark.parametrize("align", [l1_scale_weiszfeld, l1_scale_and_shift, l1_scale_and_shift_by_adam])
def test_400_thousand_pixels_take_at_most_seconds(align) -> None:
    p, g = frozen(400_000)
    start = time.perf_counter()
    found = align(p.float(), g.float())
    assert time.perf_counter() - start < 10  # About half a second on one core.
    assert math.isfinite(found.scale)
