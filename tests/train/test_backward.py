"""Separate backward passes of the two branches give the gradient of the joint one, in less memory."""

import contextlib
from dataclasses import replace

import pytest
import torch
from networks import tiny_config, tiny_model
from torch import Tensor
from training_run import config

from recon4d.errors import UserError
from recon4d.models import Model
from recon4d.models.memory import LiveBytes
from recon4d.train.backward import Cut, separate_backward
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, LossWeights, TrainConfig
from recon4d.train.loop import _TrainingRun, make_trainable_model
from recon4d.train.objective import DEFAULT_TERMS, OPTIONAL_TERMS, SCENE_GRADIENT_TERMS, Batch, TrainModule, objective

EVERY_TERM = LossWeights(**dict.fromkeys(OPTIONAL_TERMS, 0.7))
SUPERVISED = replace(EVERY_TERM, photometric=0.0)
"""All terms that can be computed in double precision."""
ONLY_DEFAULTS = LossWeights(**{name: 1.0 + number for number, name in enumerate(DEFAULT_TERMS)})


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two clips with full motion and priors, whose anchors are not the first frame."""
    data = DataConfig(shapes=("3x32x48",), batch_size=2, known_share=1, other_anchor_share=1, track_stride=4)
    return Batches(TrainConfig(model="recon4d_tiny", data=data), RankInfo()).synthetic_batch(5001, 0)


@pytest.fixture(scope="module")
def precise_batch(batch: Batch) -> Batch:
    """The same clips in double precision."""
    return batch.map(lambda values: values.double() if values.is_floating_point() else values)


def gradients(
    model: Model, batch: Batch, weights: LossWeights, is_separate: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the gradients of all parameters (None without any) and the terms."""
    model.zero_grad()
    train_module = TrainModule(model, weights)

    def loss_of(totals: Tensor, counts: Tensor, names: object = None) -> Tensor:
        return objective(totals, counts, weights, names)[0]  # pyright: ignore[reportArgumentType]

    if is_separate:
        totals, counts = separate_backward(train_module, batch, loss_of, contextlib.nullcontext)
    else:
        totals, counts = train_module(batch)
        loss_of(totals, counts).backward()
    return {name: p.grad for name, p in model.named_parameters()}, totals, counts  # pyright: ignore[reportReturnType]


def assert_agree(model: Model, batch: Batch, weights: LossWeights, tolerance: float) -> None:
    joint, *joint_terms = gradients(model, batch, weights, is_separate=False)
    separate, *separate_terms = gradients(model, batch, weights, is_separate=True)
    assert all(torch.equal(*pair) for pair in zip(joint_terms, separate_terms, strict=True))
    largest = max(float(gradient.abs().max()) for gradient in joint.values() if gradient is not None)
    for name, gradient in joint.items():
        if gradient is None:
            assert separate[name] is None, name
            continue
        # Gradients that cancel exactly in one pass differ from 0 by rounding errors in the other.
        torch.testing.assert_close(separate[name], gradient, rtol=tolerance, atol=tolerance * largest, msg=name)


