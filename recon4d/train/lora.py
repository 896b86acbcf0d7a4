"""Low-rank adaptation of linear layers (LoRA, Hu et al. 2021)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.train.parameter_groups import names_matching


@dataclass(frozen=True)
class LoraConfig:
    """Adapted layers, rank and scale of low-rank adaptation."""

    layers: tuple[str, ...]
    """Patterns of module names, such as ``backbone.*.qkv``; ``*`` also matches dots."""
    rank: int = 8
    """Rank of the low-rank matrices, at least 1."""
    alpha: float = 16.0
    """Scale of the update, which is multiplied by alpha / rank; so the rank can change without the learning rate."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA has a rank of {self.rank}; wanted 1 or more")


class LoraLinear(nn.Linear):
    """W x + b + (alpha / rank) B A x with frozen W and b.

    B is zero at first, so that the layer initially computes what the plain layer did. `weight` and `bias` keep the
    names that they have in the plain layer.

    Args:
        plain: The layer to adapt; its parameters are shared and frozen.
        config: Rank and scale.
    """

    def __init__(self, plain: nn.Linear, config: LoraConfig) -> None:
        # On "meta" because the plain layer's own tensors replace these.
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
        """Apply the adapted layer.

        Args:
            input: Features of the layer's input width.

        Returns:
            Features of the layer's output width.
        """
        low_rank = F.linear(F.linear(input, self.down), self.up)
        return F.linear(input, self.weight, self.bias) + self.scale * low_rank

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Merge the low-rank update into the weight.

        Returns:
            A plain trainable layer that computes the same.
        """
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * (self.up @ self.down))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain.train(self.training)


def add_lora(model: nn.Module, config: LoraConfig) -> tuple[str, ...]:
    """Replace linear layers of a model by adapted ones, in place.

    Only the adapted layers are frozen: call `freeze` for all others before, and make the optimizers afterwards.

    Args:
        model: The model.
        config: Patterns of layers, rank and scale.

    Returns:
        Names of the adapted layers, in the order of the model.

    Raises:
        UserError: If a pattern matches no plain linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    matching = {name for pattern in config.layers for name in names_matching(pattern, linear, "linear layer")}
    names = tuple(name for name in linear if name in matching)
    for name in names:
        _replace(model, name, LoraLinear(linear[name], config))
    return names


def merge_lora(model: nn.Module) -> None:
    """Replace every adapted layer of a model by an equivalent plain one, in place, so that checkpoints load as usual.

    Args:
        model: The model; it may have no adapted layers.
    """
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    for name, module in adapted.items():
        _replace(model, name, module.merged())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, module)
