"""Muon: its update by hand, against torch, and in bfloat16."""

import copy
import math

import pytest
import torch
from small_net import Net
from torch import Tensor, nn

from recon4d.train.config import OptimiserConfig
from recon4d.train.muon import Muon, orthogonalize
from recon4d.train.optimizers import make_optimizers


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
