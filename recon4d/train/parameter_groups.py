"""Which parameter learns how: by Muon or AdamW, decayed or not, at which share of the learning rate, or not at all."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from recon4d.layers import Block, CrossBlock
from recon4d.train.config import RateConfig

GroupKind = Literal["block_matrices", "matrices", "vectors"]

STACKED_PARTS = {"qkv": 3, "kv": 2}
"""Layers of a block whose weights are several matrices, one below the other."""


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that learn alike, in the order of the model."""

    kind: GroupKind
    """Matrices of transformer blocks (for Muon), other matrices and convolutions (decayed by AdamW), or vectors:
    norms, biases, layer scales, and tokens and embeddings of any shape, which no decay should pull to zero."""
    parts: int
    """How many matrices are stacked in the rows of each parameter."""
    rate: float
    """What the learning rate is multiplied by."""
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Let parameters whose names match (``*`` matches dots too) learn nothing.

    Raises ``ValueError`` for a pattern that matches none.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in names_matching(pattern, parameters, "parameter"):
            parameters[name].requires_grad_(False)


def parameter_groups(model: nn.Module, config: RateConfig | None = None) -> tuple[ParameterGroup, ...]:
    """Every trainable parameter of `model` in exactly one group, groups by their first parameter.

    Raises ``ValueError`` where a rule matches no parameter, or nothing is trainable.
    """
    rates = rate_factors(model, RateConfig() if config is None else config)
    kinds = _kinds(model)
    members: dict[tuple[GroupKind, int, float], list[str]] = {}
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, parameter in parameters.items():
        kind, parts = kinds.get(parameter, ("vectors", 1))
        members.setdefault((kind, parts, rates[name]), []).append(name)
    if not members:
        raise ValueError("the model has no trainable parameter; were all frozen?")
    return tuple(
        ParameterGroup(kind, parts, rate, tuple(names), tuple(parameters[name] for name in names))
        for (kind, parts, rate), names in members.items()
    )


def rate_factors(model: nn.Module, config: RateConfig) -> dict[str, float]:
    """The share of the learning rate of every parameter by its name: rules times layer-wise decay."""
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, 1.0)
    for rule in config.rules:
        factors |= dict.fromkeys(names_matching(rule.pattern, names, "parameter"), rule.factor)
    depths = backbone_depths(names)
    return {name: factor * config.backbone_decay ** depths.get(name, 0) for name, factor in factors.items()}


def backbone_depths(names: Iterable[str]) -> dict[str, int]:
    """How far below the top each parameter ``backbone.*`` is, from names in the order of the model.

    What comes after the blocks is at 0, the last block at 1, the first at their number, and what comes before them
    (patch embedding or stem, tokens, positions) at one more: layer-wise rate decay as in ELECTRA (Clark et al. 2020).
    """
    level, levels = 0, {}
    for name in names:
        if not name.startswith("backbone."):
            continue
        block = re.search(r"\.blocks\.(\d+)\.", name)
        if block is not None:
            level = 1 + int(block[1])
        # A parameter of no block is below the first, or above the last that was met.
        levels[name] = level if block is not None or level == 0 else level + 1
    top = 1 + max((level for name, level in levels.items() if ".blocks." in name), default=0)
    return {name: top - level for name, level in levels.items()}


def names_matching(pattern: str, names: Iterable[str], what: str) -> list[str]:
    """Those of `names` that match `pattern` (``*`` matches dots too); ``ValueError`` naming some when none do."""
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        some = ", ".join(names[:: max(1, len(names) // 3)][:3])
        raise ValueError(f"the pattern {pattern!r} matches no {what}; there are {some} and others")
    return found


def _kinds(model: nn.Module) -> dict[torch.Tensor, tuple[GroupKind, int]]:
    """Kind and stacked parts of every matrix; what is not here counts as a vector."""
    kinds: dict[torch.Tensor, tuple[GroupKind, int]] = {}
    for module in model.modules():
        # A token or an embedding has the shape of a matrix too: the layer that owns it tells them apart.
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
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
