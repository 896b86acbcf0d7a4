"""Conditional flow matching on straight paths (Lipman et al. 2023; Liu et al. 2023) with correlated noise."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.heads.motion_flow.conditions import CHANNELS, MotionConditions
from recon4d.heads.motion_flow.network import FlowNetwork

SOURCE_RADIUS = 0.6
"""Distance at which the noise of two points has correlation .6, in units of the radius of the tracks. Hand-tuned."""
SOURCE_VELOCITY = 0.5
"""The same for the difference of their continuations, in units of the motion. Hand-tuned."""
INDEPENDENT_SHARE = 0.03
"""Share of the variance of the noise that is independent for each track. Hand-tuned."""
TEMPERATURE = 1.08
"""Factor on the noise when sampling, chosen so that intervals hold as often as they say on scenes of other seeds."""
SAMPLES_AT_ONCE = 16
"""Number of samples that are computed together, limited by memory."""
STEPS = 6
"""Number of steps of Heun's method from noise to sample. Hand-tuned."""


def noise_factor(
    places: Float[Tensor, "*batch track 3"], continuation: Float[Tensor, "*batch track motion"]
) -> Float[Tensor, "*batch track track"]:
    """Compute the factor of the covariance of the noise: points that are close and move alike share most of it.

    Samples of a rigid piece then start from nearly equal noise, and end as motions of the whole piece.

    Args:
        places: `MotionConditions.places`.
        continuation: Continuations on straight lines relative to the mean position, in units of the motion.

    Returns:
        Lower triangular factor with unit variances of the product with its transpose.
    """
    apart = torch.cdist(places, places) / SOURCE_RADIUS
    faster = torch.cdist(continuation, continuation) / (SOURCE_VELOCITY * continuation.shape[-1] ** 0.5)
    kernel = torch.exp(-(apart.square() + faster.square()) / 2)
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    return torch.linalg.cholesky((1 - INDEPENDENT_SHARE) * kernel + INDEPENDENT_SHARE * eye)


def flow_matching_error(
    network: FlowNetwork,
    target: Float[Tensor, "batch track channel"],
    noise: Float[Tensor, "batch track channel"],
    flow_time: Float[Tensor, " batch"],
    features: Float[Tensor, "batch track feature"],
    tokens: Float[Tensor, "batch track token_width"] | None,
) -> Float[Tensor, "batch track channel"]:
    """Compute the error of the velocity on the straight path from noise to data, whose square is the loss.

    Args:
        network: The network.
        target: Data, the end of the path at time 1.
        noise: Noise, its start at time 0.
        flow_time: Time on the path.
        features: `MotionConditions.features`.
        tokens: Tokens of the frozen model; None for none.

    Returns:
        Predicted velocity minus that of the path.
    """
    time = flow_time[:, None, None]
    velocity = network((1 - time) * noise + time * target, flow_time, features, tokens)
    return velocity - (target - noise)


def integrate_flow(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Float[Tensor, "batch track channel"], steps: int = STEPS
) -> Float[Tensor, "batch track channel"]:
    """Follow the flow from noise to a sample by Heun's method.

    Args:
        velocity: Function of values and flow time (batch,) that returns the velocity.
        noise: Values at time 0.
        steps: Number of steps of equal length.

    Returns:
        Values at time 1.
    """
    values = noise
    for step in range(steps):
        now = noise.new_full((len(noise),), step / steps)
        slope = velocity(values, now)
        ahead = velocity(values + slope / steps, now + 1 / steps)
        values = values + (slope + ahead) / (2 * steps)
    return values


def draw_noise(
    factor: Float[Tensor, "batch track track"], generator: torch.Generator
) -> Float[Tensor, "batch track channel"]:
    """Draw noise with the covariance of `noise_factor`.

    Args:
        factor: Its factor.
        generator: Random generator.

    Returns:
        Noise of unit variance, independent between channels and clips.
    """
    white = torch.randn(*factor.shape[:-1], CHANNELS, generator=generator, dtype=factor.dtype, device=factor.device)
    return factor @ white


def sample_motion(
    network: FlowNetwork,
    conditions: MotionConditions,
    tokens: Float[Tensor, "track token_width"] | None,
    num_samples: int,
    generator: torch.Generator,
    steps: int = STEPS,
) -> Float[Tensor, "sample track channel"]:
    """Sample motions of one clip.

    Args:
        network: The network.
        conditions: Conditions of one clip, without a batch axis.
        tokens: Tokens of the frozen model; None for none.
        num_samples: Number of samples.
        generator: Random generator.
        steps: Number of steps of the flow.

    Returns:
        Whitened coordinates of the curves (`MotionConditions.control_points`).
    """
    factor = noise_factor(conditions.places, conditions.motions)
    found = []
    with torch.inference_mode():
        for first in range(0, num_samples, SAMPLES_AT_ONCE):
            count = min(SAMPLES_AT_ONCE, num_samples - first)
            noise = TEMPERATURE * draw_noise(factor.expand(count, -1, -1), generator)
            features = conditions.features.expand(count, -1, -1)
            repeated = None if tokens is None else tokens.expand(count, -1, -1)
            velocity = partial(_velocity, network, features, repeated)
            found.append(integrate_flow(velocity, noise, steps))
    return torch.cat(found).clone()


def _velocity(
    network: FlowNetwork, features: Tensor, tokens: Tensor | None, values: Tensor, flow_time: Tensor
) -> Tensor:
    return network(values, flow_time, features, tokens)
