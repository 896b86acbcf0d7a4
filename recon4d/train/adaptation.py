"""Test-time adaptation: a copy of a model learns from one clip without truth, and is kept only where that helped."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from recon4d.inference import ReconstructConfig, is_out_of_memory, reconstruct
from recon4d.models import Model
from recon4d.records import Clip, Scene
from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights
from recon4d.train.config import OptimiserConfig
from recon4d.train.lora import LoraConfig, add_lora, merge_lora
from recon4d.train.optimizers import make_optimizers
from recon4d.train.parameter_groups import freeze
from recon4d.train.schedule import Schedule
from recon4d.train.self_consistency import (
    Evidence,
    FramePair,
    change,
    consistency,
    split_pairs,
    unmoved,
)

MIN_FRAMES = 3
"""Two pairs to learn from and one to judge by."""
ALIKE = 2.0
"""Frames whose colors (0 to 255) differ by no more on average show one picture, up to noise."""

OnStep = Callable[[int, float], None]
"""Is told the steps that are done and the objective of the last."""


@dataclass(frozen=True)
class HeldOutError:
    """How much the frames of the held-out pairs disagree with a prediction."""

    photometric: float
    """0 for pictures that look the same, up to 1."""
    semantic: float
    """1 - cosine of backbone features."""
    total: float
    """Both, weighed as in training: what decides."""


@dataclass(frozen=True)
class Adaptation:
    """What became of an adaptation, and how it was judged."""

    model: Model
    """The adapted model where that helped, else the very model that was given."""
    scene: Scene
    """What `model` says of the clip: the answer of `reconstruct` in float32, with tracks of the first frame."""
    kept: bool
    """Whether `model` is the adapted one."""
    reason: str
    """Why it is, or is not."""
    unmoved: HeldOutError
    """Of frames laid on each other as they are, which any prediction should undercut."""
    before: HeldOutError
    after: HeldOutError | None
    """None where the adaptation diverged or was not begun."""
    curve: tuple[float, ...]
    """The objective of every step."""
    training_pairs: tuple[FramePair, ...]
    held_out_pairs: tuple[FramePair, ...]


def adapt(
    model: Model,
    clip: Clip,
    config: AdaptConfig = AdaptConfig(),  # noqa: B008 - frozen
    on_step: OnStep | None = None,
) -> Adaptation:
    """Adapt a copy of `model` to one `clip` by the consistency of its frames; `model` itself is not changed.

    Low-rank additions learn that what stands still looks and means the same wherever the predicted depth and cameras
    say it is seen, while the prediction is held near the first one. Pairs of frames that never train decide whether
    the adapted model is kept. Everything is in float32 on the model's device; on the CPU the seed decides every bit.

    Raises ``ValueError`` for clips that say nothing: fewer than three frames, all alike, or without overlap; and what
    `reconstruct` raises.
    """
    _check_frames(clip)
    student = _with_lora(model, config)
    reconstruction = ReconstructConfig(processing_size=config.processing_size, precision="float32")
    first = reconstruct(model, clip, reconstruction)
    evidence = _evidence(model, clip, first)
    training_pairs, held_out_pairs = split_pairs(evidence, config)
    judge = partial(_held_out_error, evidence=evidence, pairs=held_out_pairs, weights=config.weights)
    unmoved_error, before = judge(unmoved(first)), judge(first)
    untouched = Adaptation(model, first, False, "", unmoved_error, before, None, (), training_pairs, held_out_pairs)
    if not before.total <= config.near_enough * unmoved_error.total:
        return replace(untouched, reason=_too_far(before, unmoved_error))

    with _memory_named(clip, first):
        curve = _learn(student, clip, evidence, training_pairs, config, on_step)
    adapted = _merged(student, model)
    scene = reconstruct(adapted, clip, reconstruction)
    after = judge(scene)
    if not all(map(math.isfinite, (*curve, after.total))):
        return replace(untouched, reason=f"it diverged at step {len(curve)}", curve=curve)
    judged = replace(untouched, after=after, curve=curve)
    fall = f"{before.total:.4f} to {after.total:.4f}"
    if after.total >= before.total:
        return replace(judged, reason=f"the held-out error did not fall: {fall}")
    return replace(judged, model=adapted, scene=scene, kept=True, reason=f"the held-out error fell: {fall}")


def _too_far(before: HeldOutError, unmoved_error: HeldOutError) -> str:
    return (
        f"its prediction explains too little of the pictures to be corrected by them: the held-out error is "
        f"{before.total:.4f}, and {unmoved_error.total:.4f} if nothing is warped at all"
    )


def _check_frames(clip: Clip) -> None:
    if clip.batch_shape:
        raise ValueError(f"adapt takes one clip, not a batch of shape {tuple(clip.batch_shape)}")
    if clip.num_frames < MIN_FRAMES:
        raise ValueError(
            f"the clip has {clip.num_frames} frame{'s' if clip.num_frames > 1 else ''}; an adaptation needs "
            f"{MIN_FRAMES} or more: pairs to learn from, and one to judge by"
        )
    first, *others = clip.images
    if all(float((image.float() - first.float()).abs().mean()) <= ALIKE for image in others):
        raise ValueError(
            f"the {clip.num_frames} frames of the clip are all alike; where nothing moves, nothing is learned"
        )


def _evidence(model: Model, clip: Clip, first: Scene) -> Evidence:
    device = next(model.parameters()).device
    images = clip.resized(*first.size).images.to(device).float() / 255
    grid = (first.size[0] // model.patch_size, first.size[1] // model.patch_size)
    with torch.no_grad():
        # One frame at a time: features are small, but what makes them is not.
        tokens = torch.cat([model.backbone(image[None]).tokens for image in images])
    features = tokens.float().transpose(1, 2).unflatten(2, grid)
    return Evidence(images, features, first.to(device))


def _held_out_error(
    scene: Scene, evidence: Evidence, pairs: Sequence[FramePair], weights: AdaptWeights
) -> HeldOutError:
    with torch.no_grad():
        found = consistency(scene.to(evidence.images.device), evidence, pairs)
    photometric, semantic = float(found.photometric), float(found.semantic)
    return HeldOutError(photometric, semantic, weights.photometric * photometric + weights.semantic * semantic)


def _with_lora(model: Model, config: AdaptConfig) -> Model:
    """A copy of which nothing learns but low-rank additions."""
    device = next(model.parameters()).device
    # On the CPU, so that the additions begin alike wherever the model is.
    student = copy.deepcopy(model).cpu()
    freeze(student, ("*",))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        add_lora(student, LoraConfig(config.layers, config.rank, alpha=2.0 * config.rank))
    student.set_activation_checkpointing(config.checkpointing)
    return student.to(device).eval()


def _learn(
    student: Model,
    clip: Clip,
    evidence: Evidence,
    pairs: Sequence[FramePair],
    config: AdaptConfig,
    on_step: OnStep | None,
) -> tuple[float, ...]:
    """The objective of every step; it ends early where that is no number."""
    optimizers = make_optimizers(
        student, OptimiserConfig(kind="adamw", adamw_rate=config.rate, betas=(0.9, 0.99), weight_decay=0.0)
    )
    schedule = Schedule(warmup_steps=config.steps // 10, total_steps=config.steps, decay_share=0.5)
    generator = torch.Generator().manual_seed(config.seed)
    batch = Clip.stack([clip.resized(*evidence.first.size)]).to(evidence.images.device)
    curve = []
    for step in range(config.steps):
        drawn = torch.randperm(len(pairs), generator=generator)[: config.pairs_per_step].tolist()
        scene = student.outputs(batch.images, batch.times, (0,), batch.priors).scene[0].in_frame(0)
        disagreement = consistency(scene, evidence, [pairs[i] for i in drawn]).weighed(config.weights)
        loss = disagreement + change(scene, evidence.first).weighed(config.weights)
        curve.append(float(loss.detach()))
        if not torch.isfinite(loss):
            break
        optimizers.zero_grad()
        loss.backward()
        optimizers.step(schedule.multiplier(step))
        if on_step is not None:
            on_step(step + 1, curve[-1])
    return tuple(curve)


@contextmanager
def _memory_named(clip: Clip, first: Scene) -> Iterator[None]:
    """Out of memory becomes a ``MemoryError`` that says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory while adapting to {clip.num_frames} frames of {first.size[1]} x {first.size[0]} pixels: "
            "lower --num-frames or --processing-size, or ask for --checkpointing"
        ) from error


def _merged(student: Model, model: Model) -> Model:
    """A model like the one that was given, with what its student has learned in its weights."""
    merge_lora(student)
    adapted = copy.deepcopy(model)
    adapted.load_state_dict(student.state_dict(), strict=True)
    adapted.name = f"{model.name}+adapted"
    adapted.calibration = None  # what was measured of other weights
    return adapted.eval()
