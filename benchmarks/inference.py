"""Time and memory of a forward pass: ``python -m benchmarks.inference --model vggt_1b --frames 1 10 50 100 200``.

Weights are random unless a file is given. Time and memory do not depend on the weights, but the error of approximations
does. Each number of frames is run in float32 and with several optimizations.

With ``--reference CHECKOUT``, models of Depth Anything 3 run beside its published code (`benchmarks.da3_reference`) on
the same weights and images in the same process, in turns:
``python -m benchmarks.inference --model da3_small --frames 8 --size 280 504 --reference ~/Depth-Anything-3``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.da3_reference import Reference
from recon4d.models import (
    Model,
    SceneModel,
    cast_to_bfloat16,
    compile_blocks,
    plan_memory,
)
from recon4d.models.memory import LiveBytes
from recon4d.zoo import create_model, from_da3, load_model

Mode = Literal["plain", "lean", "compiled", "thinned"]
"""Optimizations, see `Arguments.modes`."""


@dataclass(frozen=True)
class Arguments:
    """Measure forward passes of a model for several numbers of frames."""

    model: str = "recon4d_small"
    """Name of a model, which gets random weights, or a checkpoint file."""
    frames: tuple[int, ...] = (1, 10, 50)
    """Numbers of frames."""
    size: tuple[int, int] = (336, 518)
    """Height and width of the images in pixels, rounded down to multiples of the patch size."""
    modes: tuple[Mode, ...] = ("plain", "lean", "thinned")
    """plain: float32. lean: bfloat16 where it is safe. compiled: lean with compiled blocks. thinned: lean, and
    attention across frames with the keys and values of a quarter of the patch tokens."""
    aggregator_alone: bool = False
    """Whether to leave out the heads, as published measurements of other models do."""
    repeats: int = 3
    """Number of timed runs, of which the fastest counts."""
    frame_chunk: int = 8
    """Number of frames that the backbone and the dense heads process at once."""
    reference: Path | None = None
    """Checkout of the published code of Depth Anything 3 to run beside its any-view models."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device of the model."""


def main(arguments: Arguments) -> None:
    """Print a row for each number of frames and mode."""
    if arguments.reference is not None:
        for frames in arguments.frames:
            _compare(arguments, arguments.reference, frames)
        return
    device = torch.device(arguments.device)
    print("frames  mode          seconds  ratio  planned GiB  peak GiB  TFLOP/s  attention  output differs by")
    for frames in arguments.frames:
        plain_seconds = plain_output = None
        for mode in arguments.modes:
            model = _model(arguments.model, mode).to(device).requires_grad_(False)
            result = _measure(model, mode, frames, arguments, device)
            plain_seconds = plain_seconds or result.seconds
            plain_output = result.output if plain_output is None else plain_output
            difference = ((result.output - plain_output).abs() / plain_output).median()
            print(
                f"{frames:6d}  {mode:12s} {result.seconds:8.3f} {plain_seconds / result.seconds:6.2f} "
                f"{result.planned / 2**30:12.2f} {_gibibytes(result.peak)} {result.teraflops:8.3f} "
                f"{100 * result.attention_share:8.0f} % {float(difference):16.2e}",
                flush=True,
            )


@dataclass(frozen=True)
class Result:
    """Measurements of one mode."""

    seconds: float
    """Time of a forward pass."""
    planned: int
    """Peak memory predicted by `plan_memory`, in bytes."""
    peak: int | None
    """Measured peak memory in bytes; None without CUDA."""
    teraflops: float
    """Floating-point operations per second, in 10^12."""
    attention_share: float
    """Time of attention across frames alone, as a fraction of the whole; a lower bound for exact methods."""
    output: Tensor
    """Depths, or the norms of the last tokens without heads."""


def _gibibytes(peak: int | None) -> str:
    return "        -" if peak is None else f"{peak / 2**30:9.2f}"


