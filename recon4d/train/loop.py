"""The training loop: one file for a CPU, one GPU, several GPUs and several nodes (through Accelerate)."""

import contextlib
import copy
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from recon4d.models import Model, compile_blocks
from recon4d.train.batches import Batches, RankInfo, validation_batches
from recon4d.train.checkpoints import Checkpoint, keep_last_and_best, write_checkpoint
from recon4d.train.config import TrainConfig
from recon4d.train.lora import LoraConfig, add_lora, merge_lora
from recon4d.train.objective import Batch, TrainModule, objective
from recon4d.train.optimizers import make_optimizers
from recon4d.train.parameter_groups import freeze
from recon4d.train.progress import Progress
from recon4d.train.run_folder import CHECKPOINTS_NAME
from recon4d.train.schedule import Schedule
from recon4d.train.sharding import (
    average_unsharded_gradients,
    load_whole_state,
    shard,
    whole_state,
)
from recon4d.train.weight_averaging import WeightAverage
from recon4d.zoo import create_model, load_model

if TYPE_CHECKING:
    from accelerate import Accelerator


class DivergedError(ValueError):
    """Too many steps had gradients that are not finite; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    step: int
    """Steps that were done."""
    finished: bool
    """False where a signal stopped it; it can be resumed."""
    checkpoint: Checkpoint
    loss: float
    """The mean objective over the last logged steps."""


def train(config: TrainConfig, folder: Path, resumed: Checkpoint | None = None) -> Outcome:
    """Run `config` to its end, or until SIGINT or SIGTERM; everything is written under the run's `folder`.

    From a checkpoint it goes on as if never stopped: on the CPU bit for bit. Raises `DivergedError`, and whatever the
    configuration makes wrong as ``ValueError`` or ``OSError``.
    """
    return _Training(config, folder, resumed).run()


class _Training:
    """Everything that a run holds between its steps."""

    def __init__(self, config: TrainConfig, folder: Path, resumed: Checkpoint | None) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = _accelerator(config)
        device = self.accelerator.device
        share = RankInfo(self.accelerator.process_index, self.accelerator.num_processes, device)
        self.batches = Batches(config, share)
        self.validation = validation_batches(config.data, config.validation_clips, device)
        self.model = make_trainable_model(config).to(device)
        self.shell = copy.deepcopy(self.model).to("meta")
        """The model without its numbers: what checkpoints are made of, whether or not it is sharded."""
        self.is_sharded = config.sharding == "full" and share.world_size > 1
        self.trainee = self._over_processes(TrainModule(self.model, config.losses))
        self.optimizers = make_optimizers(self.model, config.optimiser, config.precision == "bfloat16")
        self.average = WeightAverage(self.model, config.average)
        self.schedule = Schedule(min(config.warmup_steps, config.steps), config.steps, config.decay_share)
        self.step = 0
        self.skipped = torch.zeros((), device=device)
        if resumed is not None:
            self._go_on_from(resumed)

    def run(self) -> Outcome:
        config = self.config
        progress = Progress(config, self.folder, self.accelerator, self.step)
        checkpoint = None
        with _signals_noted() as asked_to_stop:
            for step, parts in self.batches.from_step(self.step):
                means, norm = self._train_step(step, parts)
                self.step = step + 1
                is_last = self.step == config.steps
                progress.add(parts, means, norm)
                if is_last or self.step % config.log_every == 0:
                    skipped = float(self.skipped)
                    progress.log(self.step, skipped)
                    self._check_skipped(skipped)
                score = None
                if is_last or self.step % config.validate_every == 0:
                    score = self._validate()
                    progress.log_validation(self.step, score)
                stops = self._all_agree_to_stop(bool(asked_to_stop))
                if is_last or stops or self.step % config.save_every == 0:
                    checkpoint = self._save(score)
                if stops:
                    break
        progress.close()
        if checkpoint is None:
            raise ValueError(f"the training has {config.steps} steps and was at step {self.step} already")
        return Outcome(self.step, self.step == config.steps, checkpoint, progress.loss)

    def _train_step(self, step: int, parts: list[Batch]) -> tuple[Float[Tensor, "term"], Float[Tensor, ""]]:
        """One step on all parts; the terms' means over all ranks, and the length of the gradient."""
        self.optimizers.zero_grad()
        means = []
        for place, batch in enumerate(parts):
            is_last = place == len(parts) - 1
            with self._gradients_averaged(is_last):
                totals, counts = self.trainee(batch)
                counts = _summed(self.accelerator, counts)
                # Data parallelism averages gradients over ranks; the division is by the counts of all of them.
                loss, _ = objective(totals * self.accelerator.num_processes, counts, self.config.losses)
                self.accelerator.backward(loss / len(parts))
            with torch.no_grad():
                means.append(objective(_summed(self.accelerator, totals.detach()), counts, self.config.losses)[1])
        if self.is_sharded:
            average_unsharded_gradients(self.model.parameters())
        norm = self.optimizers.step(self.schedule.multiplier(step))
        # No rank asks whether the gradient was finite: it is the same on all, and a broken step moves nothing.
        self.skipped += (~torch.isfinite(norm)).to(self.skipped)
        self.average.update(self.model)
        return torch.stack(means).mean(dim=0), norm

    def _over_processes(self, trainee: TrainModule) -> torch.nn.Module:
        """The trainee as it runs beside those of the other processes, its gradients averaged with theirs."""
        if not self.is_sharded:
            return self.accelerator.prepare(trainee)
        shard(trainee, self.accelerator.device)
        # For precision alone, which is what is left to prepare.
        return self.accelerator.prepare_model(trainee, evaluation_mode=True)

    @contextlib.contextmanager
    def _gradients_averaged(self, is_last: bool) -> Iterator[None]:
        """Gradients of all parts of a batch add up, and travel with the last."""
        if isinstance(self.trainee, FSDPModule):
            self.trainee.set_requires_gradient_sync(is_last)
            yield
        else:
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.trainee):
                yield

    @torch.no_grad()
    def _validate(self) -> float:
        """The objective of the averaged weights on worlds that are never trained on."""
        self.model.eval()
        with self.average.swapped(self.model):
            both = [self.trainee(batch) for batch in self.validation]
        self.model.train()
        totals, counts = (torch.stack(values).sum(dim=0) for values in zip(*both, strict=True))
        return float(objective(totals, counts, self.config.losses)[0])

    def _save(self, score: float | None) -> Checkpoint:
        folder = self.folder / CHECKPOINTS_NAME
        checkpoint = Checkpoint(folder / f"step_{self.step:08d}")
        state = self._state()
        if self.accelerator.is_main_process:
            averaged = self._averaged_model(state["model"] | state["average"]["average"])
            checkpoint = write_checkpoint(folder, self.step, averaged, state, score)
            keep_last_and_best(folder, self.config.keep)
        self.accelerator.wait_for_everyone()
        return checkpoint

    def _averaged_model(self, weights: dict[str, Tensor]) -> Model:
        averaged = copy.deepcopy(self.shell)
        types = {name: value.dtype for name, value in averaged.state_dict().items()}
        averaged.load_state_dict({name: value.to(types[name]) for name, value in weights.items()}, assign=True)
        merge_lora(averaged)
        averaged.name, averaged.trained = self.model.name, True
        averaged.calibration = None  # what was measured of other weights
        return averaged

    def _state(self) -> dict[str, Any]:
        """All that goes on, in whole tensors: where parameters are sharded, all processes must ask together."""
        return {
            "step": self.step,
            "model": whole_state(self.model),
            "optimisers": self.optimizers.state_dict(),
            "average": self.average.state_dict(self.model),
            "skipped": self.skipped,
        }

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.load_state()
        load_whole_state(self.model, state["model"])
        self.optimizers.load_state_dict(state["optimisers"])
        self.average.load_state_dict(state["average"], self.model)
        self.skipped.copy_(state["skipped"])
        self.step = state["step"]

    def _check_skipped(self, skipped: float) -> None:
        if skipped > self.config.most_skipped:
            raise DivergedError(
                f"{skipped:.0f} steps had gradients that are not finite, more than {self.config.most_skipped}; "
                f"stopped at step {self.step}, the last good checkpoint is kept in {self.folder / CHECKPOINTS_NAME}"
            )

    def _all_agree_to_stop(self, asked: bool) -> bool:
        """Whether any rank was asked to stop: all must leave after the same step."""
        if self.accelerator.num_processes == 1:
            return asked
        if self.accelerator.device.type == "cuda" and self.step % self.config.log_every:
            return False  # asking costs a synchronization
        return bool(_summed(self.accelerator, torch.tensor(float(asked), device=self.accelerator.device)) > 0)


def make_trainable_model(config: TrainConfig) -> Model:
    """The model that a run starts from, in training mode: frozen, adapted and compiled as the run wants it."""
    if config.init:
        model = load_model(config.init)
    else:
        model = create_model(
            config.model, weights=None, backbone_weights=config.backbone_weights or None, seed=config.seed
        )
    model.name = config.model
    if config.freeze:
        freeze(model, config.freeze)
    if config.lora:
        add_lora(model, LoraConfig(config.lora, config.lora_rank))
    model.set_activation_checkpointing(config.checkpointing)
    if config.compile:
        compile_blocks(model)
    return model.train()


def _accelerator(config: TrainConfig) -> "Accelerator":
    from accelerate import Accelerator

    on_cuda = torch.cuda.is_available()
    is_bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and on_cuda)
    return Accelerator(cpu=not on_cuda, mixed_precision="bf16" if is_bfloat16 else "no")


def _summed(accelerator: "Accelerator", values: Tensor) -> Tensor:
    """The sum over all ranks."""
    return values if accelerator.num_processes == 1 else accelerator.reduce(values.clone(), "sum")  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted instead of obeyed; a second one of them is obeyed."""
    noted: list[int] = []
    before = {}

    def note(number: int, frame: object) -> None:
        noted.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
