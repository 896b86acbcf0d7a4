"""Averages of weights over the steps of training."""

import copy
import math

import pytest
import torch
from small_net import Net
from torch import nn

from recon4d.train.weight_averaging import WeightAverage

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