@torch.inference_mode()
def _compare(arguments: Arguments, checkout: Path, frames: int) -> None:
    """Print seconds and peak memory of the published code and of each mode, as ratios too."""
    device = torch.device(arguments.device)
    reference = Reference(checkout, arguments.model.removeprefix("da3_")).to(device)
    height, width = (side // 14 * 14 for side in arguments.size)
    images = torch.randint(0, 256, (1, frames, 3, height, width), dtype=torch.uint8, device=device)
    passes: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {"reference": (reference, lambda: reference(images))}
    for mode in arguments.modes:
        model = from_da3({name: value.clone() for name, value in reference.published_state_dict().items()})
        passes[mode] = (model, partial(_depths, _prepared(model, mode), images, mode, arguments.frame_chunk))
    depths = {name: run() for name, (_, run) in passes.items()}
    seconds = dict.fromkeys(passes, math.inf)
    for _ in range(arguments.repeats):
        for name, (_, run) in passes.items():
            seconds[name] = min(seconds[name], _seconds(run, 1, device))
    peaks = {name: _peak_bytes(module, run, device) for name, (module, run) in passes.items()}
    print(f"{arguments.model}, {frames} frames of {width} x {height} pixels on {device}")
    print("mode          seconds  times faster  peak MiB  share of memory  depth differs by")
    for name in passes:
        error = float((depths[name] - depths["reference"]).norm() / depths["reference"].norm())
        print(
            f"{name:12s} {seconds[name]:8.2f} {seconds['reference'] / seconds[name]:13.2f} "
            f"{peaks[name] / 2**20:9.0f} {peaks[name] / peaks['reference']:16.2f} {error:17.1e}",
            flush=True,
        )


def _depths(model: SceneModel, images: Tensor, mode: Mode, frame_chunk: int) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mode != "plain"):
        key_stride = 2 if mode == "thinned" else 1
        return model.outputs(images, anchors=(), frame_chunk=frame_chunk, key_stride=key_stride).scene.depths


def _peak_bytes(module: nn.Module, run: Callable[[], Tensor], device: torch.device) -> int:
    """Return the weights and the largest memory of live tensors during a pass."""
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return weights + torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        run()
    return weights + live.peak


@torch.inference_mode()
def _measure(model: Model, mode: Mode, frames: int, arguments: Arguments, device: torch.device) -> Result:
    size = tuple(side // model.patch_size * model.patch_size for side in arguments.size)
    images = torch.randint(0, 256, (1, frames, 3, *size), dtype=torch.uint8, device=device)
    key_stride = 2 if mode == "thinned" else 1
    in_bfloat16 = mode != "plain"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    planned = plan_memory(model, frames, (size[0], size[1]), 0, arguments.frame_chunk, in_bfloat16).peak

    def run() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            if arguments.aggregator_alone:
                tokens = model.tokens(images, frame_chunk=arguments.frame_chunk, key_stride=key_stride)
                return tokens.state.features[-1].float().norm(dim=-1)
            return model.outputs(
                images, anchors=(), frame_chunk=arguments.frame_chunk, key_stride=key_stride
            ).scene.depths

    with FlopCounterMode(display=False) as counter:
        output = run()
    seconds = _seconds(run, arguments.repeats, device)
    # Only CUDA counts allocations exactly; the resident memory of a process includes freed blocks.
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    alone = _attention_seconds(model, frames, (size[0], size[1]), key_stride, arguments, in_bfloat16, device)
    return Result(seconds, planned, peak, counter.get_total_flops() / 1e12 / seconds, alone / seconds, output)


def _attention_seconds(
    model: Model,
    frames: int,
    size: tuple[int, int],
    key_stride: int,
    arguments: Arguments,
    in_bfloat16: bool,
    device: torch.device,
) -> float:
    """Measure the time of all attention layers across frames."""
    config = model.config.aggregator
    patches = (size[0] // model.patch_size) * (size[1] // model.patch_size)
    tokens = frames * (patches + model.aggregator.num_special)
    keys = patches + frames * model.aggregator.num_special + (frames - 1) * patches // key_stride**2
    dtype = torch.bfloat16 if in_bfloat16 else torch.float32
    heads, width = config.block.heads, config.block.width // config.block.heads
    query, key, value = (
        torch.randn(1, heads, count, width, dtype=dtype, device=device) for count in (tokens, keys, keys)
    )
    once = _seconds(lambda: F.scaled_dot_product_attention(query, key, value), arguments.repeats, device)
    return once * (config.depth - len(config.register_attention))


def _seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the time of the fastest run, with synchronization; other load can only add to it."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return min(timed() for _ in range(repeats))


def _model(name: str, mode: Mode) -> Model:
    model = load_model(name) if Path(name).is_file() else create_model(name, pretrained=False)
    assert isinstance(model, Model), "only models with an aggregator are measured"
    _prepared(model, mode)
    return model


def _prepared(model: SceneModel, mode: Mode) -> SceneModel:
    if mode != "plain":
        cast_to_bfloat16(model)
    if mode == "compiled":
        compile_blocks(model)
    return model


if __name__ == "__main__":
    main(tyro.cli(Arguments))
