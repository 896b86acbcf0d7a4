"""Length of a scene's unit in meters, and its sky, from a metric monocular model that runs on the same clip."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import resized_intrinsics
from recon4d.inference.single_pass import ReconstructConfig, predict_scene
from recon4d.inference.windows.robust_similarity import robust_mean
from recon4d.models import MonoModel, SceneModel
from recon4d.records import Clip, Priors, Scene


@dataclass(frozen=True)
class MetricFit:
    """Metric scale of a scene."""

    scene: Scene
    """The scene with `metres_per_unit`, and without depth where the metric model sees sky."""
    metres_per_unit: float
    """Length of the unit in meters."""
    relative_error: float
    """Median relative difference between the scaled depth and the metric depth; small if both agree."""
    sky_share: float
    """Fraction of the pixels that are sky."""


def fit_metric_scale(model: SceneModel, clip: Clip, scene: Scene, config: ReconstructConfig) -> MetricFit:
    """Fit one scale of a scene to the depth of a metric model.

    The scale is the robust mean of the logarithm of metric over scene depth (`robust_mean`), over pixels with at least
    the median confidence that are not sky. The metric model uses the focal lengths of the scene.

    Args:
        model: A metric monocular model, such as da3_metric_large.
        clip: The clip that the scene is of.
        scene: The scene, of any map size.
        config: Precision and size of the pass of the metric model; anchors are ignored.

    Returns:
        The scene and how well both depths agree.

    Raises:
        UserError: If the model is not metric, or no pixel has both depths.
    """
    if not isinstance(model, MonoModel) or not model.config.metric:
        raise UserError(f"{model.name} is no metric monocular model; use da3_metric_large, or a file of its weights")
    metric = _metric_scene(model, clip, scene, config)
    sky = metric.depth_confidence <= 0
    log_ratios = (metric.depths.double() / scene.depths.double()).log()
    is_used = _confident(scene) & ~sky & log_ratios.isfinite()
    if not is_used.any():
        raise UserError(f"{model.name} sees nothing but sky where the scene has depth; the metric scale is unknown")
    scale = math.exp(robust_mean(log_ratios[is_used]))
    difference = float(((scale * scene.depths.double() / metric.depths.double())[is_used] - 1).abs().median())
    metric_scene = replace(scene.with_unknown(sky), metres_per_unit=torch.full_like(scene.metres_per_unit, scale))
    return MetricFit(metric_scene, scale, difference, float(sky.double().mean()))


def _metric_scene(model: MonoModel, clip: Clip, scene: Scene, config: ReconstructConfig) -> Scene:
    """Run the metric model on the clip with the intrinsics of the scene; return maps of the scene's size."""
    intrinsics = resized_intrinsics(scene.cameras.intrinsics, scene.size, clip.size)
    priors = replace(Priors.unknown(clip.num_frames), intrinsics=intrinsics)
    settings = replace(config, anchors=(), processing_size=None)
    # The poses are not used, and known to be at rest, so that nothing is assumed.
    poses = torch.eye(4).expand(clip.num_frames, 4, 4)
    found = predict_scene(model, replace(clip, priors=replace(priors, world_from_cam=poses)), settings)
    return found.resized(*scene.size)


def _confident(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Mark pixels with at least the median confidence of the known ones."""
    confidence: Float[Tensor, "time height width"] = scene.depth_confidence
    is_known = (confidence > 0) & (scene.depths > 0)
    if not is_known.any():
        return is_known
    return is_known & (confidence >= confidence[is_known].median())
