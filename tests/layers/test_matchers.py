"""Matchers: exact cases, laws of the assignment, agreement with references, and inputs without a match."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from recon4d.layers import (
    Assignment,
    HoughMatcher,
    Matcher,
    NearestMatcher,
    SinkhornMatcher,
    SoftMatcher,
    sinkhorn,
)
from recon4d.layers.matchers.hough import displacement_votes

CELLS = (6, 8)
COUNT = 48
MATCHERS = {
    "soft": SoftMatcher(),
    "sinkhorn": SinkhornMatcher(),
    "nearest": NearestMatcher(),
    "hough": HoughMatcher(),
}
each_matcher = pytest.mark.parametrize("matcher", MATCHERS.values(), ids=MATCHERS)


def scalar(value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit_features(seed: int, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(noise(seed, *shape), dim=-1)


def centers() -> torch.Tensor:
    rows, columns = torch.arange(CELLS[0]), torch.arange(CELLS[1])
    return torch.cartesian_prod(rows, columns).flip(-1).double() + 0.5


def shifted_problem(channels: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query and target features, where each query cell goes, and which cells stay inside."""
    maps = unit_features(0, *CELLS, channels)
    target = unit_features(1, *CELLS, channels)
    target[1:, 2:] = maps[:-1, :-2]  # one row down, two columns right; the rest is new
    true = centers() + torch.tensor([2.0, 1.0])
    inside = (true[:, 0] < CELLS[1]) & (true[:, 1] < CELLS[0])
    return maps.reshape(1, COUNT, channels), target.reshape(1, COUNT, channels), true, inside


