"""Weights without a download: every tensor is a fixed function of its published name and shape.

The published code computed the outputs in `goldens/` with the same function, so no checkpoint is needed to compare.
Scales make every branch count: layer scales near .3, tokens near .5.
"""

import json
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens"


def named_state_dict(shapes: dict[str, list[int]], salt: int) -> dict[str, Tensor]:
    """Create the state dict for names and shapes; masks of biases are all ones."""
    return {
        name: torch.ones(shape) if name.endswith("bias_mask") else named_tensor(name, tuple(shape), salt)
        for name, shape in shapes.items()
    }


def named_tensor(name: str, shape: tuple[int, ...], salt: int) -> Tensor:
    """Draw standard normal numbers seeded by the name, scaled by the kind of parameter."""
    count = int(np.prod(shape, dtype=np.int64))
    random = np.random.RandomState((zlib.crc32(name.encode()) + salt) % 2**32)
    noise = torch.from_numpy(random.standard_normal(count).astype(np.float32).reshape(shape))
    last = name.rsplit(".", 1)[-1]
    if "pos_embed" in name:
        return 0.1 * noise
    if "token" in name or "empty_pose" in name:
        return 0.5 * noise
    if last == "gamma" or ".ls" in name:
        return 0.3 + 0.05 * noise
    if last == "bias" or last.endswith("_bias"):
        return 0.05 * noise
    if len(shape) == 1:
        return 1 + 0.1 * noise
    return noise / float(np.prod(shape[1:], dtype=np.int64)) ** 0.5


def golden_state_dict(name: str) -> dict[str, Tensor]:
    """Create the weights of a golden of Depth Anything 3, which names biases to which a number is added."""
    return {parameter: value.clone() for parameter, value in _golden_state_dict(name).items()}


@lru_cache(maxsize=1)
def _golden_state_dict(name: str) -> dict[str, Tensor]:
    golden = read_golden(name)
    state_dict = named_state_dict(read_shapes(name), int(golden["salt"]))
    for ending, amount in zip(golden["added_to"].tolist(), golden["added"].tolist(), strict=True):
        for parameter, value in state_dict.items():
            if parameter.endswith(ending):
                value.add_(amount)
    return state_dict


def read_shapes(name: str) -> dict[str, list[int]]:
    """Read the published names and shapes of a golden; ``{}`` in files of VGGT stands for a block number."""
    listed = json.loads((GOLDENS / f"{name}.shapes.json").read_text())
    if name.startswith("da3"):
        return listed
    return {pattern.replace("{}", str(i)): shape for pattern, (count, shape) in listed.items() for i in range(count)}


def read_golden(name: str) -> dict[str, np.ndarray]:
    """Read the outputs of the reference for `images_uint8`; dense maps have every third row and column."""
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return dict(arrays)


def relative_error(found: Tensor, wanted: np.ndarray) -> float:
    """Return the norm of the difference over the norm of the expected values."""
    wanted_tensor = torch.from_numpy(wanted).double()
    return float((found.double() - wanted_tensor).norm() / wanted_tensor.norm())


def shrunk_state_dict() -> dict[str, Tensor]:
    """Create VGGT weights with two blocks of each kind and no tracker, for tests that do not check numbers."""
    return {name: value.clone() for name, value in _shrunk_state_dict().items()}


@lru_cache(maxsize=1)
def _shrunk_state_dict() -> dict[str, Tensor]:
    def is_kept(name: str) -> bool:
        numbers = re.findall(r"(?:blocks|trunk)\.(\d+)\.", name)
        return not name.startswith("track_head") and all(int(number) < 2 for number in numbers)

    return named_state_dict({name: shape for name, shape in read_shapes("vggt_small").items() if is_kept(name)}, 0)
