"""The optimizers of a training as one: Muon for the matrices of transformer blocks, AdamW for the rest."""

# pyright: reportPrivateImportUsage=false
# (torch's foreach functions have an underscore and no other name)

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.train.config import OptimiserConfig
from recon4d.train.muon import Muon
from recon4d.train.parameter_groups import ParameterGroup, parameter_groups
from recon4d.train.sharding import (
    gradient_length,
    is_sharded,
    local,
    part_of_optimizer_state,
    whole_optimizer_state,
)


class Optimizers:
    """Several optimizers that step together, their gradients clipped as one and their rates set by a multiplier."""

    def __init__(
        self,
        optimizers: tuple[torch.optim.Optimizer, ...],
        names: tuple[str, ...],
        clip: float,
        sharded: dict[Tensor, Tensor] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self.names = names
        """The names of all parameters in the order of the optimizers' groups: a saved state fits no other order."""
        self.clip = clip
        self.sharded = sharded or {}
        """The sharded parameter of every part that stands for it in an optimizer."""

    def step(self, multiplier: float) -> Float[Tensor, ""]:
        """Move all parameters with rates times `multiplier`; the answer is the gradients' length before clipping.

        Where that length is not finite nothing is moved, neither weights nor momenta: one broken batch does not end a
        training. The device is not asked whether it was.
        """
        norm = clip_gradients([one for optimizer in self.optimizers for one in self._parameters(optimizer)], self.clip)
        for part, parameter in self.sharded.items():
            part.grad = None if parameter.grad is None else local(parameter.grad)
        for group in self._groups():
            group["lr"] = multiplier * group["initial_lr"]
        for optimizer in self.optimizers:
            # What torch's fused optimizers look at, and ours.
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for parameter in self.sharded.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on as if never stopped, rates and decays included; of sharded parameters the whole.

        Where there are any, all processes must ask together.
        """
        states = [whole_optimizer_state(one.state_dict(), self._parameters(one)) for one in self.optimizers]
        return {"names": list(self.names), "optimisers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; raises ``ValueError`` where it is of other parameters or other optimizers."""
        if tuple(state["names"]) != self.names or len(state["optimisers"]) != len(self.optimizers):
            unlike = sorted(set(state["names"]) ^ set(self.names))[:3] or "none in name, but their order differs"
            raise ValueError(f"the optimizers' state is of other parameters; they differ in {unlike}")
        for optimizer, saved in zip(self.optimizers, state["optimisers"], strict=True):
            optimizer.load_state_dict(part_of_optimizer_state(saved, self._parameters(optimizer)))

    def _parameters(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """The model's own parameters, in the order of the optimizer's groups."""
        held: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return [self.sharded.get(parameter, parameter) for parameter in held]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]


def make_optimizers(model: nn.Module, config: OptimiserConfig, bfloat16: bool = False) -> Optimizers:
    """The optimizers of every trainable parameter of `model`, where it is: freeze, adapt and move it before.

    `bfloat16` is for trainings in that precision: Muon then iterates in it on a CPU too.

    Raises ``ValueError`` where a rule of rates matches nothing, or nothing is trainable.
    """
    groups = parameter_groups(model, config.rates)
    for_muon = [group for group in groups if config.kind == "muon" and group.kind == "block_matrices"]
    for_adamw = [group for group in groups if group not in for_muon]
    # AdamW works element by element and is given this process's parts, plain tensors that share the parameters' memory;
    # Muon needs whole matrices, and gathers them itself.
    parts = {one: nn.Parameter(local(one)) for group in for_adamw for one in group.parameters if is_sharded(one)}
    optimizers: list[torch.optim.Optimizer] = []
    if for_muon:
        options = [_muon_options(group, config) for group in for_muon]
        optimizers.append(Muon(options, lr=config.muon_rate, weight_decay=config.weight_decay, bfloat16=bfloat16))
    if for_adamw:
        options = [_adamw_options(group, config, parts) for group in for_adamw]
        # Fused: one kernel for all parameters, which can leave a step out without asking the device.
        optimizers.append(torch.optim.AdamW(options, lr=config.adamw_rate, betas=config.betas, fused=True))
    names = tuple(name for group in (*for_muon, *for_adamw) for name in group.names)
    return Optimizers(tuple(optimizers), names, config.clip, {part: whole for whole, part in parts.items()})


@torch.no_grad()
def clip_gradients(parameters: list[Tensor], clip: float) -> Float[Tensor, ""]:
    """Shorten all gradients together to at most `clip`, in place; zero where their length is not finite.

    The answer is their length before. Raises ``ValueError`` where no parameter has a gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError("no parameter has a gradient; optimizers step after backward")
    norm = gradient_length(gradients)
    gradients = [local(gradient) for gradient in gradients]
    torch._foreach_mul_(gradients, (clip / norm).clamp(max=1.0))
    # NaN times zero is NaN: broken gradients are overwritten, without asking the device whether they are.
    broken = ~torch.isfinite(norm)
    for gradient in gradients:
        gradient.masked_fill_(broken, 0.0)
    return norm


def _muon_options(group: ParameterGroup, config: OptimiserConfig) -> dict[str, Any]:
    return {
        "params": list(group.parameters),
        "initial_lr": config.muon_rate * group.rate,
        "parts": group.parts,
    }


def _adamw_options(
    group: ParameterGroup, config: OptimiserConfig, parts: dict[nn.Parameter, nn.Parameter]
) -> dict[str, Any]:
    return {
        "params": [parts.get(parameter, parameter) for parameter in group.parameters],
        "initial_lr": config.adamw_rate * group.rate,
        "weight_decay": 0.0 if group.kind == "vectors" else config.weight_decay,
    }
