"""Checkpoints: one safetensors file with the configuration inside, loaded strictly or not at all."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from recon4d.models import Model, ModelConfig
from recon4d.records import Calibration, config_from_json, config_to_json

if TYPE_CHECKING:
    from safetensors import safe_open

Storage = Literal["float32", "bfloat16", "int8"]
"""How weights lie on disk; they are float32 again once loaded. int8 has one float32 scale for each row."""

FORMAT_FAMILY = "recon4d-checkpoint-"
FORMAT = f"{FORMAT_FAMILY}1"
SCALE_SUFFIX = ".int8_scale"
SHOWN_NAMES = 3


def save_model(model: Model, path: str | Path, storage: Storage = "float32") -> None:
    """Write `model` to one safetensors file, whole or not at all. Raises ``OSError`` where it cannot be written."""
    from safetensors.torch import save

    path = Path(path)
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config_to_json(model.config)),
        "name": model.name,
        "trained": json.dumps(model.trained),
        "storage": storage,
    }
    if model.calibration is not None:
        metadata["calibration"] = json.dumps(config_to_json(model.calibration))
    data = save(_pack(model.state_dict(), storage), metadata)
    # Written beside its final place and moved there: a reader never sees half a file.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_checkpoint(path: Path) -> bool:
    """Whether a file says of itself that this package wrote it."""
    if path.suffix != ".safetensors":
        return False
    with _opened(path) as file:
        # Others write a format too: files of the Hugging Face libraries say "pt".
        return (file.metadata() or {}).get("format", "").startswith(FORMAT_FAMILY)


def load_checkpoint(path: str | Path) -> Model:
    """The model of a checkpoint file that `save_model` wrote, in evaluation mode on the CPU.

    Raises ``FileNotFoundError``, or ``ValueError`` where the file is damaged, is not a checkpoint of recon4d, or has
    names or shapes that its own configuration does not.
    """
    path = Path(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise ValueError(f"{path} is not a recon4d checkpoint: its format is {found}, wanted {FORMAT}")
    try:
        config = config_from_json(ModelConfig, json.loads(metadata["config"]))
    except ValueError as error:
        raise ValueError(f"{path} has a configuration that this version cannot read: {error}") from error
    calibration = _read_calibration(path, metadata.get("calibration"))

    model = empty_model(config)
    state = _unpack(tensors)
    _check_fit(path, {name: tuple(value.shape) for name, value in model.state_dict().items()}, state)
    model.load_state_dict(state, strict=True, assign=True)
    model.name = metadata["name"]
    model.trained = json.loads(metadata["trained"])
    model.calibration = calibration
    return model.eval()


def empty_model(config: ModelConfig) -> Model:
    """A model whose parameters have shapes and no values, made without the time to initialize them."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return Model(config)


@contextmanager
def _opened(path: Path) -> "Iterator[safe_open]":
    """A safetensors file whose tensors are read when they are asked for."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error


def _read_calibration(path: Path, text: str | None) -> Calibration | None:
    """None where nobody has calibrated the model, as in every file from before that could be done."""
    if text is None:
        return None
    try:
        return config_from_json(Calibration, json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path} has a calibration that this version cannot read: {error}") from error


def _check_fit(path: Path, wanted: dict[str, tuple[int, ...]], state: dict[str, Tensor]) -> None:
    """Name the first few differences, and what was expected."""
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"lacks {_first(missing)}")
    if unknown := sorted(state.keys() - wanted.keys()):
        problems.append(f"has unknown {_first(unknown)}")
    problems += [
        f"has {name} of shape {tuple(state[name].shape)}, wanted {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ][:SHOWN_NAMES]
    if problems:
        raise ValueError(f"{path} does not fit its own configuration: it {', '.join(problems)}")


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _pack(state: dict[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    packed = {}
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if storage == "bfloat16":
            tensor = tensor.to(torch.bfloat16)
        elif storage == "int8" and tensor.ndim > 1:
            tensor, packed[name + SCALE_SUFFIX] = _quantize(tensor)
        packed[name] = tensor
    return packed


def _unpack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for name, value in tensors.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = tensors.get(name + SCALE_SUFFIX)
        state[name] = value.float() if scale is None else value.float() * _per_row(scale, value)
    return state


def _quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers in [-127, 127] and the scale of each row: an error of at most half a step, 1/254 of its largest."""
    scale = tensor.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (tensor / _per_row(scale, tensor)).round().clamp(-127, 127).to(torch.int8), scale.float()


def _per_row(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.ndim - 1))
