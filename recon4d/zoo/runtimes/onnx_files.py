"""ONNX files of traced networks: written by PyTorch, run by ONNX Runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon4d.errors import UserError, one_line

MAX_FILE_BYTES = 1_900_000_000
"""Largest size of weights inside of the file, in bytes; protobuf allows 2 GiB."""


def load_onnx_packages() -> Any:
    """Import the packages that write and run ONNX files.

    Returns:
        The module `onnxruntime`.

    Raises:
        UserError: If a package is not installed.
    """
    try:
        import onnx  # noqa: F401 # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"ONNX needs onnx, onnxscript and onnxruntime: pip install -e '.[onnx]' ({error})") from error
    return onnxruntime


def write_onnx(
    program: Any, file: Path, input_names: tuple[str, ...], output_names: tuple[str, ...], metadata: str
) -> None:
    """Convert a traced network to ONNX.

    Args:
        program: Program of `torch.export`.
        file: File to write.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        metadata: Value of the metadata entry `recon4d`, as JSON.

    Raises:
        UserError: If the network has operators that ONNX lacks.
    """
    load_onnx_packages()
    try:
        converted = torch.onnx.export(
            program,
            (),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"the network cannot be converted to ONNX: {_innermost(error)}; try it without tracks, or another format"
        ) from error
    assert converted is not None
    converted.model.metadata_props["recon4d"] = metadata
    weights = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    converted.save(file, external_data=weights > MAX_FILE_BYTES)


def onnx_runner(file: Path) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Load a file into ONNX Runtime, on the CPU.

    Args:
        file: An ONNX file.

    Returns:
        A function from named inputs to named outputs.
    """
    session = load_onnx_packages().InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _stable_sort(values: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Express a stable sort by `TopK`, which puts the lower index first among equal values."""
    from onnxscript import opset18 as op  # pyright: ignore[reportMissingImports]

    length: Any = op.Shape(values, start=dim, end=dim + 1 or None)
    return op.TopK(values, length, axis=dim, largest=int(descending), sorted=1)


def _innermost(error: BaseException) -> str:
    """Describe the error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
