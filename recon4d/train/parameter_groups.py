"""Grouping of parameters by optimizer, weight decay and learning rate, and freezing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from recon4d.errors import UserError
from recon4d.layers import Block, CrossBlock
from recon4d.train.config import RateConfig

GroupKind = Literal["block_matrices", "matrices", "vectors"]

STACKED_PARTS = {"qkv": 3, "kv": 2}
"""Number of matrices that are stacked in the rows of the weight, for linear layers of a block by their names."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters with the same optimizer options, in the order of the model."""

    kind: GroupKind
    """Matrices of transformer blocks (for Muon), other matrices and convolutions (decayed by AdamW), or vectors: norms,
    biases, layer scales, and tokens and embeddings of any shape, which are not decayed."""
    parts: int
    """Number of matrices that are stacked in the rows of each parameter."""
    rate: float
    """Factor on the learning rate."""
    names: tuple[str, ...]
    """Names of the parameters in the model."""
    parameters: tuple[nn.Parameter, ...]
    """The parameters, in the order of `names`."""


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Exclude parameters from training, in place.

    Args:
        model: The model.
        patterns: Patterns of parameter names; ``*`` also matches dots.

    Raises:
        UserError: If a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in names_matching(pattern, parameters, "parameter"):
            parameters[name].requires_grad_(False)


def parameter_groups(model: nn.Module, config: RateConfig | None = None) -> tuple[ParameterGroup, ...]:
    """Assign each trainable parameter of a model to exactly one group.

    Args:
        model: The model.
        config: Factors on the learning rate; None for none.

    Returns:
        The groups, in the order of their first parameters.

    Raises:
        UserError: If a rule matches no parameter, or no parameter is trainable.
    """
    rates = rate_factors(model, RateConfig() if config is None else config)
    kinds = _kinds(model)
    members: dict[tuple[GroupKind, int, float], list[str]] = {}
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, parameter in parameters.items():
        kind, parts = kinds.get(parameter, ("vectors", 1))
        members.setdefault((kind, parts, rates[name]), []).append(name)
    if not members:
        raise UserError("the model has no trainable parameter; were all frozen?")
    return tuple(
        ParameterGroup(kind, parts, rate, tuple(names), tuple(parameters[name] for name in names))
        for (kind, parts, rate), names in members.items()
    )


def rate_factors(model: nn.Module, config: RateConfig) -> dict[str, float]:
    """Compute the factor on the learning rate of each parameter: rules times layer-wise decay.

    Args:
        model: The model.
        config: Rules and decay.

    Returns:
        Factors by parameter name.

    Raises:
        UserError: If a rule matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, 1.0)
    for rule in config.rules:
        factors |= dict.fromkeys(names_matching(rule.pattern, names, "parameter"), rule.factor)
    depths = backbone_depths(names)
    return {name: factor * config.backbone_decay ** depths.get(name, 0) for name, factor in factors.items()}


def backbone_depths(names: Iterable[str]) -> dict[str, int]:
    """Compute depths of backbone parameters for layer-wise decay, as in ELECTRA (Clark et al. 2020).

    Args:
        names: Parameter names in the order of the model.

    Returns:
        Depths of the parameters ``backbone.*`` by name: 0 after the last block, 1 in the last block, the number of
        blocks in the first block, and one more before it (patch embedding or stem, tokens, positions).
    """
    level, levels = 0, {}
    for name in names:
        if not name.startswith("backbone."):
            continue
        block = re.search(r"\.blocks\.(\d+)\.", name)
        if block is not None:
            level = 1 + int(block[1])
        # A parameter outside the blocks is below the first block, or above the last one that was passed.
        levels[name] = level if block is not None or level == 0 else level + 1
    top = 1 + max((level for name, level in levels.items() if ".blocks." in name), default=0)
    return {name: top - level for name, level in levels.items()}


def names_matching(pattern: str, names: Iterable[str], kind: str) -> list[str]:
    """Select names by a pattern.

    Args:
        pattern: The pattern; ``*`` also matches dots.
        names: The names to select from.
        kind: What the names refer to, for the error message, such as "parameter".

    Returns:
        The matching names, in the given order.

    Raises:
        UserError: If no name matches. The message shows some of the names.
    """
    names = list(names)
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        examples = ", ".join(names[:: max(1, len(names) // 3)][:3])
        raise UserError(f"the pattern {pattern!r} matches no {kind}; examples are {examples}")
    return matching


def _kinds(model: nn.Module) -> dict[torch.Tensor, tuple[GroupKind, int]]:
    """Return the kind and the number of stacked parts of each matrix; all other parameters are vectors."""
    kinds: dict[torch.Tensor, tuple[GroupKind, int]] = {}
    for module in model.modules():
        # Tokens and embeddings have the shape of matrices too, so the type of the owning layer decides.
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim >= 2:
                    kinds[parameter] = ("matrices", 1)
    for block in model.modules():
        if isinstance(block, Block | CrossBlock):
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    parts = STACKED_PARTS.get(name.rpartition(".")[2], 1)
                    kinds[layer.weight] = ("block_matrices", parts)
    return kinds
