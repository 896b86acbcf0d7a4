"""How much memory a pass will need, found before it starts by running it on tensors without storage."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recon4d.models.network import Model


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the model's device."""

    weights: int
    peak: int
    """The most that is held at once during the pass, weights included."""

    def __str__(self) -> str:
        return f"{self.peak / 2**30:.1f} GiB, of which weights {self.weights / 2**30:.1f}"


def plan_memory(
    model: Model,
    num_frames: int,
    size: tuple[int, int],
    num_anchors: int = 0,
    frame_chunk: int = 4,
    bfloat16: bool = False,
) -> MemoryPlan:
    """What `model.outputs` on one clip of pictures of `size` (height, width) will hold at its peak.

    Run for one and for two chunks of frames and continued in a straight line: nothing in a pass grows faster than
    frames (attention never holds a matrix of scores). What kernels take for themselves is not counted.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))

    def held(frames: int) -> int:
        return _peak_of_pass(model, frames, size, min(num_anchors, 1), frame_chunk, bfloat16)

    few, more = frame_chunk, 2 * frame_chunk
    if num_frames <= more:
        activations = held(num_frames)
    else:
        at_few, at_more = held(few), held(more)
        activations = at_more + (at_more - at_few) * (num_frames - more) // (more - few)
    return MemoryPlan(weights, weights + activations)


def _peak_of_pass(
    model: Model, num_frames: int, size: tuple[int, int], num_anchors: int, frame_chunk: int, bfloat16: bool
) -> int:
    device = next(model.parameters()).device
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
        _HeldBytes() as held,
    ):
        images = torch.empty(1, num_frames, 3, *size, dtype=torch.uint8, device=device)
        model.outputs(images, anchors=tuple(range(num_anchors)), frame_chunk=frame_chunk)
    return held.peak


class _HeldBytes(TorchDispatchMode):
    """Counts the bytes of all storages that were made inside and still live, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and id(storage) not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
