"""Training speed: batches, steps and both together: ``python -m benchmarks.train --model recon4d_tiny``."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from recon4d.models.memory import LiveBytes
from recon4d.train.backward import separate_backward
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import Backward, DataConfig, Heads, Precision, TrainConfig
from recon4d.train.loop import make_trainable_model
from recon4d.train.objective import Batch, TrainModule, objective
from recon4d.train.optimizers import make_optimizers

DENSE_BFLOAT16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Peak TFLOP/s of one GPU for dense matrix products in bfloat16, from the data sheets of NVIDIA."""


@dataclass(frozen=True)
class Arguments:
    """Measure the time of batches and training steps on synthetic scenes."""

    model: str = "recon4d_small"
    """Name of the architecture, as listed by `recon4d models`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Shapes and size of the batches; data sets on disk are not read."""
    steps: int = 5
    """Number of timed repetitions."""
    warm_up: int = 2
    """Number of untimed repetitions before."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device that renders and trains."""
    compile: bool = False
    """Compile the transformer blocks and the renderer."""
    heads: Heads = "auto"
    """Kind of the dense heads: linear or dpt; auto is linear."""
    backward: Backward = "joint"
    """One joint backward pass, or a separate one for each branch."""
    precision: Precision = "auto"
    """float32 or bfloat16; auto is bfloat16 on CUDA."""


def seconds(device: torch.device, work: Callable[[int], object], arguments: Arguments) -> float:
    """Return the mean time of one call in seconds, including work that is pending on the device."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for number in range(arguments.warm_up):
        work(number)
    synchronize()
    started = time.perf_counter()
    for number in range(arguments.steps):
        work(arguments.warm_up + number)
    synchronize()
    return (time.perf_counter() - started) / arguments.steps


def main(arguments: Arguments) -> None:
    device = torch.device(arguments.device)
    config = TrainConfig(
        model=arguments.model,
        heads=arguments.heads,
        data=arguments.data,
        compile=arguments.compile,
        precision=arguments.precision,
    )
    is_bfloat16 = arguments.precision == "bfloat16" or (arguments.precision == "auto" and device.type == "cuda")
    batches = Batches(config, RankInfo(device=device))
    model = make_trainable_model(config).to(device)
    train_module, optimizers = TrainModule(model), make_optimizers(model, config.optimiser, is_bfloat16)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)

    def loss_of(totals: Tensor, counts: Tensor, names: Sequence[str] | None = None) -> Tensor:
        return objective(totals, counts, config.losses, names)[0]

    def step(batch: Batch) -> None:
        optimizers.zero_grad()
        if arguments.backward == "separate":
            separate_backward(train_module, batch, loss_of, autocast)
        else:
            with autocast():
                totals, counts = train_module(batch)
            loss_of(totals, counts).backward()
        optimizers.step(1.0)

    batch = batches.synthetic_batch(config.steps - 1, 0)
    with FlopCounterMode(display=False) as counter:
        step(batch)
    teraflops = counter.get_total_flops() / 1e12
    # Compiled code allocates where the count does not see it.
    with nullcontext() if arguments.compile else LiveBytes() as live:
        step(batch)
    batch_time = seconds(device, lambda number: batches.synthetic_batch(number, 0), arguments)
    step_time = seconds(device, lambda number: step(batch), arguments)
    total_time = seconds(device, lambda number: step(batches.synthetic_batch(number, 0)), arguments)

    clips = len(batch.anchors)
    print(f"{arguments.model} on {device}: {clips} clips of {', '.join(arguments.data.shapes)}")
    for name, duration in (("batches", batch_time), ("step", step_time), ("both", total_time)):
        print(f"{name:8} {clips / duration:8.2f} clips a second")
    utilization = _describe_utilization(device, teraflops / step_time)
    print(f"step     {teraflops / step_time:8.3f} TFLOP/s, {teraflops / clips:.3f} TFLOP a clip{utilization}")
    if live is not None:
        print(f"memory   {live.peak / 2**30:8.2f} GiB of activations and gradients at the most")
    if device.type == "cuda":
        print(f"in all   {torch.cuda.max_memory_allocated() / 2**30:8.2f} GiB at the most")


def _describe_utilization(device: torch.device, achieved: float) -> str:
    """Describe the model FLOPs utilization; return an empty string if the peak of the device is unknown."""
    if device.type != "cuda":
        return ""
    name = torch.cuda.get_device_name(device)
    peak = next((value for key, value in DENSE_BFLOAT16_TFLOPS.items() if key in name), None)
    return f", {100 * achieved / peak:.1f} % of {peak:.0f}" if peak else ""


if __name__ == "__main__":
    main(tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,)))
