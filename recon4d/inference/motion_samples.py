"""Several plausible motions of a clip: reconstruction, curves of what moves, and the generative head."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.inference.single_pass import ClipInput, as_clip, as_model, reconstruct
from recon4d.inference.tracking_tokens import tracking_tokens
from recon4d.inference.trajectory_samples import curves_to_sample, sample_trajectories
from recon4d.models import Model, SceneModel
from recon4d.motion import fit_trajectories
from recon4d.records import Clip, Scene
from recon4d.zoo import MotionFlow, load_motion_flow

MARGIN = 0.25
"""Time before the first and after the last frame that samples cover, as a fraction of the clip's duration."""


def sample_motions(
    model: SceneModel | str | Path,
    clip: Clip | ClipInput,
    num_samples: int = 8,
    *,
    scene: Scene | None = None,
    margin: float = MARGIN,
    seed: int = 0,
    flow: MotionFlow | None = None,
) -> Scene:
    """Sample motions of what moves: through the observations, and in several ways where there are none.

    A point is not observed while it is hidden, and before and after the clip. The samples of the generative head
    (conditional flow matching, Lipman et al. 2023) show how it may have moved there; all points of a sample belong
    together.

    Args:
        model: A model as for `recon4d.reconstruct`. The tokens of the model that the generative head was trained with
            tell more than the tracks alone; it works without those of others.
        clip: A clip with times and without batch axes; or a path, or images in memory, such as an array of shape
            (time, height, width, 3), as for `recon4d.reconstruct`.
        num_samples: Number of samples.
        scene: Scene of the clip with tracks; None reconstructs the clip and refines it, and tracks the pixels of its
            first, middle and last frame.
        margin: Time before the first and after the last frame that the samples cover, as a fraction of the clip's
            duration.
        seed: Seed of the samples.
        flow: Generative head; None for the one of the package.

    Returns:
        The scene with `Scene.trajectories` and their `samples`: positions, means and standard deviations at any time.

    Raises:
        UserError: If the clip has no increasing times, the scene has no tracks, or a number is out of range.
    """
    model, clip = as_model(model), as_clip(clip)
    flow = flow or load_motion_flow()
    if scene is None:
        anchors = sorted({0, clip.num_frames // 2, clip.num_frames - 1})
        scene = reconstruct(model, clip, refine=True, anchors=anchors)
    scene = fit_trajectories(scene, clip.times)
    curves = scene.trajectories
    assert curves is not None
    return sample_with_tokens(model, clip, scene, flow, num_samples, _with_margin(curves.times, margin), seed)


def sample_with_tokens(
    model: SceneModel,
    clip: Clip,
    scene: Scene,
    flow: MotionFlow,
    num_samples: int,
    interval: tuple[float, float],
    seed: int = 0,
) -> Scene:
    """Sample motions of the trajectories of a scene, with the tokens of the model if the generative head knows them.

    Args:
        model: The model.
        clip: The clip.
        scene: Its scene with tracks and trajectories.
        flow: Generative head.
        num_samples: Number of samples.
        interval: First and last time in seconds that the samples cover.
        seed: Seed of the samples.

    Returns:
        The scene with samples.

    Raises:
        UserError: As for `recon4d.inference.trajectory_samples.sample_trajectories`.
    """
    curves = scene.trajectories
    assert curves is not None
    tokens = None
    if curves.num_curves and isinstance(model, Model) and flow.knows_tokens_of(model):
        chosen = curves_to_sample(scene)
        height, width = scene.size
        places = curves.pixels[chosen] / torch.tensor([width, height])
        tokens = tracking_tokens(model, clip, curves.anchors[chosen], places)
    return sample_trajectories(scene, flow.network, num_samples, tokens, interval, seed)


def _with_margin(times: Float[Tensor, " time"], margin: float) -> tuple[float, float]:
    """Extend the interval of the frames on both sides."""
    if not 0 <= margin <= 1:
        raise UserError(f"the margin is {margin:g} of the clip's duration; wanted 0 to 1")
    first, last = times[[0, -1]].tolist()
    return first - margin * (last - first), last + margin * (last - first)
