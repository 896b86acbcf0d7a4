"""Low-rank adaptation (Hu et al. 2021): large frozen layers learn through two thin matrices beside them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.train.parameter_groups import names_matching


@dataclass(frozen=True)
class LoraConfig:
    """Which linear layers are adapted, and how."""

    layers: tuple[str, ...]
    """Patterns of module names, such as ``backbone.*.qkv``; ``*`` matches dots too."""
    rank: int = 8
    alpha: float = 16.0
    """The change is scaled by alpha / rank, so that the rank may be changed without the learning rate."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA was given a rank of {self.rank}; wanted 1 or more")


class LoraLinear(nn.Linear):
    """W x + b + (alpha / rank) B A x, with W and b frozen; B is zero at first, so that nothing changes until it learns.

    `weight` and `bias` keep the names they had in the plain layer.
    """

    def __init__(self, plain: nn.Linear, config: LoraConfig) -> None:
        # On "meta" because the plain layer's own tensors take the place of these.
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = config.alpha / config.rank
        self.down = nn.Parameter(plain.weight.new_empty(config.rank, plain.in_features))
        """A: rank x inputs."""
        self.up = nn.Parameter(plain.weight.new_zeros(plain.out_features, config.rank))
        """B: outputs x rank."""
        nn.init.normal_(self.down, std=plain.in_features**-0.5)
        self.train(plain.training)

    def forward(
        self,
        input: Float[Tensor, "*batch inputs"],  # noqa: A002 - the name in nn.Linear
    ) -> Float[Tensor, "*batch outputs"]:
        low_rank = F.linear(F.linear(input, self.down), self.up)
        return F.linear(input, self.weight, self.bias) + self.scale * low_rank

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain trainable layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * (self.up @ self.down))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain.train(self.training)


def add_lora(model: nn.Module, config: LoraConfig) -> tuple[str, ...]:
    """Adapt the linear layers of `model` that match, in place, and return their names.

    Only what is adapted is frozen here: `freeze` the rest first, and make the optimizers afterwards. Raises
    ``ValueError`` for a pattern that matches no plain linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    chosen = {name for pattern in config.layers for name in names_matching(pattern, linear, "linear layer")}
    names = tuple(name for name in linear if name in chosen)
    for name in names:
        _replace(model, name, LoraLinear(linear[name], config))
    return names


def merge_lora(model: nn.Module) -> None:
    """Put every adapted layer of `model` back as a plain one, in place, so that its checkpoint loads as ever."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    for name, module in adapted.items():
        _replace(model, name, module.merged())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, module)
