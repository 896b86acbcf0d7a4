"""The optimizers of a training run as one object: Muon for the matrices of transformer blocks, AdamW for the rest."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.train import foreach
from recon4d.train.config import OptimiserConfig
from recon4d.train.muon import Muon
from recon4d.train.parameter_groups import ParameterGroup, parameter_groups
from recon4d.train.sharding import (
    full_optimizer_state,
    gradient_norm,
    is_sharded,
    local_optimizer_state,
    local_tensor,
)


class Optimizers:
    """Several optimizers that step together: gradients are clipped jointly, rates share one multiplier.

    Args:
        optimizers: The optimizers. Each parameter group has its peak learning rate as ``initial_lr``.
        names: Names of all parameters in the order of the optimizers' groups.
        clip: Largest norm of all gradients together.
        sharded: The sharded parameter for each local shard that an optimizer holds in its place; None if there is none.
    """

    def __init__(
        self,
        optimizers: tuple[torch.optim.Optimizer, ...],
        names: tuple[str, ...],
        clip: float,
        sharded: dict[Tensor, Tensor] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self.names = names
        self.clip = clip
        self.sharded = sharded or {}

    def step(self, multiplier: float) -> Float[Tensor, ""]:
        """Clip the gradients and update all parameters.

        If the norm of the gradients is not finite, neither weights nor optimizer states change, so that one broken
        batch does not end a training. This needs no synchronization with the device.

        Args:
            multiplier: Factor on the peak learning rates.

        Returns:
            Norm of all gradients before clipping.
        """
        norm = clip_gradients([one for optimizer in self.optimizers for one in self._parameters(optimizer)], self.clip)
        for part, parameter in self.sharded.items():
            part.grad = None if parameter.grad is None else local_tensor(parameter.grad)
        for group in self._groups():
            group["lr"] = multiplier * group["initial_lr"]
        for optimizer in self.optimizers:
            # Read by PyTorch's fused optimizers and by Muon.
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for parameter in self.sharded.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores, including rates and weight decays.

        If parameters are sharded, all processes must call this together.

        Returns:
            Names of the parameters and the state of each optimizer; states of sharded parameters are gathered on rank 0
            (`full_optimizer_state`).
        """
        states = [full_optimizer_state(one.state_dict(), self._parameters(one)) for one in self.optimizers]
        return {"names": list(self.names), "optimisers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Args:
            state: The result of `state_dict` (that of rank 0 if parameters were sharded), on all processes.

        Raises:
            ValueError: If the state is of other parameters or other optimizers.
        """
        if tuple(state["names"]) != self.names or len(state["optimisers"]) != len(self.optimizers):
            different = sorted(set(state["names"]) ^ set(self.names))[:3]
            reason = f"they differ in {different}" if different else "their order or number of optimizers differs"
            raise ValueError(f"the optimizers' state is of other parameters; {reason}")
        for optimizer, saved in zip(self.optimizers, state["optimisers"], strict=True):
            optimizer.load_state_dict(local_optimizer_state(saved, self._parameters(optimizer)))

    def _parameters(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Return the model's own parameters, in the order of the optimizer's groups."""
        held: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return [self.sharded.get(parameter, parameter) for parameter in held]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]


def make_optimizers(model: nn.Module, config: OptimiserConfig, bfloat16: bool = False) -> Optimizers:
    """Make the optimizers of all trainable parameters of a model.

    Freeze parameters, add LoRA and move the model to its device before.

    Args:
        model: The model.
        config: Kinds of optimizers, rates and clipping.
        bfloat16: Whether Muon iterates in bfloat16 on a CPU too.

    Returns:
        The optimizers.

    Raises:
        UserError: If a rule of rates matches no parameter, or no parameter is trainable.
    """
    groups = parameter_groups(model, config.rates)
    for_muon = [group for group in groups if config.kind == "muon" and group.kind == "block_matrices"]
    for_adamw = [group for group in groups if group not in for_muon]
    # AdamW works element by element, so it gets the local shards: plain tensors that share the parameters' memory. Muon
    # needs whole matrices and gathers them itself.
    parts = {one: nn.Parameter(local_tensor(one)) for group in for_adamw for one in group.parameters if is_sharded(one)}
    optimizers: list[torch.optim.Optimizer] = []
    if for_muon:
        options = [_muon_options(group, config) for group in for_muon]
        optimizers.append(Muon(options, lr=config.muon_rate, weight_decay=config.weight_decay, bfloat16=bfloat16))
    if for_adamw:
        options = [_adamw_options(group, config, parts) for group in for_adamw]
        # Fused: one kernel for all parameters, which can skip a step without a synchronization with the device.
        optimizers.append(torch.optim.AdamW(options, lr=config.adamw_rate, betas=config.betas, fused=True))
    names = tuple(name for group in (*for_muon, *for_adamw) for name in group.names)
    return Optimizers(tuple(optimizers), names, config.clip, {part: sharded for sharded, part in parts.items()})


@torch.no_grad()
def clip_gradients(parameters: list[Tensor], clip: float) -> Float[Tensor, ""]:
    """Scale all gradients together to a norm of at most `clip`, in place.

    If the norm is not finite, all gradients become zero.

    Args:
        parameters: Parameters of any shape; those without a gradient are ignored.
        clip: Largest norm of all gradients together.

    Returns:
        The norm before clipping.

    Raises:
        ValueError: If no parameter has a gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError("no parameter has a gradient; optimizers step after backward")
    norm = gradient_norm(gradients)
    gradients = [local_tensor(gradient) for gradient in gradients]
    foreach.mul_(gradients, (clip / norm).clamp(max=1.0))
    # NaN times zero is NaN, so broken gradients are overwritten, without a synchronization with the device.
    is_broken = ~torch.isfinite(norm)
    for gradient in gradients:
        gradient.masked_fill_(is_broken, 0.0)
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
