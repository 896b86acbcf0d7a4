"""How fast a model learns: making batches, a step, and both: ``python -m benchmarks.train --model recon4d_tiny``."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, Precision, TrainConfig
from recon4d.train.loop import make_trainable_model
from recon4d.train.objective import TrainModule, objective
from recon4d.train.optimizers import make_optimizers

DENSE_BFLOAT16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""What the makers say of one GPU, products of dense matrices in bfloat16."""


@dataclass(frozen=True)
class Arguments:
    """Time batches and steps on worlds."""

    model: str = "recon4d_small"
    data: DataConfig = field(default_factory=DataConfig)
    steps: int = 5
    warm_up: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    compile: bool = False
    precision: Precision = "auto"


def seconds(device: torch.device, work: Callable[[int], object], arguments: Arguments) -> float:
    """Mean time of one call, the device waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for number in range(arguments.warm_up):
        work(number)
    wait()
    started = time.perf_counter()
    for number in range(arguments.steps):
        work(arguments.warm_up + number)
    wait()
    return (time.perf_counter() - started) / arguments.steps


def main(arguments: Arguments) -> None:
    device = torch.device(arguments.device)
    config = TrainConfig(
        model=arguments.model, data=arguments.data, compile=arguments.compile, precision=arguments.precision
    )
    is_narrow = arguments.precision == "bfloat16" or (arguments.precision == "auto" and device.type == "cuda")
    batches = Batches(config, RankInfo(device=device))
    model = make_trainable_model(config).to(device)
    trainee, optimizers = TrainModule(model), make_optimizers(model, config.optimiser, is_narrow)

    def step(batch) -> None:
        optimizers.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_narrow):
            totals, counts = trainee(batch)
        objective(totals, counts, config.losses)[0].backward()
        optimizers.step(1.0)

    batch = batches.worlds(config.steps - 1, 0)
    with FlopCounterMode(display=False) as counter:
        step(batch)
    teraflops = counter.get_total_flops() / 1e12
    making = seconds(device, lambda number: batches.worlds(number, 0), arguments)
    stepping = seconds(device, lambda number: step(batch), arguments)
    both = seconds(device, lambda number: step(batches.worlds(number, 0)), arguments)

    clips = len(batch.asked)
    print(f"{arguments.model} on {device}: {clips} clips of {', '.join(arguments.data.shapes)}")
    for name, time_of in (("batches", making), ("step", stepping), ("both", both)):
        print(f"{name:8} {clips / time_of:8.2f} clips a second")
    share = _share(device, teraflops / stepping)
    print(f"step     {teraflops / stepping:8.3f} TFLOP/s, {teraflops / clips:.3f} TFLOP a clip{share}")
    if device.type == "cuda":
        print(f"memory   {torch.cuda.max_memory_allocated() / 2**30:8.2f} GiB at the most")


def _share(device: torch.device, achieved: float) -> str:
    """The share of what the GPU can do at the most, where that is known (model FLOPs utilization)."""
    if device.type != "cuda":
        return ""
    name = torch.cuda.get_device_name(device)
    peak = next((value for key, value in DENSE_BFLOAT16_TFLOPS.items() if key in name), None)
    return f", {100 * achieved / peak:.1f} % of {peak:.0f}" if peak else ""


if __name__ == "__main__":
    main(tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,)))
