"""Sharding of parameters over processes (FSDP2): each process holds a shard of every tensor.

A sharded parameter is a `DTensor`: its `to_local` is this process's shard, its `full_tensor` the whole tensor.
Computing the latter is a collective operation: all processes must call it together. Optimizer states and weight
averages are stored as plain local shards. Checkpoints contain full tensors and do not depend on the number of
processes that wrote them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from recon4d.layers import Block, CrossBlock


def shard(module: nn.Module, device: torch.device) -> None:
    """Shard the parameters of a module over all processes, in place.

    Transformer blocks are the units of communication. Names of parameters do not change. Scalar parameters cannot be
    sharded and stay whole; see `average_unsharded_gradients`.

    Args:
        module: The module to shard.
        device: Device of this process; its type decides the communication backend.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    units = [block for block in module.modules() if isinstance(block, Block | CrossBlock)]
    for unit in (*units, module):
        # The root is resharded after its forward pass too. Otherwise it would keep gathered parameters and ignore
        # averaged weights that are swapped in for validation.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)


def is_sharded(parameter: Tensor) -> bool:
    """Return whether this process holds only a shard of a tensor.

    Args:
        parameter: A tensor of any shape.

    Returns:
        True for a `DTensor`.
    """
    return isinstance(parameter, DTensor)


@torch.no_grad()
def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor.

    Args:
        tensor: A tensor of any shape, sharded or not.

    Returns:
        The local shard, which shares memory with the sharded tensor; an unsharded tensor is returned as it is.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_tensor(part: Tensor, like: Tensor) -> Tensor:
    """Gather a tensor on every process. All processes must call this together.

    Args:
        part: This process's shard, a tensor of any shape.
        like: A tensor with the layout of the full tensor. If it is not sharded, `part` is already whole.

    Returns:
        The full tensor.
    """
    if not isinstance(like, DTensor):
        return part
    if not isinstance(part, DTensor):
        layout = like.device_mesh, like.placements
        part = DTensor.from_local(part, *layout, run_check=False, shape=like.shape, stride=like.stride())
    return part.full_tensor()


@torch.no_grad()
def gather_on_main(part: Tensor, like: Tensor) -> Tensor | None:
    """Gather a tensor on the CPU of rank 0. All processes must call this together.

    Args:
        part: This process's shard, a tensor of any shape.
        like: A tensor with the layout of the full tensor. If it is not sharded, `part` is already whole.

    Returns:
        On rank 0 the full tensor on the CPU, on other ranks None. If `like` is not sharded, `part` on all ranks.
    """
    if not is_sharded(like):
        return part
    # Every rank takes part in the communication, but only rank 0 keeps the result.
    gathered = full_tensor(part, like)
    return gathered.cpu() if dist.get_rank() == 0 else None


@torch.no_grad()
def local_tensor_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a full tensor, without communication.

    Args:
        tensor: A full tensor of any shape, the same on all processes.
        like: A tensor of the same shape with the wanted layout.

    Returns:
        The local shard; `tensor` itself if `like` is not sharded.
    """
    return local_tensor(distribute_like(tensor, like))


@torch.no_grad()
def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor in the layout of another one, without communication.

    Args:
        tensor: A full tensor of any shape, the same on all processes.
        like: A tensor of the same shape with the wanted layout.

    Returns:
        The sharded tensor; `tensor` itself if `like` is not sharded.
    """
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Gather the ``state_dict`` of a sharded module on rank 0. All processes must call this together.

    Args:
        module: A sharded module, or one that is not.

    Returns:
        Full tensors of the shapes of the parameters and buffers. If the module is sharded, they are on the CPU on rank
        0, and the dictionary is empty on other ranks. Otherwise this is the module's own ``state_dict``.
    """
    if not any(is_sharded(parameter) for parameter in module.parameters()):
        return dict(module.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(module, options=options))  # pyright: ignore[reportReturnType]


def load_full_state_dict(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a full ``state_dict``, strictly.

    Args:
        module: A module, sharded or not.
        state: Full tensors by name, on all processes; see `full_state_dict` for their shapes.
    """
    own = module.state_dict()
    full = {name: distribute_like(value, own.get(name, value)) for name, value in state.items()}
    module.load_state_dict(full, strict=True)


def gradient_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """Compute the Euclidean norm of all gradients together. All processes must call this together.

    Args:
        gradients: Gradients of any shape, sharded or not.

    Returns:
        The norm, a scalar that is the same on all processes.
    """
    shards = [local_tensor(gradient) for gradient in gradients if is_sharded(gradient)]
    unsharded = [gradient for gradient in gradients if not is_sharded(gradient)]
    if not shards:
        return get_total_norm(unsharded)
    square = get_total_norm(shards).square()
    dist.all_reduce(square)
    return (square + get_total_norm(unsharded).square()).sqrt()


@torch.no_grad()
def average_unsharded_gradients(parameters: Iterable[Tensor]) -> None:
    """Average gradients of unsharded parameters over all processes, in place, as FSDP does for sharded ones.

    Args:
        parameters: Parameters of any shape; sharded parameters and those without a gradient are ignored.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        averaged = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, value in zip(gradients, averaged, strict=True):
            gradient.copy_(value.view_as(gradient))


def full_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """Gather an optimizer's ``state_dict`` on rank 0. All processes must call this together.

    Args:
        state: The ``state_dict`` with local shards. A tensor in the state of a parameter has the parameter's shape, or
            is a scalar (the number of steps).
        parameters: The parameters in the order of the optimizer's groups, of any shape.

    Returns:
        The ``state_dict`` with full tensors: on the CPU of rank 0 for sharded parameters, None on other ranks.
    """

    def gather(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        return gather_on_main(value, parameter)

    return _map_state(state, parameters, gather)


def local_optimizer_state(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """Return this process's shards of an optimizer's full ``state_dict``.

    Args:
        state: The ``state_dict`` of rank 0 from `full_optimizer_state`.
        parameters: The parameters in the order of the optimizer's groups, of any shape.

    Returns:
        The ``state_dict`` with local shards.
    """

    def take_shard(value: Any, parameter: Tensor) -> Any:
        return local_tensor_like(value, parameter) if isinstance(value, Tensor) and value.ndim else value

    return _map_state(state, parameters, take_shard)


def _map_state(
    state: dict[str, Any], parameters: list[Tensor], function: Callable[[Any, Tensor], Any]
) -> dict[str, Any]:
    """Apply a function to each value in an optimizer's state, with the parameter that it belongs to."""
    mapped = {
        number: {key: function(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": mapped}
