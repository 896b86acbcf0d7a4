"""Helpers for tests of layers: constant weights and recorded inputs."""

from torch import Tensor, nn


def fill_constant_(layer: nn.Module, weight: float, bias: float) -> None:
    """Set all weights and all biases of a layer to constants, in place."""
    nn.init.constant_(layer.weight, weight)  # pyright: ignore[reportArgumentType]
    nn.init.constant_(layer.bias, bias)  # pyright: ignore[reportArgumentType]


def record_inputs(*layers: nn.Module) -> list[Tensor]:
    """Return a list that collects the first input of every call of the layers."""
    recorded: list[Tensor] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
    return recorded
