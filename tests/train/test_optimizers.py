"""Muon, AdamW, schedules and weight averages: compared with steps by hand and torch, and resumed midway."""

import copy
import io
import math

import pytest
import torch
from networks import random_images, tiny_model
from small_net import Net
from torch import Tensor, nn

from recon4d.train.config import OptimiserConfig, RateConfig, RateRule
from recon4d.train.muon import Muon
from recon4d.train.optimizers import Optimizers, clip_gradients, make_optimizers
from recon4d.train.schedule import Schedule
from recon4d.train.weight_averaging import WeightAverage


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def parameter(rows: int, columns: int, seed: int = 0) -> nn.Parameter:
    """Make a matrix with a gradient."""
    made = nn.Parameter(matrix(rows, columns, seed))
    made.grad = matrix(rows, columns, seed + 1000)
    return made


def train(net: nn.Module, optimizers: Optimizers, average: WeightAverage, steps: range) -> None:
    schedule = Schedule(warmup_steps=2, total_steps=8)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, wanted = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 8, generator=generator)
        optimizers.zero_grad()
        (net(x) - wanted).square().mean().backward()
        optimizers.step(schedule.multiplier(step))
        average.update(net)


def save_and_load(state: object) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


# Both optimizers together


def gradients_for(net: nn.Module, seed: int = 0, size: float = 1e-3) -> None:
    """Set a small random gradient that depends on the parameter's name only."""
    generator = torch.Generator().manual_seed(seed)
    for value in net.parameters():
        value.grad = size * torch.randn(value.shape, generator=generator).to(value.dtype)


def test_other_parameters_use_adamw_with_decay_on_matrices_only() -> None:
    net, twin = Net(), Net()
    optimizers = make_optimizers(net, OptimiserConfig(adamw_rate=0.02, betas=(0.8, 0.9), weight_decay=0.4))
    decayed = [twin.enter.weight]
    block_matrices = {id(value) for value in twin.block.parameters() if value.ndim == 2}
    plain = [value for value in twin.parameters() if id(value) not in {*block_matrices, id(twin.enter.weight)}]
    oracle = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=0.01, betas=(0.8, 0.9), weight_decay=0.4
    )
    for seed in range(3):
        gradients_for(net, seed)
        gradients_for(twin, seed)
        optimizers.step(0.5)
        oracle.step()
    for (name, mine), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        if id(theirs) not in block_matrices:
            torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=0, msg=name)


def test_matrices_of_blocks_use_muon_with_separate_queries_keys_and_values() -> None:
    net, twin = Net(), Net()
    gradients_for(net)
    gradients_for(twin)
    make_optimizers(net, OptimiserConfig(muon_rate=0.02, weight_decay=0.4)).step(0.5)
    qkv = twin.block.attention.qkv.weight
    others = [twin.block.attention.proj.weight, twin.block.mlp.fc1.weight, twin.block.mlp.fc2.weight]
    Muon([{"params": [qkv], "parts": 3}, {"params": others}], lr=0.01, weight_decay=0.4).step()
    for mine, theirs in zip(net.block.parameters(), twin.block.parameters(), strict=True):
        if mine.ndim == 2:
            torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=0)


def test_adamw_for_all_parameters() -> None:
    net, twin = Net(), Net()
    optimizers = make_optimizers(net, OptimiserConfig(kind="adamw", adamw_rate=0.01, weight_decay=0.4))
    assert [type(each) for each in optimizers.optimizers] == [torch.optim.AdamW]
    matrices = [value for value in twin.parameters() if value.ndim == 2]
    vectors = [value for value in twin.parameters() if value.ndim != 2]
    oracle = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=0.01, betas=(0.9, 0.95), weight_decay=0.4
    )
    gradients_for(net)
    gradients_for(twin)
    optimizers.step(1.0)
    oracle.step()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=0)


def test_muon_is_the_only_optimizer_if_nothing_else_is_trainable() -> None:
    net = Net()
    for name, value in net.named_parameters():
        value.requires_grad_(name == "block.mlp.fc1.weight")
    optimizers = make_optimizers(net, OptimiserConfig())
    assert [type(each) for each in optimizers.optimizers] == [Muon]


