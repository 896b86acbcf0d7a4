"""Training of the flow over motions: batches of tracks, loss, learning rate, averaged weights."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.heads.motion_flow.conditions import CHANNELS, fitted_control_points, motion_conditions
from recon4d.heads.motion_flow.flow_matching import draw_noise, flow_matching_error, noise_factor
from recon4d.heads.motion_flow.network import FlowConfig, FlowNetwork
from recon4d.train.motion_flow.track_clips import TrackClips, augment, draw_track_clips, make_track_scenes
from recon4d.train.muon import Muon

NUM_TRACKS = (48, 96, 144)
"""Numbers of tracks of a clip, one of which is drawn for each step."""
STACKED_MATRICES = {"qkv": 3, "modulation": 6}
"""Number of matrices that are stacked in the rows of the weights of these layers."""
AVERAGE = 0.998
"""Decay of the averaged weights by step."""


@dataclass(frozen=True)
class FlowTrainConfig:
    """Configuration of the training of the flow over motions."""

    steps: int = 3000
    """Number of steps."""
    batch: int = 32
    """Number of clips of a step."""
    learning_rate: float = 3e-3
    """Largest learning rate; it rises linearly and falls by a cosine."""
    warmup: int = 100
    """Number of steps until the largest learning rate."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    scenes: int = 16_384
    """Number of scenes without pictures."""
    rendered_share: float = 0.3
    """Share of steps with rendered clips and their tokens, if there are any."""
    no_token_share: float = 0.3
    """Share of these steps whose tokens are left out."""
    seed: int = 0
    """Seed of weights and batches."""
    network: FlowConfig = field(default_factory=FlowConfig)
    """Configuration of the network."""

    def with_token_width(self, width: int) -> "FlowTrainConfig":
        """Return the configuration for tokens of another width.

        Args:
            width: Number of channels of a token.

        Returns:
            The configuration.
        """
        return replace(self, network=replace(self.network, token_width=width))


@dataclass(frozen=True)
class FlowStep:
    """Progress of the training."""

    step: int
    """Number of finished steps."""
    loss: float
    """Mean loss since the last report."""
    seconds: float
    """Seconds since the start."""
    network: FlowNetwork
    """Network with averaged weights."""


def train_flow(
    config: FlowTrainConfig,
    rendered: TrackClips | None = None,
    report: Callable[[FlowStep], None] = lambda step: None,
    report_every: int = 100,
) -> FlowNetwork:
    """Train the flow network on synthetic scenes.

    Args:
        config: Configuration.
        rendered: Clips with tokens; None trains without tokens.
        report: Called every `report_every` steps and after the last one.
        report_every: Number of steps between reports.

    Returns:
        The network with averaged weights, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    network = FlowNetwork(config.network)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    optimizers = _make_optimizers(network, config)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config)) for optimizer in optimizers
    ]
    losses: list[float] = []
    started = time.monotonic()
    for step, clips in enumerate(_batches(config, rendered, generator), start=1):
        loss = clip_loss(network, clips, generator)
        network.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        decay = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        losses.append(loss.item())
        if step % report_every == 0 or step == config.steps:
            report(FlowStep(step, sum(losses) / len(losses), time.monotonic() - started, averaged))
            losses.clear()
    return averaged


def clip_loss(network: FlowNetwork, clips: TrackClips, generator: torch.Generator) -> Float[Tensor, ""]:
    """Compute the loss of a batch of clips.

    Half of it is the error of the velocity in whitened coordinates, and half that of the positions.

    Args:
        network: The network.
        clips: Batch of clips.
        generator: Random generator of noise and times of the flow.

    Returns:
        The loss.
    """
    conditions = motion_conditions(clips.observed, clips.weights, clips.times)
    target = conditions.whitened(fitted_control_points(conditions, clips.points, clips.times))
    noise = draw_noise(noise_factor(conditions.places, conditions.motions), generator)
    batch = len(target)
    flow_time = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    error = flow_matching_error(network, target, noise, flow_time, conditions.features, clips.tokens)
    factor = conditions.factor / conditions.factor.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    moved = (factor @ error.unflatten(-1, (-1, 3))).square().mean(dim=(1, 2, 3)) / CHANNELS * 3
    return (error.square().mean(dim=(1, 2)) + moved).mean() / 2


def _make_optimizers(network: FlowNetwork, config: FlowTrainConfig) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks and AdamW for all other parameters."""
    by_parts: dict[int, list[Tensor]] = {parts: [] for parts in (1, *STACKED_MATRICES.values())}
    others = []
    for name, value in network.named_parameters():
        if name.startswith("blocks.") and value.ndim == 2:
            by_parts[STACKED_MATRICES.get(name.split(".")[-2], 1)].append(value)
        else:
            others.append(value)
    groups = [{"params": matrices, "parts": parts} for parts, matrices in by_parts.items()]
    return [
        Muon(groups, lr=config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)),
    ]


def _batches(config: FlowTrainConfig, rendered: TrackClips | None, generator: torch.Generator) -> Iterator[TrackClips]:
    """Yield one batch for each step."""
    scenes = make_track_scenes(config.scenes)
    for _ in range(config.steps):
        tracks = NUM_TRACKS[int(torch.randint(len(NUM_TRACKS), (1,), generator=generator))]
        if rendered is not None and _uniform(generator) < config.rendered_share:
            yield _draw_rendered(rendered, config, tracks, generator)
        else:
            group = scenes[int(torch.randint(len(scenes), (1,), generator=generator))]
            chosen = torch.randint(len(group.phases), (config.batch,), generator=generator)
            yield draw_track_clips(group.select(chosen), tracks, generator)


def _draw_rendered(
    rendered: TrackClips, config: FlowTrainConfig, num_tracks: int, generator: torch.Generator
) -> TrackClips:
    rows = torch.randint(len(rendered.times), (config.batch, 1), generator=generator)
    tracks = torch.randint(rendered.points.shape[2], (config.batch, num_tracks), generator=generator)
    clips = TrackClips(
        observed=rendered.observed.transpose(1, 2)[rows, tracks].transpose(1, 2),
        weights=rendered.weights.transpose(1, 2)[rows, tracks].transpose(1, 2),
        points=rendered.points.transpose(1, 2)[rows, tracks].transpose(1, 2),
        times=rendered.times[rows[:, 0]],
        tokens=None
        if rendered.tokens is None or _uniform(generator) < config.no_token_share
        else rendered.tokens[rows, tracks].float(),
    )
    return augment(clips, generator)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _rate(step: int, config: FlowTrainConfig) -> float:
    """Return the factor on the learning rate."""
    rising = (step + 1) / config.warmup
    return min(rising, 0.5 * (1 + math.cos(math.pi * min(step / config.steps, 1))) + 0.01)
