"""Test-time adaptation: a copy of a model is trained on one clip without ground truth, and kept only if that helps."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from recon4d.errors import UserError
from recon4d.inference import ReconstructConfig, is_out_of_memory, predict_scene
from recon4d.models import Model
from recon4d.records import Clip, Scene
from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights
from recon4d.train.config import OptimiserConfig
from recon4d.train.lora import LoraConfig, add_lora, merge_lora
from recon4d.train.optimizers import make_optimizers
from recon4d.train.parameter_groups import freeze
from recon4d.train.schedule import Schedule
from recon4d.train.self_consistency import (
    ClipObservations,
    FramePair,
    consistency,
    deviation,
    split_pairs,
    without_camera_motion,
)

MIN_FRAMES = 3
"""Smallest number of frames: two pairs to train on and one held-out pair."""
MAX_STATIC_DIFFERENCE = 2.0
"""Frames are identical up to noise if their colors (0 to 255) differ by at most this on average. Hand-tuned."""

StepCallback = Callable[[int, float], None]
"""Called after each step with the number of completed steps and the objective of the last one."""


@dataclass(frozen=True)
class HeldOutError:
    """Disagreement between the frames of the held-out pairs under a prediction."""

    photometric: float
    """Photometric error from 0 to 1."""
    semantic: float
    """1 - cosine of backbone features."""
    total: float
    """Weighted sum of both with the weights of training; it decides whether a model is kept."""


@dataclass(frozen=True)
class Adaptation:
    """Result and evaluation of a test-time adaptation."""

    model: Model
    """The adapted model if it is kept, otherwise the given model itself."""
    scene: Scene
    """Prediction of `model` for the clip by `reconstruct` in float32, with tracks of the first frame."""
    is_kept: bool
    """Whether `model` is the adapted model."""
    reason: str
    """Why the adapted model is kept or not, for the user."""
    baseline: HeldOutError
    """Error without any warping, of frames compared pixel by pixel; every useful prediction is below it."""
    before: HeldOutError
    """Error of the given model."""
    after: HeldOutError | None
    """Error of the adapted model; None if training diverged or was not started."""
    curve: tuple[float, ...]
    """Objective of each step."""
    training_pairs: tuple[FramePair, ...]
    """Pairs of frames that were trained on."""
    held_out_pairs: tuple[FramePair, ...]
    """Pairs of frames on which the errors were measured."""


def adapt(
    model: Model,
    clip: Clip,
    config: AdaptConfig = AdaptConfig(),  # noqa: B008 - frozen
    on_step: StepCallback | None = None,
) -> Adaptation:
    """Adapt a copy of a model to one clip by self-supervision.

    Low-rank matrices (LoRA) are trained so that static pixels have the same color and features, and the same depth,
    where predicted depth and cameras project them into other frames. The prediction is kept near the initial one. Pairs
    of frames that are never trained on decide whether the adapted model is kept. All computations are in float32 on the
    model's device; on the CPU the result is a deterministic function of the seed.

    Args:
        model: The model; it is not changed.
        clip: One clip of at least three frames.
        config: Configuration of the adaptation.
        on_step: Called after each step; None for no calls.

    Returns:
        The adapted or the given model, its prediction and the held-out errors.

    Raises:
        UserError: If the clip has too few frames, identical frames or no overlapping frames, if a pattern matches no
            layer, or if the device runs out of memory.
    """
    _check_frames(clip)
    student = _with_lora(model, config)
    reconstruction = ReconstructConfig(processing_size=config.processing_size, precision="float32")
    initial = predict_scene(model, clip, reconstruction)
    observations = _observe(model, clip, initial)
    training_pairs, held_out_pairs = split_pairs(observations, config)
    error_of = partial(_held_out_error, observations=observations, pairs=held_out_pairs, weights=config.weights)
    baseline, before = error_of(without_camera_motion(initial)), error_of(initial)
    unchanged = Adaptation(model, initial, False, "", baseline, before, None, (), training_pairs, held_out_pairs)
    if not before.total <= config.near_enough * baseline.total:
        return replace(unchanged, reason=_describe_poor_start(before, baseline))

    with _out_of_memory_as_user_error(clip, initial):
        curve = _train(student, clip, observations, training_pairs, config, on_step)
    adapted = _merge(student, model)
    scene = predict_scene(adapted, clip, reconstruction)
    after = error_of(scene)
    if not all(map(math.isfinite, (*curve, after.total))):
        return replace(unchanged, reason=f"it diverged at step {len(curve)}", curve=curve)
    evaluated = replace(unchanged, after=after, curve=curve)
    errors = f"{before.total:.4f} to {after.total:.4f}"
    if after.total >= before.total:
        return replace(evaluated, reason=f"the held-out error did not fall: {errors}")
    return replace(evaluated, model=adapted, scene=scene, is_kept=True, reason=f"the held-out error fell: {errors}")


def _describe_poor_start(before: HeldOutError, baseline: HeldOutError) -> str:
    return (
        f"the initial prediction explains too little of the images to be improved by them: the held-out error is "
        f"{before.total:.4f}, compared to {baseline.total:.4f} without any warping"
    )


def _check_frames(clip: Clip) -> None:
    if clip.batch_shape:
        raise ValueError(f"adapt takes one clip, not a batch of shape {tuple(clip.batch_shape)}")
    if clip.num_frames < MIN_FRAMES:
        raise UserError(
            f"the clip has {clip.num_frames} frame{'s' if clip.num_frames > 1 else ''}; an adaptation needs "
            f"{MIN_FRAMES} or more: pairs to train on, and a held-out pair"
        )
    first, *others = clip.images
    if all(float((image.float() - first.float()).abs().mean()) <= MAX_STATIC_DIFFERENCE for image in others):
        raise UserError(
            f"the {clip.num_frames} frames of the clip are identical; an adaptation needs a clip with motion"
        )


def _observe(model: Model, clip: Clip, initial: Scene) -> ClipObservations:
    """Compute images and backbone features at the size of the initial prediction."""
    device = model.device
    images = clip.resized(*initial.size).images.to(device).float() / 255
    grid = (initial.size[0] // model.patch_size, initial.size[1] // model.patch_size)
    with torch.no_grad():
        # One frame at a time: the features are small, but their computation takes much memory.
        tokens = torch.cat([model.backbone(image[None]).tokens for image in images])
    features = tokens.float().transpose(1, 2).unflatten(2, grid)
    return ClipObservations(images, features, initial.to(device))


def _held_out_error(
    scene: Scene, observations: ClipObservations, pairs: Sequence[FramePair], weights: AdaptWeights
) -> HeldOutError:
    with torch.no_grad():
        errors = consistency(scene.to(observations.images.device), observations, pairs)
    photometric, semantic = float(errors.photometric), float(errors.semantic)
    return HeldOutError(photometric, semantic, weights.photometric * photometric + weights.semantic * semantic)


def _with_lora(model: Model, config: AdaptConfig) -> Model:
    """Copy a model, freeze the copy and add low-rank matrices."""
    device = model.device
    # On the CPU, so that the random initial values do not depend on the device.
    student = copy.deepcopy(model).cpu()
    freeze(student, ("*",))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        add_lora(student, LoraConfig(config.layers, config.rank, alpha=2.0 * config.rank))
    student.set_activation_checkpointing(config.checkpointing)
    return student.to(device).eval()


def _train(
    student: Model,
    clip: Clip,
    observations: ClipObservations,
    pairs: Sequence[FramePair],
    config: AdaptConfig,
    on_step: StepCallback | None,
) -> tuple[float, ...]:
    """Train the student in place and return the objective of each step; stop if it is not finite."""
    optimizers = make_optimizers(
        student, OptimiserConfig(kind="adamw", adamw_rate=config.rate, betas=(0.9, 0.99), weight_decay=0.0)
    )
    schedule = Schedule(warmup_steps=config.steps // 10, total_steps=config.steps, decay_share=0.5)
    generator = torch.Generator().manual_seed(config.seed)
    initial = observations.initial_scene
    batch = Clip.stack([clip.resized(*initial.size)]).to(observations.images.device)
    curve = []
    for step in range(config.steps):
        drawn = torch.randperm(len(pairs), generator=generator)[: config.pairs_per_step].tolist()
        scene = student.outputs(batch.images, batch.times, (0,), batch.priors).scene[0].in_frame(0)
        disagreement = consistency(scene, observations, [pairs[i] for i in drawn]).weighted_sum(config.weights)
        loss = disagreement + deviation(scene, initial).weighted_sum(config.weights)
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
def _out_of_memory_as_user_error(clip: Clip, initial: Scene) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        height, width = initial.size
        raise UserError(
            f"out of memory while adapting to {clip.num_frames} frames of {width} x {height} pixels; "
            "use fewer frames, a smaller processing size or activation checkpointing"
        ) from error


def _merge(student: Model, model: Model) -> Model:
    """Copy the given model with the weights that the student has learned."""
    merge_lora(student)
    adapted = copy.deepcopy(model)
    adapted.load_state_dict(student.state_dict(), strict=True)
    adapted.name = f"{model.name}+adapted"
    adapted.calibration = None  # it was measured with other weights
    return adapted.eval()
