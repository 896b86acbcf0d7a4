"""Parameters shared out over processes (FSDP2): each keeps a part of every tensor and gathers a block to use it.

A sharded parameter is a `DTensor`: its `to_local` is this process's rows, its `full_tensor` the whole, for which all
processes must ask together. Optimizer states and averages are kept as plain local parts; checkpoints hold whole
tensors and do not tell how many processes wrote them.
"""

# pyright: reportPrivateImportUsage=false
# (torch's foreach functions have an underscore and no other name)

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from recon4d.layers import Block, CrossBlock


def shard(module: nn.Module, device: torch.device) -> None:
    """Share out the parameters of `module` over all processes, in place; transformer blocks are the units.

    Parameters without an axis cannot be split and stay whole (`average_unsharded_gradients`). Names do not change.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    units = [block for block in module.modules() if isinstance(block, Block | CrossBlock)]
    for unit in (*units, module):
        # The root too gives back what it gathered: weights that are swapped in between must not be overlooked.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)


def is_sharded(parameter: Tensor) -> bool:
    """Whether this process has only a part of it."""
    return isinstance(parameter, DTensor)


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which every process has the `part` that it has of `like`; all must ask together."""
    if not isinstance(like, DTensor):
        return part
    if not isinstance(part, DTensor):
        layout = like.device_mesh, like.placements
        part = DTensor.from_local(part, *layout, run_check=False, shape=like.shape, stride=like.stride())
    return part.full_tensor()


@torch.no_grad()
def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that is laid out `like` another; nothing is sent."""
    return local(spread(tensor, like))


@torch.no_grad()
def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which all processes have, sharded `like` another."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's ``state_dict`` with whole tensors, those that are sharded on the CPU; all must ask together."""
    state = module.state_dict()
    return {name: whole(value, value).cpu() if is_sharded(value) else value for name, value in state.items()}


def load_whole_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a `whole_state`, strictly, into a module that is sharded or not."""
    own = module.state_dict()
    module.load_state_dict({name: spread(value, own.get(name, value)) for name, value in state.items()}, strict=True)


def gradient_length(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """The Euclidean length of all gradients together, the same on every process."""
    parts = [local(gradient) for gradient in gradients if is_sharded(gradient)]
    wholes = [gradient for gradient in gradients if not is_sharded(gradient)]
    if not parts:
        return _length(wholes)
    square = _length(parts).square()
    dist.all_reduce(square)
    return (square + _length(wholes).square()).sqrt() if wholes else square.sqrt()


@torch.no_grad()
def average_unsharded_gradients(parameters: Iterable[Tensor]) -> None:
    """What is not sharded has each process's own gradient until it is averaged here, as FSDP does with its own."""
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    if gradients:
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = (together / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def whole_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """An optimizer's ``state_dict`` with whole tensors; `parameters` are in the order of its groups.

    What an optimizer keeps of a parameter has its shape, or none (its count of steps).
    """

    def gathered(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or not is_sharded(parameter):
            return value
        return whole(value, parameter).cpu()

    return _of_each_parameter(state, parameters, gathered)


def part_of_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """This process's part of a `whole_optimizer_state`."""

    def part(value: Any, parameter: Tensor) -> Any:
        return part_of(value, parameter) if isinstance(value, Tensor) and value.ndim else value

    return _of_each_parameter(state, parameters, part)


def _length(tensors: list[Tensor]) -> Float[Tensor, ""]:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def _of_each_parameter(
    state: dict[str, Any], parameters: list[Tensor], change: Callable[[Any, Tensor], Any]
) -> dict[str, Any]:
    changed = {
        number: {key: change(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": changed}
