"""Estimate of the memory that a forward pass needs, measured by a dry run on fake tensors without storage."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recon4d.models.scene_model import SceneModel


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a forward pass on the device of the model, in bytes."""

    weights: int
    """Size of parameters and buffers."""
    peak: int
    """Peak memory during the pass, including the weights."""

    def __str__(self) -> str:
        return f"{self.peak / 2**30:.1f} GiB, of which weights {self.weights / 2**30:.1f}"


def plan_memory(
    model: SceneModel,
    num_frames: int,
    size: tuple[int, int],
    num_anchors: int = 0,
    frame_chunk: int = 4,
    bfloat16: bool = False,
) -> MemoryPlan:
    """Estimate the peak memory of `SceneModel.outputs` for one clip.

    Long clips are extrapolated linearly from one and two chunks of frames: memory grows at most linearly with the
    number of frames, because attention never stores its score matrix. Workspaces of kernels are not counted.

    Args:
        model: The model, on its device.
        num_frames: Number of frames.
        size: Height and width of the images in pixels.
        num_anchors: Number of anchor frames. All numbers above 0 are estimated as 1.
        frame_chunk: Number of frames that backbone and heads process at once.
        bfloat16: Whether the pass runs under bfloat16 autocast.

    Returns:
        The estimate.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))

    def peak_activations(frames: int) -> int:
        return _peak_of_pass(model, frames, size, min(num_anchors, 1), frame_chunk, bfloat16)

    few, more = frame_chunk, 2 * frame_chunk
    if num_frames <= more:
        activations = peak_activations(num_frames)
    else:
        at_few, at_more = peak_activations(few), peak_activations(more)
        activations = at_more + (at_more - at_few) * (num_frames - more) // (more - few)
    return MemoryPlan(weights, weights + activations)


def _peak_of_pass(
    model: SceneModel, num_frames: int, size: tuple[int, int], num_anchors: int, frame_chunk: int, bfloat16: bool
) -> int:
    device = model.device
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
        LiveBytes() as live,
    ):
        images = torch.empty(1, num_frames, 3, *size, dtype=torch.uint8, device=device)
        model.outputs(images, anchors=tuple(range(num_anchors)), frame_chunk=frame_chunk)
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that are allocated inside the context, on any device.

    Activations that only the graph of autograd holds are counted too. Workspaces of kernels are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes that are live at the moment."""
        self.peak = 0
        """Largest number of bytes that were live at the same time."""
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and id(storage) not in self._counted:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._counted.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size
