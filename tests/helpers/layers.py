"""Layers for tests: set by hand, and listened to."""

from torch import Tensor, nn


def constant_(layer: nn.Module, weight: float, bias: float) -> None:
    """A layer whose every weight and bias is the same."""
    nn.init.constant_(layer.weight, weight)  # pyright: ignore[reportArgumentType]
    nn.init.constant_(layer.bias, bias)  # pyright: ignore[reportArgumentType]


def listen(*layers: nn.Module) -> list[Tensor]:
    """What each of `layers` is given, once it is called."""
    heard: list[Tensor] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    return heard
