"""Samples of the motion of a scene: the generative head on its tracks, for all curves."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices
from recon4d.heads.motion_flow import FlowNetwork, MotionConditions, motion_conditions, sample_motion
from recon4d.motion.trajectories import dynamic_tracks
from recon4d.records import Scene
from recon4d.records.motion_samples import MotionSamples

MAX_ATTENDING_CURVES = 320
"""Number of tracks that attend to each other; further tracks move like those of them that are most alike. Hand-tuned:
attention takes time that is quadratic in it, and a third of the tracks in training."""
NUM_NEIGHBORS = 3
"""Number of tracks that a further one moves like."""
MAX_SAMPLES = 256
"""Largest number of samples."""


def curves_to_sample(scene: Scene) -> Int[Tensor, " curve"]:
    """Choose the curves of a scene that attend to each other when they are sampled.

    Args:
        scene: A scene with trajectories.

    Returns:
        Indices of at most `MAX_ATTENDING_CURVES` curves.
    """
    assert scene.trajectories is not None
    return evenly_spaced_indices(scene.trajectories.num_curves, MAX_ATTENDING_CURVES)


def sample_trajectories(
    scene: Scene,
    network: FlowNetwork,
    num_samples: int,
    tokens: Float[Tensor, "track token_width"] | None = None,
    interval: tuple[float, float] | None = None,
    seed: int = 0,
) -> Scene:
    """Sample motions of the curves of a scene.

    Args:
        scene: A single scene with tracks and trajectories (`fit_trajectories`).
        network: The generative head.
        num_samples: Number of samples.
        tokens: Tokens of the frozen model at `curves_to_sample`; None for none.
        interval: First and last time in seconds that the samples cover, around all frames; None for those of the clip.
        seed: Seed of the samples.

    Returns:
        The scene with `Trajectories.samples`, the same for the same seed.

    Raises:
        UserError: If the number of samples is out of range, or the interval does not contain all frames.
    """
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise UserError(f"the number of motion samples is {num_samples}; wanted 1 to {MAX_SAMPLES}")
    curves = scene.trajectories
    assert curves is not None
    first, last = curves.times[[0, -1]].tolist()
    start, end = interval or (first, last)
    if not start <= first < last <= end:
        raise UserError(f"samples from {start:g} to {end:g} s do not cover the frames from {first:g} to {last:g} s")
    covered = curves.interval.new_tensor([start, end])
    if curves.num_curves == 0:
        control_points = curves.control_points.new_zeros(num_samples, *curves.control_points.shape)
        return replace(scene, trajectories=replace(curves, samples=MotionSamples(control_points, covered)))
    tracks = dynamic_tracks(scene, curves.num_curves)
    times = (curves.times - start) / (end - start)
    conditions = motion_conditions(tracks.points.float(), (tracks.weights > 0).float(), times.float())
    chosen = curves_to_sample(scene)
    generator = torch.Generator().manual_seed(seed)
    values = sample_motion(network, conditions.select(chosen), tokens, num_samples, generator)
    if len(chosen) < curves.num_curves:
        values = _values_of_all(conditions, chosen, values)
    control_points = conditions.control_points(values).to(curves.control_points)
    return replace(scene, trajectories=replace(curves, samples=MotionSamples(control_points, covered)))


def _values_of_all(
    conditions: MotionConditions, chosen: Int[Tensor, " chosen"], values: Float[Tensor, "sample chosen channel"]
) -> Float[Tensor, "sample track channel"]:
    """Interpolate whitened coordinates from the tracks that are close, move alike and were observed at like times."""
    traits = conditions.traits
    distances, nearest = torch.cdist(traits, traits[chosen]).topk(min(NUM_NEIGHBORS, len(chosen)), largest=False)
    weights = 1 / (distances + 1e-3)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    found = torch.einsum("tk,stkc->stc", weights, values[:, nearest])
    found[:, chosen] = values
    return found
