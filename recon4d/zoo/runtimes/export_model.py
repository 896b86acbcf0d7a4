"""Export of networks of the zoo to files for other runtimes, checked against PyTorch."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from recon4d.errors import UserError, one_line
from recon4d.io.temporaries import temporary_folder
from recon4d.models import SceneModel
from recon4d.zoo.runtimes.onnx_files import load_onnx_packages, onnx_runner, write_onnx
from recon4d.zoo.runtimes.portable_network import PortableNetwork, example_inputs

RuntimeName = Literal["torch-export", "onnx"]
"""Formats of exported networks."""

SUFFIXES: dict[RuntimeName, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
"""File name ending of each format."""

TOLERANCE = 1e-4
"""Largest difference to PyTorch on the CPU, relative to values above 1."""

MAX_BATCH = 64
"""Largest batch size of programs of torch.export with an open batch size. Hand-tuned: far above what memory allows."""

TRACED_BATCH = 2
"""Batch size during tracing; a size of 1 could not be left open."""


@dataclass(frozen=True)
class ModelExport:
    """What to export.

    Raises:
        UserError: If a value is out of range.
    """

    to: RuntimeName
    """Format of the file."""
    frames: int
    """Number of frames of a clip; fixed in the file."""
    size: tuple[int, int]
    """Height and width of the images in pixels; fixed in the file."""
    with_tracks: bool = True
    """Whether tracks of the pixels of the first frame are an output, if the network predicts them."""
    open_batch: bool = True
    """Whether the number of clips is left open. False fixes it to 1."""
    check: bool = True
    """Whether the file is run and compared with PyTorch."""

    def __post_init__(self) -> None:
        if self.to not in get_args(RuntimeName):
            raise UserError(f"unknown runtime {self.to!r}; wanted one of {', '.join(get_args(RuntimeName))}")
        if self.frames < 1:
            raise UserError(f"the number of frames is {self.frames}; wanted at least 1")


@dataclass(frozen=True)
class ExportedModel:
    """A file that was written."""

    file: Path
    """The file. ONNX files of networks above 2 GB have their weights beside it, with `.data` at the end."""
    inputs: tuple[str, ...]
    """Names of the inputs."""
    outputs: dict[str, tuple[int, ...]]
    """Shape of each output of one clip."""
    batch_reason: str | None
    """Why the number of clips is fixed to 1; None if it is open."""
    differences: dict[str, float] | None
    """Largest difference of each output to PyTorch, relative to values above 1; None if it was not checked."""


def export_model(model: SceneModel, file: str | Path, export: ModelExport) -> ExportedModel:
    """Write a network to a file for another runtime, and compare what the file computes with PyTorch.

    Args:
        model: The network, on the CPU. It is put into evaluation mode.
        file: File to write; an existing one is replaced.
        export: What to export.

    Returns:
        What was written.

    Raises:
        UserError: If the image size does not suit the network, the network cannot be traced or has operators that the
            runtime lacks, a package is missing, the file cannot be written, or its results differ from PyTorch's.
    """
    file = Path(file)
    _check_request(model, file, export)
    network = PortableNetwork(model.float(), export.with_tracks)
    inputs = example_inputs(network, 1, export.frames, export.size)
    with torch.no_grad():
        expected = network(*inputs)
        program, batch_reason = _trace(network, export)
    metadata = json.dumps(_metadata(model, network, export, expected))
    try:
        with temporary_folder(file) as folder, _quiet():
            partial = folder / file.name
            if export.to == "onnx":
                write_onnx(program, partial, network.input_names, tuple(expected), metadata)
            else:
                torch.export.save(program, partial, extra_files={"recon4d.json": metadata})
            differences = _check(network, partial, export, batch_reason is None) if export.check else None
            # Weights beside the file come first, so that a file is never without them.
            for part in sorted(folder.iterdir(), key=lambda part: part.name == file.name):
                part.replace(file.parent / part.name)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or one_line(error)}") from error
    shapes = {name: tuple(value.shape[1:]) for name, value in expected.items()}
    return ExportedModel(file, network.input_names, shapes, batch_reason, differences)


def _check_request(model: SceneModel, file: Path, export: ModelExport) -> None:
    suffix = SUFFIXES[export.to]
    if file.suffix != suffix:
        raise UserError(f"the output file is {file}; wanted a name that ends with {suffix} for {export.to}")
    if not file.parent.is_dir():
        raise UserError(f"the folder {file.parent} of the output file does not exist")
    height, width = export.size
    if min(export.size) < model.patch_size or height % model.patch_size or width % model.patch_size:
        raise UserError(
            f"the size is {height}x{width} (height x width); both sides must be multiples of {model.patch_size} for "
            f"{model.name}"
        )
    if export.to == "onnx":
        load_onnx_packages()


def _trace(network: PortableNetwork, export: ModelExport) -> tuple[Any, str | None]:
    """Trace the network; return the program, and why its batch size is 1 (None if it is open)."""
    # Imported here, because it takes a second.
    from torch._dynamo.exc import UserError as TracingError

    reason = "as requested"
    if export.open_batch:
        try:
            batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
            shapes = {name: {0: batch} for name in network.input_names}
            return _traced(network, export, TRACED_BATCH, shapes), None
        except (RuntimeError, TracingError) as error:
            reason = f"the network fixes it while it is traced ({_first_line(error)})"
    try:
        return _traced(network, export, 1, None), reason
    except (RuntimeError, TracingError) as error:
        raise UserError(f"{network.model.name} cannot be traced: {one_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].strip() if str(error).strip() else type(error).__name__


def _traced(network: PortableNetwork, export: ModelExport, batch: int, shapes: dict[str, Any] | None) -> Any:
    inputs = example_inputs(network, batch, export.frames, export.size)
    named = dict(zip(network.input_names, inputs, strict=True))
    with _quiet():
        return torch.export.export(network, (), named, dynamic_shapes=shapes, strict=False)


def _metadata(
    model: SceneModel, network: PortableNetwork, export: ModelExport, outputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return what the file says about itself."""
    return {
        "model": model.name,
        "trained": model.trained,
        "frames": export.frames,
        "height": export.size[0],
        "width": export.size[1],
        "inputs": list(network.input_names),
        "outputs": list(outputs),
    }


def _check(network: PortableNetwork, file: Path, export: ModelExport, is_open: bool) -> dict[str, float]:
    """Run the file with one clip, and with several if it takes them; return the largest difference of each output.

    Raises:
        UserError: If a difference exceeds `TOLERANCE`.
    """
    run = onnx_runner(file) if export.to == "onnx" else _program_runner(file)
    largest: dict[str, float] = {}
    for batch in (1, 3) if is_open else (1,):
        inputs = example_inputs(network, batch, export.frames, export.size, seed=batch)
        with torch.no_grad():
            expected = network(*inputs)
        found = run(dict(zip(network.input_names, inputs, strict=True)))
        for name, value in expected.items():
            largest[name] = max(largest.get(name, 0.0), _difference(found[name], value))
    for name, difference in largest.items():
        if not difference <= TOLERANCE:
            raise UserError(
                f"{name} differs from PyTorch by {difference:.2g}, more than {TOLERANCE:g}; nothing was written "
                "(check=False skips the comparison)"
            )
    return largest


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return torch.inf
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def _program_runner(file: Path) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    module = torch.export.load(file).module()

    def run(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return module(**inputs)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and log lines of the tracers, which are for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