class TestEveryMatcher:
    @each_matcher
    def test_a_shifted_image_is_matched_with_its_shift_and_the_rest_is_not(self, matcher: Matcher) -> None:
        query, target, true, inside = shifted_problem()
        found = matcher(30 * query, target, scalar(22.0), CELLS)
        assert_close(found.positions[0, inside], true[inside], atol=0.02, rtol=0)
        assert found.mass[0, inside].min() > 0.9
        assert found.mass[0, ~inside].max() < 0.5

    @each_matcher
    def test_excluded_cells_are_never_matched(self, matcher: Matcher) -> None:
        query, target, true, inside = shifted_problem()
        allowed = (true[:, None] - centers()).norm(dim=-1) > 0.5
        found = matcher(30 * query, target, scalar(22.0), CELLS, allowed[None])
        assert found.mass[0, inside].max() < 0.5

    @each_matcher
    def test_a_restriction_to_the_true_cells_finds_them_among_ambiguous_ones(self, matcher: Matcher) -> None:
        maps = unit_features(0, 6, 1, 32).expand(*CELLS, 32).reshape(1, COUNT, 32)  # all columns look alike
        allowed = torch.eye(COUNT, dtype=torch.bool)[None]
        found = matcher(30 * maps, maps, scalar(20.0), CELLS, allowed)
        assert_close(found.positions[0], centers(), atol=0.02, rtol=0)
        assert found.mass.min() > 0.9
        assert matcher(30 * maps, maps, scalar(20.0), CELLS).mass.max() < 0.9

    @each_matcher
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize(
        "change", ["identical", "zero", "nothing allowed", "one allowed", "large logits", "large dustbin", "one cell"]
    )
    def test_values_and_gradients_are_finite(self, matcher: Matcher, dtype: torch.dtype, change: str) -> None:
        cell_grid = (1, 1) if change == "one cell" else CELLS
        count = math.prod(cell_grid)
        query, target = (unit_features(seed, 1, count, 16).to(dtype) for seed in (0, 1))
        allowed, dustbin = None, torch.tensor(3.0)
        if change == "identical":
            query = target = query[:, :1].expand(-1, count, -1)
        elif change == "zero":
            query, target = 0 * query, 0 * target
        elif change == "nothing allowed":
            allowed = torch.zeros(1, count, count, dtype=torch.bool)
        elif change == "one allowed":
            allowed = torch.zeros(1, count, count, dtype=torch.bool)
            allowed[0, 3, 5] = True
        elif change == "large logits":
            query = 1e4 * query
        elif change == "large dustbin":
            dustbin = torch.tensor(1e6)
        query, target = query.clone().requires_grad_(), target.clone().requires_grad_()
        dustbin.requires_grad_()

        found = matcher(query, target, dustbin, cell_grid, allowed)
        values = [value for value in found if value is not None]
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in values)
        assert (found.mass >= 0).all()
        assert (found.mass <= 1 + 1e-5).all()
        sum(value.sum() for value in values).backward()  # pyright: ignore[reportAttributeAccessIssue]
        for tensor in (query, target, dustbin):
            assert tensor.grad is None or tensor.grad.isfinite().all()
        assert query.grad is not None
        if change in ("identical", "zero", "nothing allowed", "large dustbin"):
            assert found.mass.max() < 0.75
        if change == "nothing allowed":
            assert found.mass.max() == 0
            assert_close(found.positions[0].double(), centers())

    @each_matcher
    def test_log_partition_makes_the_row_of_each_query_cell_sum_to_one(self, matcher: Matcher) -> None:
        query, target = 5 * unit_features(0, 2, COUNT, 8), unit_features(1, 2, COUNT, 8)
        found = matcher(query, target, scalar(2.0), CELLS)
        log_probability = log_probabilities(query, target, found)
        total = log_probability.exp().sum(dim=-1) + (2.0 - found.log_partition).exp()
        assert_close(total, torch.ones_like(total))

    @each_matcher
    def test_clips_of_a_batch_are_independent(self, matcher: Matcher) -> None:
        query, target = 9 * unit_features(0, 2, COUNT, 8), unit_features(1, 2, COUNT, 8)
        both, second = (matcher(query[part], target[part], scalar(2.0), CELLS) for part in (slice(2), slice(1, 2)))
        for value, expected in zip(both, second, strict=True):
            if value is not None:
                assert_close(value[1:], expected)

    @pytest.mark.parametrize("name", ["soft", "sinkhorn", "hough"])
    @pytest.mark.parametrize("is_restricted", [False, True])
    def test_gradients(self, name: str, is_restricted: bool) -> None:
        cell_grid, count = (3, 4), 12
        allowed = None
        if is_restricted:
            allowed = noise(2, 1, count, count) > 0
            allowed[0, 4] = False

        def match(query: torch.Tensor, target: torch.Tensor, dustbin: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = MATCHERS[name](query, target, dustbin, cell_grid, allowed)
            return tuple(value for value in found if value is not None)

        given = 5 * unit_features(0, 1, count, 4), unit_features(1, 1, count, 4), scalar(1.0)
        assert torch.autograd.gradcheck(match, [value.requires_grad_() for value in given], atol=1e-5)


def log_probabilities(query: torch.Tensor, target: torch.Tensor, found: Assignment) -> torch.Tensor:
    """Compute the log probability of all pairs of cells from an assignment, as documented."""
    potentials = 0 if found.target_potentials is None else found.target_potentials[:, None, :]
    return query @ target.transpose(-1, -2) + potentials - found.log_partition[..., None]


class TestSinkhorn:
    @pytest.mark.parametrize("shape", [(9, 9), (7, 12), (12, 7), (1, 5)])
    def test_marginals_hold(self, shape: tuple[int, int]) -> None:
        dustbin = scalar(0.7)
        logits = 3 * noise(0, 2, *shape)
        log_partition, potentials = sinkhorn(logits, dustbin, 300)
        assignment = (logits + potentials[:, None] - log_partition[..., None]).exp()
        row_bins = (dustbin - log_partition).exp()
        assert_close(assignment.sum(dim=2) + row_bins, torch.ones(2, shape[0], dtype=torch.float64))
        # What target cells do not give to query cells is in the dustbin of the query cells.
        column_bins = 1 - assignment.sum(dim=1)
        assert column_bins.min() > 0
        ratio = column_bins / (dustbin + potentials).exp()
        assert_close(ratio, ratio[:, :1].expand_as(ratio))
        corner = ratio[:, 0] * (dustbin + 0.5 * math.log(math.prod(shape))).exp()
        assert_close(column_bins.sum(dim=1) + corner, torch.full((2,), float(shape[1]), dtype=torch.float64))
        assert_close(row_bins.sum(dim=1) + corner, torch.full((2,), float(shape[0]), dtype=torch.float64))

    def test_equals_plain_alternating_normalization(self) -> None:
        logits, dustbin = 2 * noise(0, 6, 5), 0.4
        table = torch.full((7, 6), dustbin, dtype=torch.float64)
        table[:6, :5] = logits
        table[6, 5] += 0.5 * math.log(30)
        table = table.exp()
        rows, columns = torch.ones(7).double(), torch.ones(6).double()
        rows[-1], columns[-1] = 5, 6
        table *= (rows / table.sum(dim=1))[:, None]
        for _ in range(4):
            table *= columns / table.sum(dim=0)
            table *= (rows / table.sum(dim=1))[:, None]
        log_partition, potentials = sinkhorn(logits[None], scalar(dustbin), 4)
        assert_close((logits + potentials[0] - log_partition[0, :, None]).exp(), table[:-1, :-1])
        assert_close((dustbin - log_partition[0]).exp(), table[:-1, -1])

    @pytest.mark.parametrize("seed", range(2))
    def test_equals_the_exact_assignment_at_low_temperature(self, seed: int) -> None:
        similarity = noise(seed, 8, 8)
        rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
        # Rows alone would conflict: at least two query cells prefer the same target cell.
        assert len(set(similarity.argmax(dim=1).tolist())) < 8
        logits = similarity[None] / 0.01
        log_partition, potentials = sinkhorn(logits, scalar(-2000.0), 2000)
        assignment = (logits + potentials[:, None] - log_partition[..., None]).exp()[0]
        assert assignment[rows, columns].min() > 0.95

    def test_without_iterations_it_is_soft_matching(self) -> None:
        query, target = 9 * unit_features(0, 1, COUNT, 8), unit_features(1, 1, COUNT, 8)
        soft = SoftMatcher()(query, target, scalar(2.0), CELLS)
        for value, expected in zip(SinkhornMatcher(0)(query, target, scalar(2.0), CELLS)[:4], soft[:4], strict=True):
            assert_close(value, expected)

    def test_two_query_cells_that_look_alike_share_one_target_cell(self) -> None:
        features = unit_features(0, 1, COUNT, 32)
        query = features.clone()
        query[0, 1] = query[0, 0]
        soft, shared = (
            matcher(40 * query, features, scalar(25.0), CELLS).mass[0]
            for matcher in (SoftMatcher(), SinkhornMatcher(iterations=100))
        )
        assert soft[:2].min() > 0.99
        assert_close(shared[:2], torch.full((2,), 0.5, dtype=torch.float64), atol=0.01, rtol=0)
        assert shared[2:].min() > 0.95

    def test_a_cell_at_the_dustbin_logit_is_undecided_for_any_number_of_cells(self) -> None:
        for count in (4, 64):
            logits = torch.full((1, count, count), -50.0).double()
            logits.diagonal(dim1=1, dim2=2).fill_(1.0)
            log_partition, potentials = sinkhorn(logits, scalar(1.0), 5)
            probability = (1.0 + potentials - log_partition).exp()
            assert_close(probability, torch.full_like(probability, 0.5))

    def test_the_backward_pass_keeps_no_matrix_for_each_iteration(self) -> None:
        logits = noise(0, 1, 30, 30).requires_grad_()

        def stored(iterations: int) -> int:
            """Count the values in all tensors that the backward pass refers to."""
            sizes: dict[int, int] = {}

            def save(value: torch.Tensor) -> torch.Tensor:
                sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // value.itemsize
                return value

            with torch.autograd.graph.saved_tensors_hooks(save, lambda value: value):
                kept = sinkhorn(logits, scalar(0.0), iterations)  # its graph keeps the stored tensors alive
            assert kept[0].requires_grad
            return sum(sizes.values())

        assert stored(20) - stored(10) < 10 * 900


class TestNearest:
    def test_equals_a_loop_over_cells(self) -> None:
        query, target = unit_features(0, 1, COUNT, 4), unit_features(1, 1, COUNT, 4)
        found = NearestMatcher()(query, target, scalar(-9.0), CELLS)
        similarity = query[0] @ target[0].T
        for cell in range(COUNT):
            nearest = int(similarity[cell].argmax())
            is_mutual = int(similarity[:, nearest].argmax()) == cell
            assert found.mass[0, cell] == is_mutual
            assert_close(found.positions[0, cell], centers()[nearest])
        assert 0 < found.mass.sum() < COUNT

    def test_a_match_must_exceed_the_dustbin(self) -> None:
        features = unit_features(0, 1, COUNT, 32)
        assert NearestMatcher()(features, features, scalar(0.99), CELLS).mass.min() == 1
        assert NearestMatcher()(features, features, scalar(1.01), CELLS).mass.max() == 0

    def test_ties_are_no_matches(self) -> None:
        features = unit_features(0, 1, COUNT, 32)
        twice = features.clone()
        twice[0, 7] = features[0, 0]
        for query, target in ((twice, features), (features, twice), (twice, twice)):
            mass = NearestMatcher()(query, target, scalar(0.9), CELLS).mass[0]
            assert mass.nonzero().flatten().tolist() == [cell for cell in range(COUNT) if cell not in (0, 7)]

    def test_its_features_learn_from_the_log_partition(self) -> None:
        query, target = unit_features(0, 1, COUNT, 4).requires_grad_(), unit_features(1, 1, COUNT, 4)
        NearestMatcher()(query, target, scalar(0.0), CELLS).log_partition.sum().backward()
        assert query.grad is not None
        assert query.grad.abs().min() > 0


class TestHough:
    @pytest.mark.parametrize("seed", range(3))
    def test_a_known_displacement_is_found_under_noise(self, seed: int) -> None:
        cell_grid, displacement = (12, 16), (3, -2)
        maps = unit_features(seed, 20, 24, 16)
        query = maps[4:16, 4:20]
        target = maps[4 - displacement[0] : 16 - displacement[0], 4 - displacement[1] : 20 - displacement[1]]
        noisy = [
            torch.nn.functional.normalize(values + 0.18 * noise(10 + seed + k, 12, 16, 16), dim=-1)
            for k, values in enumerate((query, target))
        ]
        query, target = (values.reshape(1, 192, 16) for values in noisy)
        own = torch.cartesian_prod(torch.arange(12), torch.arange(16)).flip(-1).double() + 0.5
        true = own + torch.tensor(displacement[::-1])
        inside = (true > 0).all(dim=-1) & (true[:, 0] < 16) & (true[:, 1] < 12)

        def share_found(matcher: Matcher) -> float:
            positions = matcher(8 * query, target, scalar(2.0), cell_grid).positions[0]
            return float(((positions - true).norm(dim=-1) < 1)[inside].double().mean())

        assert share_found(SoftMatcher()) < 0.7
        assert share_found(HoughMatcher(3)) > 0.95
        assert share_found(HoughMatcher(16)) > 0.95

    @pytest.mark.parametrize("radius", [0, 1, 2, 9])
    def test_votes_equal_a_loop_over_neighbors(self, radius: int) -> None:
        rows, columns = 4, 5
        probability = noise(0, 1, 20, 20).abs()
        volume = probability[0].reshape(rows, columns, rows, columns)

        def support(row: int, column: int, to_row: int, to_column: int) -> float:
            """Sum the probability of a query cell around a target cell, with half the weight for each cell off it."""
            return sum(
                0.5 ** (abs(down) + abs(right)) * float(volume[row, column, to_row + down, to_column + right])
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if 0 <= to_row + down < rows and 0 <= to_column + right < columns
            )

        votes = displacement_votes(probability, (rows, columns), radius)[0].reshape(rows, columns, rows, columns)
        for row, column, to_row, to_column in ((0, 0, 0, 0), (1, 2, 3, 4), (3, 4, 0, 1), (2, 2, 2, 2), (0, 4, 3, 0)):
            votes_of_neighbors = [
                support(row + down, column + right, to_row + down, to_column + right)
                for down in range(-radius, radius + 1)
                for right in range(-radius, radius + 1)
                if 0 <= row + down < rows
                and 0 <= column + right < columns
                and 0 <= to_row + down < rows
                and 0 <= to_column + right < columns
            ]
            expected = sum(votes_of_neighbors) / len(votes_of_neighbors)
            assert float(votes[row, column, to_row, to_column]) == pytest.approx(expected)

    def test_votes_for_a_displacement_and_for_the_dustbin_count_alike(self) -> None:
        logits = torch.full((COUNT, COUNT), -50.0, dtype=torch.float64).fill_diagonal_(math.log(3))
        # Every cell gives 3/4 to its own position and 1/4 to the dustbin, and so do all of its neighbors.
        found = HoughMatcher()(logits[None], torch.eye(COUNT, dtype=torch.float64)[None], scalar(0.0), CELLS)
        assert_close(found.mass, torch.full_like(found.mass, 9 / (9 + 1)), atol=1e-4, rtol=0)

    def test_neighbors_without_a_match_vote_for_the_dustbin(self) -> None:
        query, target = unit_features(0, 1, COUNT, 32), unit_features(1, 1, COUNT, 32)
        target[0, 20] = query[0, 20]  # one cell matches, by chance; nothing around it does
        arguments = (30 * query, target, scalar(28.0), CELLS)
        assert SoftMatcher()(*arguments).mass[0, 20] > 0.8
        assert HoughMatcher()(*arguments).mass[0, 20] < 0.3


def test_the_window_leaves_out_a_distant_second_peak() -> None:
    features = unit_features(0, 1, COUNT, 32)
    target = features.clone()
    target[0, 47] = features[0, 0]
    matchers: list[Callable[..., Assignment]] = [SoftMatcher(), SinkhornMatcher(), HoughMatcher()]
    for matcher in matchers:
        position = matcher(40 * features, target, scalar(0.0), CELLS).positions[0, 0]
        assert_close(position, torch.tensor([0.5, 0.5], dtype=torch.float64), atol=0.01, rtol=0)
