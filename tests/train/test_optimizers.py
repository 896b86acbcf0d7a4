"""Muon, AdamW, schedules and weight averages: compared with steps by hand and torch, and resumed midway."""

import copy
import io
import math

import pytest
import torch
from networks import random_images, tiny_model
from torch import Tensor, nn

from recon4d.layers import Block, BlockConfig
from recon4d.train.config import OptimiserConfig, RateConfig, RateRule
from recon4d.train.muon import Muon, orthogonalize
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


def quintic_of_singular_values(given: Tensor) -> Tensor:
    """Apply the Newton-Schulz map to the singular values, which does not change the singular vectors."""
    u, s, vt = torch.linalg.svd(given.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


class Net(nn.Module):
    """A transformer block, a matrix outside of blocks, a norm and a token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 3, 8))
        self.enter = nn.Linear(5, 8)
        self.block = Block(BlockConfig(width=8, heads=2, mlp_width=16))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.block(self.token + self.enter(x)))


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


# Schedules


def test_the_rate_warms_up_stays_constant_and_falls_to_zero() -> None:
    schedule = Schedule(warmup_steps=10, total_steps=100, decay_share=0.32)
    corners = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 68: 1.0, 84: 0.5, 92: 0.25, 99: 1 / 32, 100: 0.0, 150: 0.0}
    for step, wanted in corners.items():
        assert schedule.multiplier(step) == pytest.approx(wanted), step


def test_the_default_decay_is_over_a_third_of_the_steps() -> None:
    assert Schedule(0, 1000).multiplier(680) == 1
    assert Schedule(0, 1000).multiplier(840) == pytest.approx(0.5)


def test_a_schedule_may_have_no_decay_or_no_warm_up() -> None:
    assert [Schedule(0, 100, decay_share=0.5).multiplier(step) for step in (0, 50, 75, 100, 200)] == [1, 1, 0.5, 0, 0]
    assert Schedule(0, 100, decay_share=0.0).multiplier(100) == 1
    assert Schedule(100, 100, decay_share=1.0).multiplier(49) == pytest.approx(0.5 * 0.51)


def test_a_fraction_of_a_step_lies_between_its_neighbors() -> None:
    assert Schedule(0, 100).multiplier(84.5) == pytest.approx(15.5 / 32)


@pytest.mark.parametrize("arguments", [(-1, 10), (11, 10), (0, 0), (0, 10, -0.1), (0, 10, 1.1)])
def test_schedules_out_of_range_are_rejected(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Schedule(*arguments)


# Muon


@pytest.mark.parametrize("shape", [(8, 8), (6, 24), (24, 6)])
def test_newton_schulz_applies_the_quintic_to_singular_values(shape: tuple[int, int]) -> None:
    batch = torch.stack([matrix(*shape, seed) for seed in range(3)])
    found = orthogonalize(batch)
    for given, result in zip(batch, found, strict=True):
        torch.testing.assert_close(result.double(), quintic_of_singular_values(given), atol=1e-4, rtol=0)


def test_singular_values_are_near_one_for_gradients_of_any_scale() -> None:
    for scale in (1e-8, 1.0, 1e8):
        values = torch.linalg.svdvals(orthogonalize(scale * matrix(16, 64)[None])[0])
        assert values.min() > 0.65
        assert values.max() < 1.25


def test_the_update_in_bfloat16_is_the_same_up_to_rounding() -> None:
    batch = torch.stack([matrix(16, 64, seed) for seed in range(3)])
    exact, rounded = orthogonalize(batch), orthogonalize(batch, bfloat16=True)
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - exact).abs().max() < 0.05
    assert torch.cosine_similarity(rounded.flatten(1), exact.flatten(1)).min() > 0.995


def test_muon_iterates_in_bfloat16_if_training_does() -> None:
    nets = [Net(), Net(), Net()]
    for net, precision in zip(nets, (False, True, True), strict=True):
        gradients_for(net)
        make_optimizers(net, OptimiserConfig(), bfloat16=precision).step(1.0)
    exact, rounded, again = (net.block.mlp.fc1.weight for net in nets)
    assert torch.equal(rounded, again)
    assert not torch.equal(rounded, exact)
    assert torch.equal(nets[1].enter.weight, nets[0].enter.weight)


def test_a_zero_gradient_gives_no_update() -> None:
    assert (orthogonalize(torch.zeros(2, 4, 8)) == 0).all()


def test_the_first_two_steps_of_muon_by_hand() -> None:
    weight = parameter(6, 10)
    start, first, second = weight.detach().clone(), weight.grad.clone(), matrix(6, 10, 77)
    muon = Muon([weight], lr=0.01, momentum=0.9, weight_decay=0.3)
    muon.step()
    weight.grad = second.clone()
    muon.step()

    by_hand, momentum = start.double(), torch.zeros(6, 10)
    for gradient in (first, second):
        momentum = 0.9 * momentum + 0.1 * gradient
        update = quintic_of_singular_values(0.1 * gradient + 0.9 * momentum)
        by_hand = by_hand * (1 - 0.01 * 0.3) - 0.01 * 0.2 * math.sqrt(10) * update
    torch.testing.assert_close(weight.detach().double(), by_hand, atol=1e-6, rtol=0)


def test_muon_is_close_to_torch_muon() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon exists since torch 2.9")
    shapes = [(8, 8), (8, 24), (24, 8), (8, 8)]
    ours = [parameter(*shape, seed) for seed, shape in enumerate(shapes)]
    theirs = [parameter(*shape, seed) for seed, shape in enumerate(shapes)]
    mine = Muon(ours, lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    starts = [weight.detach().clone() for weight in ours]
    for step in range(3):
        for index, (first, second) in enumerate(zip(ours, theirs, strict=True)):
            first.grad = matrix(*first.shape, 10 * step + index)
            second.grad = first.grad.clone()
        mine.step()
        other.step()
    for start, first, second in zip(starts, ours, theirs, strict=True):
        # The Muon of torch iterates in bfloat16.
        assert (first - second).norm() < 0.02 * (second - start).norm()


def test_stacked_matrices_are_updated_separately() -> None:
    stacked = parameter(24, 8)
    apart = [nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    for part, gradient in zip(apart, stacked.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    Muon([{"params": [stacked], "parts": 3}], lr=0.01).step()
    Muon(apart, lr=0.01).step()
    torch.testing.assert_close(stacked.detach(), torch.cat([part.detach() for part in apart]), atol=1e-7, rtol=0)


def test_batching_of_shapes_and_groups_changes_no_update() -> None:
    groups = [([(8, 8), (16, 8), (8, 16)], 1, 0.01), ([(24, 8)], 3, 0.03), ([(16, 8), (8, 8)], 2, 0.02)]
    together, alone = [], []
    for number, (shapes, parts, rate) in enumerate(groups):
        made = [parameter(*shape, 10 * number + index) for index, shape in enumerate(shapes)]
        together.append({"params": made, "parts": parts, "lr": rate, "weight_decay": rate})
        alone += [(copy.deepcopy(one), one.grad.clone(), parts, rate) for one in made]
    Muon(together).step()
    found = [one for group in together for one in group["params"]]
    for one, (twin, gradient, parts, rate) in zip(found, alone, strict=True):
        twin.grad = gradient
        Muon([{"params": [twin], "parts": parts}], lr=rate, weight_decay=rate).step()
        torch.testing.assert_close(one, twin, atol=1e-6, rtol=0)


def test_parameters_without_a_gradient_do_not_change() -> None:
    idle, busy = parameter(4, 4), parameter(4, 4, 1)
    idle.grad, before = None, idle.detach().clone()
    muon = Muon([{"params": [idle]}, {"params": [busy, idle.new_zeros(2, 2).requires_grad_()]}])
    muon.step()
    assert torch.equal(idle, before)
    assert idle not in muon.state


def test_the_defaults_of_muon() -> None:
    defaults = Muon([parameter(2, 2)]).defaults
    assert (defaults["lr"], defaults["momentum"], defaults["weight_decay"]) == (2e-3, 0.95, 0.05)


def test_the_closure_is_called_with_gradients_enabled() -> None:
    weight = parameter(4, 4)

    def closure() -> float:
        weight.grad = None
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    before = float(weight.detach().square().sum())
    assert Muon([weight]).step(closure) == pytest.approx(before)


def test_muon_rejects_vectors_and_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))])
    with pytest.raises(ValueError, match="3 equal parts"):
        Muon([{"params": [parameter(4, 4)], "parts": 3}])
    for wrong in ({"lr": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match="wanted none below 0"):
            Muon([parameter(4, 4)], **wrong)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_muon_on_cuda_is_muon_on_the_cpu_up_to_bfloat16() -> None:
    ours, theirs = parameter(24, 8), parameter(24, 8)
    start = ours.detach().clone()
    on_cuda = nn.Parameter(theirs.detach().cuda())
    on_cuda.grad = theirs.grad.cuda()
    for one in (ours, on_cuda):
        Muon([{"params": [one], "parts": 3}], lr=0.1).step()
    assert (on_cuda.cpu() - ours).norm() < 0.02 * (ours - start).norm()


# Weight averages


def test_the_average_is_a_weighted_sum_of_all_earlier_weights() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 5.0)
    average = WeightAverage(net, decay=0.25)
    values = [1.0, -2.0, 4.0, 0.5, 3.0, -1.0, 2.0, 8.0]
    for value in values:
        nn.init.constant_(net.weight, value)
        average.update(net)
    # After n updates min(decay, (1 + n) / (20 + n)): 1/20, 2/21, ... until 6/25 < 1/4 < 7/26.
    decays = [1 / 20, 2 / 21, 3 / 22, 4 / 23, 5 / 24, 6 / 25, 0.25, 0.25]
    shares = [(1 - decay) * math.prod(decays[index + 1 :]) for index, decay in enumerate(decays)]
    wanted = math.prod(decays) * 5.0 + sum(share * value for share, value in zip(shares, values, strict=True))
    assert average.average["weight"].item() == pytest.approx(wanted, rel=1e-6)


def test_the_default_decay_of_the_average() -> None:
    assert WeightAverage(nn.Linear(1, 1)).decay == 0.998


def test_swapped_weights_are_restored_even_after_an_error() -> None:
    net = Net()
    average = WeightAverage(net)
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(1.1)
    average.update(net)
    own = copy.deepcopy(net.state_dict())
    places = [value.data_ptr() for value in net.parameters()]
    assert not torch.equal(average.average["enter.weight"], own["enter.weight"])
    with average.swapped(net):
        assert all(torch.equal(value, average.average[name]) for name, value in net.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())
    with pytest.raises(RuntimeError, match="inside"), average.swapped(net):
        raise RuntimeError("an error inside")
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())
    assert [value.data_ptr() for value in net.parameters()] == places


def test_the_average_of_bfloat16_weights_is_in_full_precision() -> None:
    net = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(net.weight, 1.0)
    average = WeightAverage(net, decay=0.998)
    average.updates = 10**6
    nn.init.constant_(net.weight, 1.5)
    average.update(net)
    assert average.average["weight"].item() == pytest.approx(1.001, abs=1e-6)
    with average.swapped(net):
        assert net.weight.dtype == torch.bfloat16
        assert net.weight.item() == 1.0
    assert net.weight.item() == 1.5


def test_frozen_parameters_have_no_average() -> None:
    net = Net()
    net.enter.weight.requires_grad_(False)
    assert "enter.weight" not in WeightAverage(net).average
    with pytest.raises(ValueError, match="all frozen"):
        WeightAverage(net.requires_grad_(False))


def test_an_average_of_another_model_is_rejected() -> None:
    net, average = Net(), WeightAverage(Net())
    state = average.state_dict()
    state["average"]["enter.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"enter\.weight"):
        average.load_state_dict(state)
    with pytest.raises(ValueError, match="lacks"):
        average.update(net.block)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match="wanted from 0"):
            WeightAverage(net, decay)
