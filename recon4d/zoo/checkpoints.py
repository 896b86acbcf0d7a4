"""Checkpoints: one safetensors file that contains weights and configuration, loaded strictly."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recon4d.errors import UserError, one_line
from recon4d.io import atomic_file
from recon4d.models import (
    Model,
    ModelConfig,
    MonoModel,
    MonoModelConfig,
    NestedModel,
    NestedModelConfig,
    NetworkConfig,
    SceneModel,
    create_network,
)
from recon4d.records import Calibration, config_from_json, config_to_json
from recon4d.zoo.safetensors_header import with_sorted_metadata

if TYPE_CHECKING:
    from safetensors import safe_open

Parsed = TypeVar("Parsed")
Storage = Literal["float32", "bfloat16", "int8"]
"""Data type of weights on disk; loaded weights are always float32. int8 stores one float32 scale per row."""

FORMAT_FAMILY = "recon4d-checkpoint-"
FORMAT = f"{FORMAT_FAMILY}1"
SCALE_SUFFIX = ".int8_scale"
"""Suffix of the names of the row scales of int8 weights."""
SHOWN_NAMES = 3
"""Number of parameter names that an error message lists."""


def save_model(model: SceneModel, path: str | Path, storage: Storage = "float32") -> None:
    """Write a model to one safetensors file, atomically. The same model always gives the same bytes.

    Args:
        model: The model. Its name, calibration and training state are stored too.
        path: File to write; an existing one is replaced.
        storage: Data type of the stored weights.

    Raises:
        UserError: If the file cannot be written.
    """
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
    header, tensors = with_sorted_metadata(save(_pack(model.state_dict(), storage), metadata))
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(header)
        file.write(tensors)


def is_checkpoint(path: Path) -> bool:
    """Whether this package wrote a file, according to its metadata.

    Args:
        path: Any existing file.

    Returns:
        True for safetensors files with the format tag of this package.
    """
    if path.suffix != ".safetensors":
        return False
    with _opened(path) as file:
        # Hugging Face libraries write a format tag too: "pt".
        return (file.metadata() or {}).get("format", "").startswith(FORMAT_FAMILY)


def load_checkpoint(path: str | Path) -> SceneModel:
    """Load a checkpoint that `save_model` wrote.

    Args:
        path: The .safetensors file.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        UserError: If the file does not exist, is damaged, is not a checkpoint of recon4d, or has parameters that do not
            fit its own configuration.
    """
    path = Path(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise UserError(f"{path} is not a recon4d checkpoint: its format is {found}, wanted {FORMAT}")
    config = _parse(path, metadata, "config", lambda value: config_from_json(NetworkConfig, value))
    trained = _parse(path, metadata, "trained", _check_trained)
    calibration = None
    if "calibration" in metadata:
        calibration = _parse(path, metadata, "calibration", lambda value: config_from_json(Calibration, value))

    model = _model_of(path, config)
    state = _unpack(path, tensors)
    _check_fit(path, {name: tuple(value.shape) for name, value in model.state_dict().items()}, state)
    model.load_state_dict(state, strict=True, assign=True)
    _check_finite(path, state)
    model.name = metadata.get("name", "custom")
    model.trained = trained
    model.calibration = calibration
    return model.eval()


@overload
def empty_model(config: ModelConfig) -> Model: ...
@overload
def empty_model(config: MonoModelConfig) -> MonoModel: ...
@overload
def empty_model(config: NestedModelConfig) -> NestedModel: ...
def empty_model(config: NetworkConfig) -> SceneModel:
    """Create a model whose parameters have shapes but no values, without the time for initialization.

    Args:
        config: Configuration of the model.

    Returns:
        The model, with all parameters on the meta device.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(), _SkipNormalOnMeta():
        return create_network(config)


class _SkipNormalOnMeta(TorchFunctionMode):
    """Skip `nn.init.normal_` of tensors without values, which imports torch._dynamo: more than a second."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.init.normal_ and kwargs["tensor"].is_meta:
            return kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _opened(path: Path) -> "Iterator[safe_open]":
    """Open a safetensors file whose tensors are read on demand."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error


def _parse(path: Path, metadata: dict[str, str], name: str, parse: Callable[[Any], Parsed]) -> Parsed:
    """Parse an entry of the metadata, which is JSON."""
    if name not in metadata:
        raise UserError(f"{path} has no {name} in its metadata; recon4d did not write it")
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its {name} is not JSON: {one_line(error)}") from error
    try:
        return parse(value)
    except UserError as error:
        raise UserError(f"{path} has a {name} that this version cannot read: {error}") from error


def _check_trained(value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"it is {value!r}, wanted true or false")
    return value


def _model_of(path: Path, config: NetworkConfig) -> SceneModel:
    """Create the model of a configuration, whose values may contradict each other."""
    try:
        return empty_model(config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise UserError(f"{path} has a config that describes no model: {one_line(error)}") from error


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UserError(f"{path} is damaged: {_first(broken)} has values that are not finite")


def _check_fit(path: Path, wanted: dict[str, tuple[int, ...]], state: dict[str, Tensor]) -> None:
    """Raise `UserError` with the first differences between the stored and the expected parameters."""
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
        raise UserError(f"{path} does not fit its own configuration: it {', '.join(problems)}")


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


def _unpack(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for name, value in tensors.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = tensors.get(name + SCALE_SUFFIX)
        if scale is not None and scale.numel() != len(value):
            raise UserError(f"{path} is damaged: {name} has {len(value)} rows and {scale.numel()} scales")
        state[name] = value.float() if scale is None else value.float().mul_(_per_row(scale, value))
    return state


def _quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows to integers in [-127, 127] with one scale per row; the error is at most 1/254 of its maximum."""
    scale = tensor.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (tensor / _per_row(scale, tensor)).round().clamp(-127, 127).to(torch.int8), scale.float()


def _per_row(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.ndim - 1))
