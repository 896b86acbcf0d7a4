"""Losses of matching: true positions of cells in other frames, and the likelihood of matches."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import make_scene
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from recon4d.datasets.synthetic import (
    Lattice,
    SyntheticConfig,
    make_scenes,
    render_scenes,
)
from recon4d.layers import (
    AssignmentKind,
    Matches,
    Matching,
    MatchingConfig,
    cell_centers,
    sinkhorn,
)
from recon4d.losses import (
    TrueMatches,
    matching_terms,
    mean,
    true_matches,
)
from recon4d.records import Cameras, Scene

GRID, CELL = (3, 4), 2.0

PATCHES = (2, 3)

COUNT = 24


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1)


class Problem:
    """Two clips of three frames with four pairs; the third pair is invalid, the fourth is a frame with itself."""

    def __init__(self, assignment: AssignmentKind = "soft", epipolar_width: float | None = None) -> None:
        config = MatchingConfig(
            channels=5, temperature=0.3, dustbin_logit=1.5, assignment=assignment, epipolar_width=epipolar_width
        )
        self.matching = Matching(config, width=8, patch_size=4, eighth_channels=0).double()
        self.queries, self.targets = (
            torch.tensor([[0, 2, 1, 1], [1, 0, 2, 2]]),
            torch.tensor([[1, 0, 2, 1], [2, 2, 2, 2]]),
        )
        self.valid = torch.tensor([[True, True, False, True], [True, True, False, True]])
        self.features = unit(noise(2, 3, COUNT, 5))
        generator = torch.Generator().manual_seed(1)
        state = torch.randint(0, 3, (2, 4, COUNT), generator=generator)
        inside = torch.rand(2, 4, COUNT, 2, generator=generator, dtype=torch.float64)
        self.truth = TrueMatches(
            inside * torch.tensor([12.0, 8.0]), state == 0, state == 1, torch.zeros_like(state == 0)
        )

    def match(self, features: torch.Tensor) -> Matches:
        return self.matching.match(features, self.queries, self.targets, self.valid, PATCHES)

    def log_probabilities(self, clip: int, pair: int) -> torch.Tensor:
        """Compute the log softmax over all target cells and the dustbin by its definition."""
        query, target = self.features[clip, self.queries[clip, pair]], self.features[clip, self.targets[clip, pair]]
        logits = query @ target.T * torch.exp(-self.matching.log_temperature)
        bins = self.matching.no_match.expand(COUNT, 1)
        return torch.cat([logits, bins], dim=-1).log_softmax(dim=-1)


def bilinear(position: torch.Tensor) -> torch.Tensor:
    """Return the bilinear weights of all 4 x 6 cells of two pixels for a position in pixels, constant at the border."""
    centers = cell_centers(PATCHES, 2.0, torch.zeros((), dtype=torch.float64))
    held = torch.stack([position[0].clamp(1, 11), position[1].clamp(1, 7)])
    return (1 - (centers - held).abs() / 2).clamp(min=0).prod(dim=-1)


class TestMatchingTerms:
    def test_cross_entropy_is_of_the_four_cells_about_the_true_position(self) -> None:
        problem = Problem()
        term = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        ).cross_entropy
        losses = [
            -(
                bilinear(problem.truth.positions[clip, pair, cell]) * problem.log_probabilities(clip, pair)[cell, :-1]
            ).sum()
            for clip in range(2)
            for pair in range(2)
            for cell in problem.truth.has_match[clip, pair].nonzero().flatten().tolist()
        ]
        assert term.count == len(losses)
        assert_close(term.total, torch.stack(losses).sum())

    def test_cells_that_move_may_weigh_more(self) -> None:
        problem = Problem()
        dynamic = torch.zeros_like(problem.truth.has_match)
        dynamic[:, :, ::3] = True
        parts = {}
        for name, has_match in (("all", True), ("moving", dynamic), ("still", ~dynamic)):
            truth = replace(problem.truth, has_match=problem.truth.has_match & has_match, is_dynamic=dynamic)
            weight = 5.0 if name == "all" else 1.0
            matches = problem.match(problem.features)
            parts[name] = matching_terms(matches, problem.features, problem.matching, truth, PATCHES, weight)
        for term in ("cross_entropy", "position"):
            whole, moving, still = (getattr(parts[name], term) for name in ("all", "moving", "still"))
            assert_close(whole.total, 5 * moving.total + still.total)
            assert whole.count == 5 * moving.count + still.count

    def test_dustbin_loss_is_the_negative_log_probability_of_the_dustbin(self) -> None:
        problem = Problem()
        term = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        ).dustbin
        losses = [
            -problem.log_probabilities(clip, pair)[problem.truth.is_unmatched[clip, pair], -1]
            for clip in range(2)
            for pair in range(2)
        ]
        assert term.count == len(torch.cat(losses))
        assert_close(term.total, torch.cat(losses).sum())

    def test_position_is_the_distance_in_cells_up_to_three(self) -> None:
        problem = Problem()
        matches = problem.match(problem.features)
        positions = problem.truth.positions.clone()
        positions[0, 0, 0], seen = (
            matches.positions[0, 0, 0] + torch.tensor([3.0, -4.0]),
            torch.zeros(2, 4, COUNT).bool(),
        )
        positions[0, 0, 1] = matches.positions[0, 0, 1] + 100
        seen[0, 0, :2] = True
        truth = TrueMatches(positions, seen, ~seen, torch.zeros_like(seen))
        term = matching_terms(matches, problem.features, problem.matching, truth, PATCHES).position
        assert term.count == 2
        assert term.total.item() == pytest.approx(2.5 + 3, abs=2e-3)
        exact = replace(truth, positions=matches.positions.detach())
        assert mean(matching_terms(matches, problem.features, problem.matching, exact, PATCHES).position) == 0

    def test_the_true_match_costs_least(self) -> None:
        problem = Problem()
        features = unit(noise(1, 1, COUNT, 64)).expand(2, 3, COUNT, 64)
        matches = problem.match(features)
        cells = cell_centers(PATCHES, 2.0, features).expand(2, 4, COUNT, 2)
        seen = torch.ones(2, 4, COUNT, dtype=torch.bool)

        def cost(shift: float) -> float:
            truth = TrueMatches(cells + shift * torch.tensor([1.0, 0.0]), seen, ~seen, torch.zeros_like(seen))
            return mean(matching_terms(matches, features, problem.matching, truth, PATCHES).cross_entropy).item()

        assert cost(0) < min(cost(-1), cost(1), cost(-2), cost(2))

    def test_invalid_pairs_and_pairs_of_equal_frames_have_no_loss(self) -> None:
        problem = Problem()
        seen = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        seen[:, 2:] = True
        for truth in (
            replace(problem.truth, has_match=seen, is_unmatched=~seen & False),
            replace(problem.truth, has_match=~seen & False, is_unmatched=seen),
        ):
            terms = matching_terms(problem.match(problem.features), problem.features, problem.matching, truth, PATCHES)
            assert [term.count.item() for term in terms] == [0, 0, 0]

    def test_without_known_cells_the_loss_is_zero_with_a_gradient(self) -> None:
        problem = Problem()
        features = problem.features.clone().requires_grad_()
        matches = problem.match(features)
        matches = replace(
            matches, positions=matches.positions * math.nan, log_partition=matches.log_partition * math.inf
        )
        nothing = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        truth = TrueMatches(problem.truth.positions * math.nan, nothing, nothing, nothing)
        terms = matching_terms(matches, features, problem.matching, truth, PATCHES)
        for term in terms:
            assert mean(term) == 0
            assert mean(term).requires_grad

    def test_unknown_positions_have_neither_loss_nor_gradient(self) -> None:
        problem = Problem()
        features = problem.features.clone().requires_grad_()
        unknown = torch.where(problem.truth.has_match[..., None], problem.truth.positions, math.nan)
        terms = matching_terms(
            problem.match(features), features, problem.matching, replace(problem.truth, positions=unknown), PATCHES
        )
        torch.stack([mean(term) for term in terms]).sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()
        assert features.grad.abs().max() > 0

    def test_temperature_and_dustbin_have_gradients(self) -> None:
        problem = Problem()
        terms = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        )
        for parameter in (problem.matching.log_temperature, problem.matching.no_match):
            gradients = [torch.autograd.grad(mean(term), parameter, retain_graph=True)[0] for term in terms[:2]]
            assert all(gradient.abs() > 1e-4 for gradient in gradients)

    def test_sinkhorn_is_scored_by_its_own_probabilities(self) -> None:
        problem = Problem("sinkhorn")
        scale, dustbin = torch.exp(-problem.matching.log_temperature), problem.matching.no_match
        terms = matching_terms(
            problem.match(problem.features), problem.features, problem.matching, problem.truth, PATCHES
        )
        matched, unmatched = [], []
        for clip in range(2):
            for pair in range(2):
                query, target = (
                    problem.features[clip, frames[clip, pair]] for frames in (problem.queries, problem.targets)
                )
                logits = scale * query @ target.T
                log_partition, potentials = (values[0] for values in sinkhorn(logits[None], dustbin, 5))
                log_probability = logits + potentials - log_partition[:, None]
                for cell in problem.truth.has_match[clip, pair].nonzero().flatten().tolist():
                    weights = bilinear(problem.truth.positions[clip, pair, cell])
                    matched.append(-(weights * log_probability[cell]).sum())
                unmatched.append((log_partition - dustbin)[problem.truth.is_unmatched[clip, pair]])
        assert_close(terms.cross_entropy.total, torch.stack(matched).sum())
        assert_close(terms.dustbin.total, torch.cat(unmatched).sum())
        soft = Problem()
        other = matching_terms(soft.match(soft.features), soft.features, soft.matching, soft.truth, PATCHES)
        assert (other.cross_entropy.total - terms.cross_entropy.total).abs() > 0.01

    @pytest.mark.parametrize("assignment", ["soft", "sinkhorn", "nearest", "hough"])
    def test_features_learn_to_match_with_every_assignment(self, assignment: AssignmentKind) -> None:
        problem = Problem(assignment)
        cells = cell_centers(PATCHES, 2.0, problem.features).expand(2, 4, COUNT, 2)
        seen = torch.rand(2, 4, COUNT, generator=torch.Generator().manual_seed(3)) > 0.3
        truth = TrueMatches(cells, seen, ~seen, torch.zeros_like(seen))
        raw = noise(2, 3, COUNT, 5).requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=0.05)
        losses = []
        for _ in range(15):
            features = unit(raw)
            terms = matching_terms(problem.match(features), features, problem.matching, truth, PATCHES)
            loss = torch.stack([mean(term) for term in terms]).sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            assert raw.grad is not None
            assert raw.grad.isfinite().all()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0]

    def test_a_true_match_that_the_epipolar_filter_excludes_gains_nothing_beyond_certainty(self) -> None:
        problem = Problem(epipolar_width=1.0)
        # The camera moves sideways, so matches stay in their rows; but everything moves down by two rows.
        world_from_cam = torch.eye(4, dtype=torch.float64).repeat(2, 3, 1, 1)
        world_from_cam[:, :, 0, 3] = torch.arange(3)
        intrinsics = torch.tensor([[9.0, 0.0, 6.0], [0.0, 9.0, 4.0], [0.0, 0.0, 1.0]]).double().expand(2, 3, 3, 3)
        two_view = problem.matching.two_view_filter(Cameras(world_from_cam, intrinsics))
        start = unit(noise(COUNT, 64))
        features = torch.stack([start, start.roll(12, 0), start]).expand(2, 3, COUNT, 64)
        matches = problem.matching.match(features, problem.queries, problem.targets, problem.valid, PATCHES, two_view)
        below = (cell_centers(PATCHES, 2.0, features) + torch.tensor([0.0, 4.0])).expand(2, 4, COUNT, 2)
        seen = torch.zeros(2, 4, COUNT, dtype=torch.bool)
        seen[0, 0, :12] = True
        truth = TrueMatches(below, seen, ~seen, torch.zeros_like(seen))
        logit = torch.exp(-problem.matching.log_temperature)
        assert (matches.log_partition[0, 0, :12] < logit).any()  # the excluded match alone exceeds the partition
        cost = matching_terms(matches, features, problem.matching, truth, PATCHES).cross_entropy
        expected = (matches.log_partition[0, 0, :12] - logit).clamp(min=0).sum()
        assert_close(cost.total, expected)

    def test_gradients(self) -> None:
        problem = Problem()

        def loss(raw: torch.Tensor, log_temperature: torch.Tensor, no_match: torch.Tensor) -> torch.Tensor:
            problem.matching.log_temperature.data = log_temperature.data
            problem.matching.no_match.data = no_match.data
            features = unit(raw)
            terms = matching_terms(problem.match(features), features, problem.matching, problem.truth, PATCHES)
            return torch.stack([mean(term) for term in terms])

        given = noise(2, 3, COUNT, 5).requires_grad_()
        held = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda raw: loss(raw, *held), given, atol=1e-5, fast_mode=True)

    def test_half_types_are_compared_in_single_precision(self) -> None:
        problem = Problem()
        problem.matching.float()
        features = problem.features.bfloat16()
        matches = problem.match(features.float())
        terms = matching_terms(matches, features, problem.matching, problem.truth.to(dtype=torch.float32), PATCHES)
        exact = matching_terms(
            matches, features.float(), problem.matching, problem.truth.to(dtype=torch.float32), PATCHES
        )
        for term, wanted in zip(terms, exact, strict=True):
            assert term.total.dtype == torch.float32
            assert_close(term.total, wanted.total)

    def test_no_transfer_to_the_host(self) -> None:
        """Fake tensors have no values, so reading one on the host raises an error."""
        problem = Problem()
        matches = problem.match(problem.features).detach()
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            scene = Scene.stack([make_scene(anchors=(0, 2))]).map(mode.from_tensor)
            frames = torch.zeros(1, 4, dtype=torch.long)
            assert true_matches(scene, frames, frames, CELL).has_match.shape == (1, 4, 48)
            features = mode.from_tensor(problem.features.requires_grad_())
            truth = problem.truth.map(mode.from_tensor)
            terms = matching_terms(matches.map(mode.from_tensor), features, problem.matching, truth, PATCHES)
            torch.stack([mean(term) for term in terms]).sum().backward()


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, Scene]:
    """Two scenes with tracks from frames 0 and 2, of every pixel and of every fourth in x and y."""
    config = SyntheticConfig(num_frames=3, height=48, width=64, static_scene_share=0.0, static_camera_share=0.0)
    scenes = make_scenes(config, 7, (0, 1))
    dense, thin = (
        render_scenes(scenes, config, anchors=(0, 2), query_lattice=Lattice(stride)).scene for stride in (1, 4)
    )
    return dense, thin


class TestRenderedScenes:
    """Matches in rendered scenes, whose ground truth is computed independently."""

    pairs = torch.tensor([[0, 0, 2, 2]] * 2), torch.tensor([[1, 2, 1, 0]] * 2)

    def is_dynamic(self, scene: Scene) -> torch.Tensor:
        """Return whether the central pixel of each cell of 4 x 4 pixels is dynamic."""
        return scene.dynamic[:, :, 2::4, 2::4].flatten(2)[:, [0, 0, 2, 2]] > 0

    def test_depth_and_tracks_agree_on_static_cells(self, scenes: tuple[Scene, Scene]) -> None:
        by_track = true_matches(scenes[0], *self.pairs, 4.0)
        by_point = true_matches(replace(scenes[0], tracks=None), *self.pairs, 4.0)
        static = ~self.is_dynamic(scenes[0])
        both = by_track.has_match & by_point.has_match
        assert both.sum() > 400
        assert_close(by_point.positions[both], by_track.positions[both], atol=1e-3, rtol=0)
        agree = (by_track.has_match == by_point.has_match)[static & (by_point.has_match | by_point.is_unmatched)]
        assert agree.float().mean() > 0.99

    def test_dynamic_cells_are_known_from_tracks_only(self, scenes: tuple[Scene, Scene]) -> None:
        by_track = true_matches(scenes[0], *self.pairs, 4.0)
        by_point = true_matches(replace(scenes[0], tracks=None), *self.pairs, 4.0)
        dynamic = self.is_dynamic(scenes[0])
        assert dynamic.sum() > 100
        assert not (by_point.has_match | by_point.is_unmatched)[dynamic].any()
        assert (by_track.has_match | by_track.is_unmatched)[dynamic].float().mean() > 0.95

    def test_sparse_and_dense_tracks_agree(self, scenes: tuple[Scene, Scene]) -> None:
        dense, thin = (true_matches(scene, *self.pairs, 4.0) for scene in scenes)
        assert torch.equal(dense.has_match, thin.has_match)
        assert torch.equal(dense.is_unmatched, thin.is_unmatched)
        assert_close(dense.positions, thin.positions, atol=1e-3, rtol=1e-4)
