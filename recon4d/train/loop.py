"""The training loop for a CPU, one GPU, several GPUs and several nodes (through Accelerate)."""

import contextlib
import copy
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from recon4d.datasets.mixture import SkippedSequence
from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.layers import Kernel, attention_kernel, set_attention_kernel
from recon4d.models import Model, ModelConfig, NetworkConfig, compile_blocks, require_trainable
from recon4d.train.backward import separate_backward
from recon4d.train.batches import Batches, RankInfo, merge_skipped
from recon4d.train.checkpoints import (
    Checkpoint,
    keep_last_and_best,
    remove_partial_checkpoints,
    write_checkpoint,
)
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
    full_state_dict,
    load_full_state_dict,
    shard,
)
from recon4d.train.validation import describe_validation, validation_batches
from recon4d.train.weight_averaging import WeightAverage
from recon4d.zoo import (
    create_model,
    has_side_network,
    head_kind,
    load_model,
    model_config,
    model_entry,
    start_from,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class DivergedError(UserError):
    """Too many steps had non-finite gradients; the last good checkpoint is kept."""


@dataclass(frozen=True)
class TrainResult:
    """The end of a training run."""

    step: int
    """Number of completed steps."""
    is_finished: bool
    """Whether all steps are done; False if a signal stopped the run, which can then be resumed."""
    checkpoint: Checkpoint
    """The last checkpoint."""
    loss: float
    """Mean objective over the last logged steps."""


def train(
    config: TrainConfig, folder: Path, checkpoint: Checkpoint | None = None, kernel: Kernel = "sdpa"
) -> TrainResult:
    """Train a model until the last step, or until SIGINT or SIGTERM.

    A resumed run continues as if it had never stopped; on the CPU the result is the same bit for bit.

    Args:
        config: Configuration of the run.
        folder: Run folder; all files are written there.
        checkpoint: Checkpoint of this run to resume from; None to start at step 0.
        kernel: Attention kernel, see `recon4d.layers.choose_kernel`.

    Returns:
        The last step and checkpoint.

    Raises:
        DivergedError: If too many steps have non-finite gradients.
        UserError: If the configuration does not fit the model or the data, a file cannot be read or written, or the
            checkpoint is damaged or of the last step.
    """
    return _TrainingRun(config, folder, checkpoint, kernel).run()


class _TrainingRun:
    """The state of a run between its steps."""

    def __init__(
        self, config: TrainConfig, folder: Path, checkpoint: Checkpoint | None, kernel: Kernel = "sdpa"
    ) -> None:
        self.config, self.folder = config, folder
        with os_errors_as_user_errors(f"cannot create {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = _accelerator(config)
        if self.accelerator.is_main_process:
            remove_partial_checkpoints(folder / CHECKPOINTS_NAME)
        device = self.accelerator.device
        rank_info = RankInfo(self.accelerator.process_index, self.accelerator.num_processes, device)
        self.batches = Batches(config, rank_info)
        model = make_trainable_model(config)
        set_attention_kernel(model, kernel)
        _check_shapes(config, model)
        self.validation = validation_batches(config.data, config.validation_clips, device, self.batches.sources)
        self.model = model.to(device)
        self.meta_model = copy.deepcopy(self.model).to("meta")
        """The model without values, from which saved models are made, whether or not it is sharded."""
        self.is_sharded = config.sharding == "full" and rank_info.world_size > 1
        self.plain_module = TrainModule(self.model, config.losses)
        self.train_module = self._wrap(self.plain_module)
        self.optimizers = make_optimizers(self.model, config.optimiser, config.precision == "bfloat16")
        self.average = WeightAverage(self.model, config.average)
        self.schedule = Schedule(min(config.warmup_steps, config.steps), config.steps, config.decay_share)
        self.step = 0
        self.skipped = torch.zeros((), device=device)
        if checkpoint is not None:
            self._resume(checkpoint)

    def run(self) -> TrainResult:
        config = self.config
        if self.step >= config.steps:
            raise UserError(f"the training has {config.steps} steps and was at step {self.step} already")
        progress = Progress(config, self.folder, self.accelerator, self.step)
        device, kernel = self.accelerator.device, attention_kernel(self.model)
        progress.print(f"training {config.model} on {device} with {kernel} attention")
        if config.data.worlds_weight == 0:
            progress.print(describe_validation(config.data, config.validation_clips))
        checkpoint = None
        with _deferred_signals() as received_signals:
            for step, parts in self.batches.from_step(self.step):
                means, norm = self._train_step(step, parts)
                self.step = step + 1
                is_last = self.step == config.steps
                progress.add(parts, means, norm)
                if is_last or self.step % config.log_every == 0:
                    skipped = float(self.skipped)
                    progress.log(self.step, skipped)
                    progress.log_skipped(self.step, self._skipped_sequences())
                    self._check_skipped(skipped)
                score = None
                if is_last or self.step % config.validate_every == 0:
                    score = self._validate()
                    progress.log_validation(self.step, score)
                stops = self._all_agree_to_stop(bool(received_signals))
                if is_last or stops or self.step % config.save_every == 0:
                    checkpoint = self._save(score)
                if stops:
                    break
        progress.close(self.step, self._skipped_sequences())
        assert checkpoint is not None
        return TrainResult(self.step, self.step == config.steps, checkpoint, progress.loss)

    def _train_step(self, step: int, parts: list[Batch]) -> tuple[Float[Tensor, "term"], Float[Tensor, ""]]:
        """Train on all micro-batches; return each term's mean over all ranks and the norm of the gradient."""
        self.optimizers.zero_grad()
        means = []
        for number, batch in enumerate(parts):
            if self.config.backward == "separate":
                totals, counts = separate_backward(
                    self.plain_module, batch, partial(self._loss, share=1 / len(parts)), self._autocast
                )
            else:
                with self._gradient_synchronization(is_last=number == len(parts) - 1):
                    totals, counts = self.train_module(batch)
                    self.accelerator.backward(self._loss(totals, counts, share=1 / len(parts)))
            with torch.no_grad():
                totals, counts = _sum_over_ranks(self.accelerator, torch.stack([totals.detach(), counts]))
                means.append(objective(totals, counts, self.config.losses)[1])
        if self.is_sharded or (self.config.backward == "separate" and self.accelerator.num_processes > 1):
            average_unsharded_gradients(self.model.parameters())
        norm = self.optimizers.step(self.schedule.multiplier(step))
        # No synchronization is needed: the norm is the same on all ranks, and a broken step changes nothing.
        self.skipped += (~torch.isfinite(norm)).to(self.skipped)
        self.average.update(self.model)
        return torch.stack(means).mean(dim=0), norm

    def _loss(
        self, totals: Tensor, counts: Tensor, names: Sequence[str] | None = None, share: float = 1.0
    ) -> Float[Tensor, ""]:
        """Compute the loss of some terms (all if `names` is None) on this rank, times the share of its micro-batch."""
        counts = _sum_over_ranks(self.accelerator, counts)
        # Data parallelism averages gradients over ranks, but the counts here are sums over all of them.
        return share * objective(totals * self.accelerator.num_processes, counts, self.config.losses, names)[0]

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return self.accelerator.autocast()

    def _wrap(self, train_module: TrainModule) -> torch.nn.Module:
        """Wrap the module for data-parallel or sharded training."""
        if not self.is_sharded:
            return self.accelerator.prepare(train_module)
        shard(train_module, self.accelerator.device)
        # Only the precision is left to prepare.
        return self.accelerator.prepare_model(train_module, evaluation_mode=True)

    @contextlib.contextmanager
    def _gradient_synchronization(self, is_last: bool) -> Iterator[None]:
        """Accumulate gradients of all micro-batches locally, and average them over ranks with the last one."""
        if isinstance(self.train_module, FSDPModule):
            self.train_module.set_requires_gradient_sync(is_last)
            yield
        else:
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.train_module):
                yield

    @torch.no_grad()
    def _validate(self) -> float:
        """Compute the objective of the averaged weights on the validation set."""
        self.model.eval()
        with self.average.swapped(self.model):
            terms = [self.train_module(batch) for batch in self.validation]
        self.model.train()
        totals, counts = (torch.stack(values).sum(dim=0) for values in zip(*terms, strict=True))
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
        averaged = copy.deepcopy(self.meta_model)
        types = {name: value.dtype for name, value in averaged.state_dict().items()}
        averaged.load_state_dict({name: value.to(types[name]) for name, value in weights.items()}, assign=True)
        merge_lora(averaged)
        averaged.name, averaged.trained = self.model.name, True
        averaged.calibration = None  # it was measured with other weights
        return averaged

    def _state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, in full tensors.

        If parameters are sharded, all processes must call this together; the state is empty on all but the main one.
        """
        state = {
            "step": self.step,
            "model": full_state_dict(self.model),
            "optimisers": self.optimizers.state_dict(),
            "average": self.average.state_dict(self.model),
            "skipped": self.skipped,
        }
        return state if self.accelerator.is_main_process or not self.is_sharded else {}

    def _resume(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.load_state()
        load_full_state_dict(self.model, state["model"])
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

    def _skipped_sequences(self) -> list[SkippedSequence]:
        """Return the sequences of data sets that all processes skipped; they must call this together."""
        skipped = self.batches.skipped_sequences()
        if self.accelerator.num_processes == 1 or not self.batches.sources:
            return skipped
        from accelerate.utils import gather_object

        return merge_skipped(gather_object(skipped))

    def _all_agree_to_stop(self, is_requested: bool) -> bool:
        """Return whether any rank was asked to stop: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return is_requested
        if self.accelerator.device.type == "cuda" and self.step % self.config.log_every:
            return False  # the question costs a synchronization
        requested = torch.tensor(float(is_requested), device=self.accelerator.device)
        return bool(_sum_over_ranks(self.accelerator, requested) > 0)


def make_trainable_model(config: TrainConfig) -> Model:
    """Make the model that a run starts from: frozen, adapted and compiled as configured, in training mode.

    Args:
        config: Configuration of the run.

    Returns:
        The model on the CPU.

    Raises:
        UserError: If the model or a checkpoint does not exist, its heads are of another kind than configured, or a
            pattern matches no parameter or layer.
    """
    model = _initial_model(config)
    model.name = config.model
    for module in model.frozen_modules:
        module.requires_grad_(False)
    if config.freeze:
        freeze(model, config.freeze)
    if config.lora:
        add_lora(model, LoraConfig(config.lora, config.lora_rank))
    model.set_activation_checkpointing(config.checkpointing)
    if config.compile:
        compile_blocks(model)
    return model.train()


def _initial_model(config: TrainConfig) -> Model:
    """Load the configured checkpoint, or create the configured architecture with random weights."""
    if config.init:
        is_file = Path(config.init).suffix != "" or Path(config.init).is_file()
        model = require_trainable(load_model(config.init) if is_file else create_model(config.init))
        if has_side_network(config.model):
            model = start_from(config.model, model, config.seed)
        _check_heads(config, model.config, f"checkpoint {config.init}", "start from random weights")
        return model
    heads = "linear" if config.heads == "auto" else config.heads
    if model_entry(config.model).published is not None:
        _check_heads(config, model_config(config.model), f"published model {config.model}", "choose another model")
    return require_trainable(
        create_model(
            config.model,
            pretrained=False,
            heads=heads,
            backbone_weights=config.backbone_weights or None,
            seed=config.seed,
        )
    )


def _check_heads(config: TrainConfig, found: NetworkConfig, owner: str, alternative: str) -> None:
    if not isinstance(found, ModelConfig):
        return
    kind = head_kind(found)
    if config.heads not in ("auto", kind):
        raise UserError(
            f"heads = {config.heads!r}, but {owner} keeps its own {kind} heads; use heads = 'auto', or {alternative}"
        )


def _check_shapes(config: TrainConfig, model: Model) -> None:
    for shape, text in zip(config.data.parsed_shapes, config.data.shapes, strict=True):
        if shape.height % model.patch_size or shape.width % model.patch_size:
            raise UserError(
                f"shape {text!r}; {config.model} needs heights and widths that are multiples of {model.patch_size}"
            )


def _accelerator(config: TrainConfig) -> "Accelerator":
    from accelerate import Accelerator

    on_cuda = torch.cuda.is_available()
    is_bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and on_cuda)
    return Accelerator(cpu=not on_cuda, mixed_precision="bf16" if is_bfloat16 else "no")


def _sum_over_ranks(accelerator: "Accelerator", values: Tensor) -> Tensor:
    return values if accelerator.num_processes == 1 else accelerator.reduce(values.clone(), "sum")  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of handling them; a second one of a kind is handled as usual."""
    received: list[int] = []
    before = {}

    def record(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, record)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