def test_a_multiplier_of_zero_changes_nothing() -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    gradients_for(net)
    make_optimizers(net, OptimiserConfig()).step(0.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_multipliers_do_not_accumulate_over_steps() -> None:
    rates = RateConfig(rules=(RateRule("block.*", 0.1),))
    optimizers = make_optimizers(Net(), OptimiserConfig(muon_rate=3.0, adamw_rate=5.0, rates=rates))
    for multiplier in (0.5, 0.25):
        for group in (group for each in optimizers.optimizers for group in each.param_groups):
            for value in group["params"]:
                value.grad = torch.zeros_like(value)
        optimizers.step(multiplier)
    found = {group["lr"] for each in optimizers.optimizers for group in each.param_groups}
    assert sorted(found) == pytest.approx([3.0 * 0.1 * 0.25, 5.0 * 0.1 * 0.25, 5.0 * 0.25])


def test_all_gradients_are_clipped_as_one_vector() -> None:
    first, second = parameter(1, 2), parameter(1, 1)
    first.grad, second.grad = torch.tensor([[2.0, 3.0]]), torch.tensor([[6.0]])
    norm = clip_gradients([first, second, nn.Parameter(torch.zeros(1))], clip=3.5)
    assert norm == pytest.approx(7.0)
    torch.testing.assert_close(torch.cat([first.grad, second.grad], 1), torch.tensor([[1.0, 1.5, 3.0]]))
    assert clip_gradients([first, second], clip=3.6) == pytest.approx(3.5)
    torch.testing.assert_close(second.grad, torch.tensor([[3.0]]))
    first.grad, second.grad = torch.zeros(1, 2), torch.zeros(1, 1)
    assert clip_gradients([first, second], clip=1.0) == 0
    assert first.grad.abs().sum() == 0


def test_a_step_returns_the_norm_before_clipping_and_uses_clipped_gradients() -> None:
    net = Net()
    optimizers = make_optimizers(net, OptimiserConfig(clip=0.5))
    gradients_for(net, size=10.0)
    length = torch.cat([value.grad.flatten() for value in net.parameters()]).norm()
    torch.testing.assert_close(optimizers.step(1.0), length)
    torch.testing.assert_close(
        torch.cat([value.grad.flatten() for value in net.parameters()]).norm(), torch.tensor(0.5)
    )


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_changes_nothing(broken: float) -> None:
    """A step with a broken gradient between two good ones does not change the result, bit for bit."""
    net, twin = Net(), Net()
    optimizers, oracle = (make_optimizers(each, OptimiserConfig()) for each in (net, twin))
    for seed in (0, 1, 2):
        gradients_for(net, seed)
        if seed == 1:
            net.enter.weight.grad[0, 0] = broken
            assert not torch.isfinite(optimizers.step(1.0))
            continue
        gradients_for(twin, seed)
        optimizers.step(1.0)
        oracle.step(1.0)
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_zero_grad_removes_gradients() -> None:
    net = Net()
    gradients_for(net)
    optimizers = make_optimizers(net, OptimiserConfig())
    optimizers.zero_grad()
    assert all(value.grad is None for value in net.parameters())
    with pytest.raises(ValueError, match="after backward"):
        optimizers.step(1.0)


def test_the_default_configuration() -> None:
    config = OptimiserConfig()
    assert (config.kind, config.muon_rate, config.adamw_rate, config.betas) == ("muon", 2e-3, 1e-3, (0.9, 0.95))
    assert (config.weight_decay, config.clip) == (0.05, 1.0)
    for wrong in ({"muon_rate": -1.0}, {"adamw_rate": -1.0}, {"weight_decay": -1.0}, {"clip": 0.0}):
        with pytest.raises(ValueError, match="wanted none below 0"):
            OptimiserConfig(**wrong)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_resuming_midway_is_exact(kind: str) -> None:
    config = OptimiserConfig(kind=kind, rates=RateConfig(rules=(RateRule("enter.*", 0.3),)))
    whole = Net()
    whole_average = WeightAverage(whole)
    train(whole, make_optimizers(whole, config), whole_average, range(8))

    stopped = Net()
    optimizers, average = make_optimizers(stopped, config), WeightAverage(stopped)
    train(stopped, optimizers, average, range(4))
    saved = save_and_load((stopped.state_dict(), optimizers.state_dict(), average.state_dict()))

    resumed = Net()
    with torch.no_grad():
        for value in resumed.parameters():
            value.add_(1.0)
    optimizers, average = make_optimizers(resumed, config), WeightAverage(resumed)
    for part, state in zip((resumed, optimizers, average), saved, strict=True):
        part.load_state_dict(state)
    train(resumed, optimizers, average, range(4, 8))
    for (name, wanted), found in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(found, wanted), name
        assert torch.equal(average.average[name], whole_average.average[name]), name


def test_a_state_of_other_parameters_or_optimizers_is_rejected() -> None:
    net = Net()
    optimizers = make_optimizers(net, OptimiserConfig())
    with pytest.raises(ValueError, match="of other parameters"):
        optimizers.load_state_dict(make_optimizers(net, OptimiserConfig(kind="adamw")).state_dict())
    renamed = optimizers.state_dict()
    renamed["names"][0] = "nobody"
    with pytest.raises(ValueError, match="nobody"):
        optimizers.load_state_dict(renamed)
    fewer = optimizers.state_dict()
    fewer["optimisers"].pop()
    with pytest.raises(ValueError, match="of other parameters"):
        optimizers.load_state_dict(fewer)


def test_the_objective_of_the_tiny_model_falls() -> None:
    model = tiny_model().float()
    images = random_images(1, 2).float()
    optimizers = make_optimizers(model, OptimiserConfig())
    losses = []
    for _ in range(6):
        optimizers.zero_grad()
        loss = (model(images).depths.log() - math.log(3.0)).square().mean()
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
