"""Matching layer: soft matching against a plain implementation, neighbors in time, and the choice of matchers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from recon4d.errors import UserError
from recon4d.layers import (
    AssignmentKind,
    HoughMatcher,
    Matcher,
    Matching,
    MatchingConfig,
    NearestMatcher,
    SinkhornMatcher,
    SoftMatcher,
    cell_centers,
    cells_to_patch_tokens,
    soft_match,
)
from recon4d.layers.matching import temporal_neighbors

GRID = (3, 4)
CELLS = (6, 8)


def unit_features(seed: int, *shape: int) -> torch.Tensor:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(features, dim=-1)


def plain_match(query: torch.Tensor, target: torch.Tensor, dustbin_logit: float) -> tuple[torch.Tensor, ...]:
    """Match one query cell at a time, with the window as a mask over all cells."""
    positions, masses, deviations = [], [], []
    centers = cell_centers(GRID, 1.0, query)
    for feature in query:
        logits = torch.cat([target @ feature, torch.tensor([dustbin_logit], dtype=query.dtype)])
        probability = torch.softmax(logits, dim=0)[:-1]
        in_window = ((centers - centers[probability.argmax()]).abs() <= 2).all(dim=-1)
        weight = probability * in_window
        masses.append(weight.sum())
        positions.append((weight[:, None] * centers).sum(dim=0) / weight.sum())
        deviations.append((weight @ (centers - positions[-1]).square().sum(dim=-1) / weight.sum() + 1e-4).sqrt())
    return torch.stack(positions), torch.stack(masses), torch.stack(deviations)


class TestSoftMatch:
    def test_equals_the_plain_implementation(self) -> None:
        query, target = 9 * unit_features(0, 48, 8), unit_features(1, 48, 8)
        dustbin_logit = torch.tensor(2.0, dtype=torch.float64)
        position, mass, deviation, _ = soft_match(query[None], target[None], dustbin_logit, CELLS)
        for given, expected in zip((position, mass, deviation), plain_match(query, target, 2.0), strict=True):
            torch.testing.assert_close(given[0], expected)

    def test_a_shifted_image_is_matched_with_its_shift(self) -> None:
        maps = unit_features(0, *CELLS, 32)
        target = maps.roll((1, 2), dims=(0, 1))
        position, mass, _, _ = soft_match(
            40 * maps.reshape(1, 48, 32), target.reshape(1, 48, 32), torch.tensor(0.0, dtype=torch.float64), CELLS
        )
        shift = (position[0] - cell_centers(GRID, 1.0, position)).reshape(*CELLS, 2)
        # The last row and columns wrapped around the border.
        torch.testing.assert_close(
            shift[:-1, :-2], torch.tensor([2.0, 1.0], dtype=torch.float64).expand(5, 6, 2), atol=1e-3, rtol=0
        )
        assert mass.min() > 0.99

    def test_a_large_dustbin_logit_takes_all_probability(self) -> None:
        query, target = unit_features(0, 1, 48, 8), unit_features(1, 1, 48, 8)
        _, mass, _, log_partition = soft_match(query, target, torch.tensor(50.0, dtype=torch.float64), CELLS)
        assert mass.max() < 1e-6
        torch.testing.assert_close(log_partition, torch.full_like(log_partition, 50.0))

    def test_gradients(self) -> None:
        query, target = 5 * unit_features(0, 1, 48, 4), unit_features(1, 1, 48, 4)
        dustbin_logit = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda q, t, b: soft_match(q, t, b, CELLS),
            (query.requires_grad_(), target.requires_grad_(), dustbin_logit),
            atol=1e-5,
        )


class TestTemporalNeighbors:
    def test_previous_and_next_follow_time_and_first_is_index_zero(self) -> None:
        targets, valid = temporal_neighbors(torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
        # The order of the frames in time is 1, 3, 0, 2.
        assert targets[0].tolist() == [[0, 3, 2], [0, 1, 3], [0, 0, 2], [0, 1, 0]]
        assert valid[0].tolist() == [
            [False, True, True],
            [True, False, True],
            [True, True, False],
            [True, True, True],
        ]

    def test_photos_without_times_have_only_the_first_neighbor(self) -> None:
        _, valid = temporal_neighbors(torch.full((1, 3), torch.nan))
        assert valid[0].tolist() == [[False] * 3, [True, False, False], [True, False, False]]

    def test_a_frame_without_a_time_is_skipped(self) -> None:
        targets, valid = temporal_neighbors(torch.tensor([[0.0, torch.nan, 1.0]]))
        assert targets[0, 0, 2] == 2
        assert targets[0, 2, 1] == 0
        assert valid[0].tolist() == [[False, False, True], [True, False, False], [True, True, False]]

    def test_clips_of_a_batch_are_ordered_separately(self) -> None:
        times = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])
        _, valid = temporal_neighbors(times)
        assert valid[:, 0, 2].tolist() == [True, False]

    def test_one_frame_has_no_neighbor(self) -> None:
        assert not temporal_neighbors(torch.zeros(1, 1))[1].any()


class TestMatching:
    @pytest.fixture
    def matching(self) -> Matching:
        torch.manual_seed(0)
        layer = Matching(MatchingConfig(channels=8), width=16, patch_size=16, eighth_channels=0).double()
        layer.reset_parameters()
        return layer

    def test_matches_of_invalid_pairs_are_zero(self, matching: Matching) -> None:
        features = unit_features(0, 1, 2, 48, 8)
        frames = torch.tensor([[0, 1]])
        matches = matching.match(features, frames, frames.flip(1), torch.tensor([[True, False]]), GRID)
        assert matches.mass[0, 0].min() > 0
        for values in (
            matches.positions,
            matches.mass,
            matches.standard_deviation,
            matching.flow_features(matches, GRID),
        ):
            assert (values[0, 1] == 0).all()

    def test_positions_are_in_pixels(self, matching: Matching) -> None:
        features = unit_features(0, 1, 1, 48, 8)
        with torch.no_grad():
            matching.log_temperature.fill_(-5.0)
        frame = torch.zeros(1, 1, dtype=torch.long)
        matches = matching.match(features, frame, frame, torch.ones(1, 1, dtype=torch.bool), GRID)
        centers = cell_centers(GRID, 8.0, features)
        torch.testing.assert_close(matches.positions[0, 0], centers, atol=1e-3, rtol=0)
        assert centers[0].tolist() == [4.0, 4.0]
        assert centers[-1].tolist() == [60.0, 44.0]
        flow = matching.flow_features(matches, GRID)[0, 0, :, :2]
        torch.testing.assert_close(flow, torch.zeros_like(flow), atol=1e-4, rtol=0)

    def test_flow_is_in_eighths_of_the_image_side_and_deviation_in_cells(self, matching: Matching) -> None:
        features = unit_features(0, 1, 1, 48, 8)
        frame = torch.zeros(1, 1, dtype=torch.long)
        matches = matching.match(features, frame, frame, torch.ones(1, 1, dtype=torch.bool), GRID)
        moved = replace(matches, positions=cell_centers(GRID, 8.0, features)[None, None] + torch.tensor([5.0, -3.0]))
        flow = matching.flow_features(moved, GRID)[0, 0]
        side = (48 * 64) ** 0.5
        torch.testing.assert_close(flow[:, 0], torch.full((48,), 5 * 8 / side, dtype=torch.float64))
        torch.testing.assert_close(flow[:, 1], torch.full((48,), -3 * 8 / side, dtype=torch.float64))
        torch.testing.assert_close(flow[:, 2], matches.mass[0, 0])
        torch.testing.assert_close(flow[:, 3] * 8, matches.standard_deviation[0, 0])

    def test_chunks_do_not_change_the_result(self, matching: Matching, monkeypatch: pytest.MonkeyPatch) -> None:
        features = unit_features(0, 2, 3, 48, 8)
        targets, valid = temporal_neighbors(torch.arange(3.0).expand(2, 3))
        queries = torch.arange(3)[:, None].expand_as(targets)
        arguments = (features, queries.flatten(1), targets.flatten(1), valid.flatten(1), GRID)
        whole = matching.match(*arguments)
        monkeypatch.setattr("recon4d.layers.matching.MAX_LOGITS", 48**2)
        chunked = matching.match(*arguments)
        torch.testing.assert_close(chunked.positions, whole.positions)
        torch.testing.assert_close(chunked.log_partition, whole.log_partition)

    @pytest.mark.parametrize(
        ("assignment", "matcher"),
        [
            ("soft", SoftMatcher()),
            ("sinkhorn", SinkhornMatcher(4)),
            ("nearest", NearestMatcher()),
            ("hough", HoughMatcher(1)),
        ],
    )
    def test_the_configuration_selects_the_matcher(self, assignment: AssignmentKind, matcher: Matcher) -> None:
        config = MatchingConfig(channels=8, assignment=assignment, sinkhorn_iterations=4, hough_radius=1)
        layer = Matching(config, width=16, patch_size=16, eighth_channels=0).double()
        features = unit_features(0, 2, 3, 48, 8)
        frames = torch.tensor([[0, 1], [2, 0]])
        valid = torch.tensor([[True, True], [True, False]])
        matches = layer.match(features, frames, frames.flip(1), valid, GRID)
        scale = torch.exp(-layer.log_temperature)
        expected = matcher(scale * features[0, :1], features[0, 1:2], layer.no_match, CELLS)
        torch.testing.assert_close(matches.positions[0, 0], expected.positions[0] * 8)
        torch.testing.assert_close(matches.mass[0, 0], expected.mass[0])
        torch.testing.assert_close(matches.log_partition[0, 0], expected.log_partition[0])
        if expected.target_potentials is None:
            assert matches.target_potentials is None
        else:
            assert matches.target_potentials is not None
            torch.testing.assert_close(matches.target_potentials[0, 0], expected.target_potentials[0])
            assert (matches.target_potentials[1, 1] == 0).all()
        assert (matches.positions[1, 1] == 0).all()

    def test_the_default_is_soft_matching_and_parameters_do_not_depend_on_the_choice(self) -> None:
        assert MatchingConfig().assignment == "soft"
        assert MatchingConfig().epipolar_width is None
        layers = [
            Matching(MatchingConfig(channels=8, assignment=assignment, epipolar_width=2.0), 16, 16, 0)
            for assignment in ("soft", "sinkhorn", "nearest", "hough")
        ]
        assert len({tuple((name, value.shape) for name, value in layer.state_dict().items()) for layer in layers}) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sinkhorn_iterations": -1}, r"sinkhorn_iterations \(-1\) and hough_radius \(3\) must not be negative"),
            ({"hough_radius": -2}, r"hough_radius \(-2\) must not be negative"),
            ({"epipolar_width": 0.5}, "epipolar_width is 0.5 cells, wanted at least 0.71"),
            ({"epipolar_width": float("nan")}, "epipolar_width is nan cells"),
        ],
    )
    def test_values_out_of_range_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            MatchingConfig(**options)

    def test_an_unknown_assignment_is_refused(self) -> None:
        config = MatchingConfig()
        object.__setattr__(config, "assignment", "hungarian")  # the type checker of the tests would be first
        with pytest.raises(UserError, match="assignment is 'hungarian', wanted one of soft, sinkhorn, nearest, hough"):
            config.__post_init__()

    def test_cells_are_grouped_by_patch(self) -> None:
        by_patch = cells_to_patch_tokens(cell_centers(GRID, 8.0, torch.zeros(0))[None], GRID)[0].unflatten(-1, (4, 2))
        assert by_patch.shape == (12, 4, 2)
        for patch, cells in enumerate(by_patch):
            center = torch.tensor([16.0 * (patch % 4) + 8, 16.0 * (patch // 4) + 8])
            assert ((cells - center).abs() == 4).all()