class TestGradients:
    @pytest.mark.parametrize("heads", ["linear", "dpt"])
    @pytest.mark.parametrize("weights", [ONLY_DEFAULTS, SUPERVISED], ids=["default", "supervised"])
    def test_they_agree_with_the_joint_pass(self, heads, weights: LossWeights, precise_batch: Batch) -> None:
        """In double precision, for all weights of a network in which every branch contributes."""
        model = tiny_model(heads).train()
        assert_agree(model, precise_batch, weights, 1e-9)
        idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
        assert idle == ["known.depths.weight"]  # training gives no depth

    @pytest.mark.parametrize("weights", [LossWeights(), EVERY_TERM], ids=["default", "every"])
    def test_they_agree_in_single_precision(self, weights: LossWeights, batch: Batch) -> None:
        assert_agree(make_trainable_model(config()), batch, weights, 1e-4)

    @pytest.mark.parametrize("name", SCENE_GRADIENT_TERMS)
    def test_terms_of_tracks_reach_the_cameras_and_maps(self, name: str, batch: Batch) -> None:
        """The gradient of one such term alone: through the scene, and through the tracks where it has any."""
        weights = LossWeights(**dict.fromkeys(DEFAULT_TERMS, 0.0), **{name: 1.0})
        model = make_trainable_model(config())
        assert_agree(model, batch, weights, 1e-4)
        of_dense = [p.grad for p in model.dense_heads.parameters() if p.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in of_dense) > 0

    def test_a_model_without_tracks_has_one_branch(self, precise_batch: Batch) -> None:
        torch.manual_seed(0)
        without = Model(replace(tiny_config(), motion=None, matching=None)).double().train()
        assert_agree(without, precise_batch, ONLY_DEFAULTS, 1e-9)

    def test_frozen_parts_stay_without_gradient(self, batch: Batch) -> None:
        """If the whole trunk is frozen, nothing is left to differentiate at the cut."""
        model = make_trainable_model(replace(config(), freeze=("backbone.*", "aggregator.*", "matching.*", "known.*")))
        assert_agree(model, batch, LossWeights(), 1e-5)

    def test_half_precision(self, batch: Batch) -> None:
        """Forward passes run in the precision of autocast; the gradient is the joint one up to its rounding."""
        model = make_trainable_model(config())
        weights = LossWeights()

        def loss_of(totals: Tensor, counts: Tensor, names: object = None) -> Tensor:
            return objective(totals, counts, weights, names)[0]  # pyright: ignore[reportArgumentType]

        with torch.autocast("cpu", torch.bfloat16):
            joint_totals, counts = TrainModule(model)(batch)
        loss_of(joint_totals, counts).backward()
        joint = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        totals, _ = separate_backward(TrainModule(model), batch, loss_of, lambda: torch.autocast("cpu", torch.bfloat16))
        assert torch.equal(totals, joint_totals.detach())
        separate = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert (separate - joint).norm() < 0.02 * joint.norm()


class TestCut:
    def test_gradient_stops_at_the_cut_until_it_is_passed_on(self) -> None:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        cut = Cut((3 * x, (x.square(), "text")))
        first, (second, text) = cut.leaves
        assert text == "text"
        (first.sum() * second.sum()).backward()
        assert x.grad is None
        cut.backward(x.sum())
        # d/dx (3 sum(x) sum(x^2) + sum(x))
        torch.testing.assert_close(x.grad, 3 * 5 + 2 * 9 * x.detach() + 1)

    def test_tensors_without_gradient_are_passed_as_they_are(self) -> None:
        constant, unused = torch.ones(2), torch.ones(2, requires_grad=True)
        cut = Cut((constant, 2 * unused))
        assert cut.leaves[0] is constant
        cut.backward()
        assert unused.grad is None


def test_the_tracking_branch_starts_after_the_reconstruction_branch_is_released(batch: Batch) -> None:
    """The peak of live tensors shows it. A term that needs both branches keeps them alive, as in the joint pass."""
    model = make_trainable_model(config())

    def peak(weights: LossWeights, is_separate: bool) -> int:
        gradients(model, batch, weights, is_separate)
        with LiveBytes() as live:
            gradients(model, batch, weights, is_separate)
        return live.peak

    assert peak(LossWeights(), is_separate=True) < 0.9 * peak(LossWeights(), is_separate=False)
    tracked = LossWeights(tracked_points=1.0)
    assert peak(tracked, is_separate=True) < 1.1 * peak(tracked, is_separate=False)


def test_steps_with_micro_batches_agree(tmp_path) -> None:
    """Terms, norm of the gradient and weights after a step of a run."""
    results = []
    for backward in ("joint", "separate"):
        training = replace(config(batch_size=4), accumulate=2, backward=backward)
        run = _TrainingRun(training, tmp_path / backward, None)
        _, parts = next(iter(run.batches.from_step(0)))
        means, norm = run._train_step(3, parts)
        results.append((means, norm, torch.cat([p.detach().flatten() for p in run.model.parameters()])))
    for joint, separate in zip(*results, strict=True):
        torch.testing.assert_close(separate, joint, rtol=1e-4, atol=1e-6)


def test_sharded_runs_are_joint() -> None:
    with pytest.raises(UserError, match="'separate' cannot be combined with sharding = 'full'; use backward = 'joint'"):
        TrainConfig(backward="separate", sharding="full")
