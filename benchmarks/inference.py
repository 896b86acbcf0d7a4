"""How fast a pass is and what it holds: ``python -m benchmarks.inference --model vggt_1b --frames 1 10 50 100 200``.

Weights are random unless a file is given: time and memory do not depend on them, what an approximation costs in
accuracy does. Every number of frames is run plainly (float32, all that training keeps) and lean, side by side.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from recon4d.models import (
    Model,
    cast_to_bfloat16,
    compile_blocks,
    plan_memory,
)
from recon4d.zoo import create_model, load_model

Mode = Literal["plain", "lean", "compiled", "thinned"]


@dataclass(frozen=True)
class Arguments:
    """Time passes of a model over clips of several lengths."""

    model: str = "recon4d_small"
    """A name of `recon4d models`, with random weights, or a checkpoint file."""
    frames: tuple[int, ...] = (1, 10, 50)
    size: tuple[int, int] = (336, 518)
    """Height and width of the pictures; made multiples of the patch."""
    modes: tuple[Mode, ...] = ("plain", "lean", "thinned")
    """plain: float32. lean: bfloat16 where it is safe. compiled: lean with compiled blocks. thinned: lean, with keys
    and values across frames of a quarter of the patches."""
    aggregator_alone: bool = False
    """Leave the heads out, as peers' figures do."""
    repeats: int = 3
    frame_chunk: int = 8
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: Arguments) -> None:
    device = torch.device(arguments.device)
    print("frames  mode          seconds  ratio  planned GiB  peak GiB  TFLOP/s  attention  answer differs by")
    for frames in arguments.frames:
        seconds_of_plain = answer_of_plain = None
        for mode in arguments.modes:
            model = _model(arguments.model, mode).to(device).requires_grad_(False)
            result = _measure(model, mode, frames, arguments, device)
            seconds_of_plain = seconds_of_plain or result.seconds
            answer_of_plain = result.answer if answer_of_plain is None else answer_of_plain
            difference = ((result.answer - answer_of_plain).abs() / answer_of_plain).median()
            print(
                f"{frames:6d}  {mode:12s} {result.seconds:8.3f} {seconds_of_plain / result.seconds:6.2f} "
                f"{result.planned / 2**30:12.2f} {_gibibytes(result.peak)} {result.teraflops:8.3f} "
                f"{100 * result.attention_share:8.0f} % {float(difference):16.2e}",
                flush=True,
            )


@dataclass(frozen=True)
class Result:
    """What one mode did."""

    seconds: float
    planned: int
    peak: int | None
    teraflops: float
    attention_share: float
    """How much of the time attention across frames takes when it is run alone: nothing exact is faster than that."""
    answer: Tensor
    """Depths, or without heads the lengths of the last tokens."""


def _gibibytes(peak: int | None) -> str:
    return "        -" if peak is None else f"{peak / 2**30:9.2f}"


@torch.inference_mode()
def _measure(model: Model, mode: Mode, frames: int, arguments: Arguments, device: torch.device) -> Result:
    size = tuple(side // model.patch_size * model.patch_size for side in arguments.size)
    images = torch.randint(0, 256, (1, frames, 3, *size), dtype=torch.uint8, device=device)
    key_stride = 2 if mode == "thinned" else 1
    is_narrow = mode != "plain"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    planned = plan_memory(model, frames, (size[0], size[1]), 0, arguments.frame_chunk, is_narrow).peak

    def run() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_narrow):
            if arguments.aggregator_alone:
                tokens = model.tokens(images, frame_chunk=arguments.frame_chunk, key_stride=key_stride)
                return tokens.state.features[-1].float().norm(dim=-1)
            return model.outputs(
                images, anchors=(), frame_chunk=arguments.frame_chunk, key_stride=key_stride
            ).scene.depths

    with FlopCounterMode(display=False) as counter:
        answer = run()
    seconds = _seconds(run, arguments.repeats, device)
    # A process gives back what it frees when it likes: only the GPU's own count says what a pass held.
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    alone = _attention_seconds(model, frames, (size[0], size[1]), key_stride, arguments, is_narrow, device)
    return Result(seconds, planned, peak, counter.get_total_flops() / 1e12 / seconds, alone / seconds, answer)


def _attention_seconds(
    model: Model,
    frames: int,
    size: tuple[int, int],
    key_stride: int,
    arguments: Arguments,
    is_narrow: bool,
    device: torch.device,
) -> float:
    """Seconds that attention across frames alone takes in all pairs of blocks."""
    config = model.config.aggregator
    patches = (size[0] // model.patch_size) * (size[1] // model.patch_size)
    tokens = frames * (patches + model.aggregator.num_special)
    keys = patches + frames * model.aggregator.num_special + (frames - 1) * patches // key_stride**2
    dtype = torch.bfloat16 if is_narrow else torch.float32
    heads, width = config.block.heads, config.block.width // config.block.heads
    query, key, value = (
        torch.randn(1, heads, count, width, dtype=dtype, device=device) for count in (tokens, keys, keys)
    )
    once = _seconds(lambda: F.scaled_dot_product_attention(query, key, value), arguments.repeats, device)
    return once * (config.depth - len(config.register_attention))


def _seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The fastest of some runs, the device waited for: what else the machine did only ever adds."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return min(timed() for _ in range(repeats))


def _model(name: str, mode: Mode) -> Model:
    model = load_model(name) if Path(name).is_file() else create_model(name, weights=None)
    if mode != "plain":
        cast_to_bfloat16(model)
    if mode == "compiled":
        compile_blocks(model)
    return model


if __name__ == "__main__":
    main(tyro.cli(Arguments))
