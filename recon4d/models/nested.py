"""Nested model of Depth Anything 3: an any-view model whose unit and sky come from a metric monocular model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.models.config import CameraSource, ModelConfig
from recon4d.models.mono import CANONICAL_FOCAL, MonoModel, MonoModelConfig
from recon4d.models.network import Model
from recon4d.models.outputs import Outputs
from recon4d.models.reference_view import ReferenceView
from recon4d.models.scene_model import Images, PassModules, SceneModel
from recon4d.models.sky import QUANTILE, ground_quantile, is_ground
from recon4d.records import Priors, Scene

MIN_DEPTH = 1e-3
"""Smallest depth of a pixel that determines the scale, in units of the any-view model (as published)."""
MIN_METERS = 1e-2
"""Smallest metric depth of a pixel that determines the scale (as published)."""
MAX_SKY_METERS = 200.0
"""Largest depth of the sky in meters (as published)."""


@dataclass(frozen=True)
class NestedModelConfig:
    """Configuration of a nested model; stored in checkpoints."""

    any_view: ModelConfig
    """Configuration of the any-view model."""
    metric: MonoModelConfig
    """Configuration of the metric model."""

    @property
    def processing_size(self) -> int:
        """Images are processed at about the area of a square with this side, in pixels."""
        return self.any_view.processing_size


class NestedModel(SceneModel):
    """Runs both models on the same images; the scene is that of the any-view model, scaled to meters.

    One scale of each clip minimizes the squared differences to the metric depth over confident pixels of the ground.

    Args:
        config: Configuration of both models.
    """

    def __init__(self, config: NestedModelConfig) -> None:
        super().__init__()
        self.any_view = Model(config.any_view)
        self.metric = MonoModel(config.metric)
        self.patch_size = self.any_view.patch_size

    @property
    def config(self) -> NestedModelConfig:
        """Configuration of both models."""
        return NestedModelConfig(self.any_view.config, self.metric.config)

    @property
    def reference_view(self) -> ReferenceView:
        """How the reference frame is chosen; it can be set (`Model.reference_view`)."""
        return self.any_view.reference_view

    @reference_view.setter
    def reference_view(self, strategy: ReferenceView) -> None:
        self.any_view.reference_view = strategy

    @property
    def camera_source(self) -> CameraSource:
        """Where cameras come from; it can be set (`Model.camera_source`)."""
        return self.any_view.camera_source

    @camera_source.setter
    def camera_source(self, source: CameraSource) -> None:
        self.any_view.camera_source = source

    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        priors: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Outputs:
        """See `SceneModel.outputs`; lengths are in meters."""
        images = self.floating_images(images)
        outputs = self.any_view.outputs(images, times, anchors, priors, frame_chunk, key_stride)
        metric_depths, sky, _ = self.metric.depth_and_sky(images, frame_chunk)
        return replace(outputs, scene=_metric_scene(outputs.scene, metric_depths, sky), sky=sky)

    @property
    def encodes_all_cameras(self) -> bool:
        """See `SceneModel.encodes_all_cameras`."""
        return self.any_view.encodes_all_cameras

    @property
    def trunks(self) -> tuple[nn.Module, ...]:
        """See `SceneModel.trunks`."""
        return (*self.any_view.trunks, *self.metric.trunks)

    @property
    def pass_modules(self) -> PassModules:
        """See `SceneModel.pass_modules`."""
        modules = self.any_view.pass_modules
        return replace(modules, per_chunk=modules.per_chunk + self.metric.pass_modules.per_chunk)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `SceneModel.set_activation_checkpointing`."""
        self.any_view.set_activation_checkpointing(enabled)
        self.metric.set_activation_checkpointing(enabled)


def metric_scale(
    scene: Scene, metric_depths: Float[Tensor, "batch time height width"], sky: Float[Tensor, "batch time height width"]
) -> Float[Tensor, "batch"]:
    """Fit the length of the unit of scenes in meters by least squares over confident pixels of the ground.

    Args:
        scene: A batch of scenes.
        metric_depths: Depth in meters of the same pixels.
        sky: Evidence for sky.

    Returns:
        Meters per unit; NaN for clips without usable pixels.
    """
    ground = is_ground(sky)
    median = ground_quantile(scene.depth_confidence, ground, 0.5)
    is_used = ground & (scene.depth_confidence >= median[:, None, None, None])
    is_used &= (scene.depths > MIN_DEPTH) & (metric_depths > MIN_METERS)
    weight = is_used.to(scene.depths.dtype)
    products = (weight * metric_depths * scene.depths).sum(dim=(1, 2, 3))
    return products / (weight * scene.depths.square()).sum(dim=(1, 2, 3))


def _metric_scene(scene: Scene, metric_output: Tensor, sky: Tensor) -> Scene:
    """Scale scenes to meters and set depth and confidence of the sky."""
    focal = scene.cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].mean(dim=-1)
    metric_depths = metric_output * (focal / CANONICAL_FOCAL)[..., None, None]
    scale = metric_scale(scene, metric_depths, sky)
    is_known = scale.isfinite() & (scale > 0)
    scene = scene.scaled(torch.where(is_known, scale, 1.0))
    scene = replace(scene, metres_per_unit=torch.where(is_known, 1.0, torch.nan).to(scene.metres_per_unit))
    return _with_distant_sky(scene, is_ground(sky))


def _with_distant_sky(scene: Scene, ground: Tensor) -> Scene:
    """Move the sky to a large depth with the least confidence."""
    far = ground_quantile(scene.depths, ground, QUANTILE).clamp(max=MAX_SKY_METERS)[:, None, None, None]
    depths = torch.where(ground, scene.depths, far)
    confidence = torch.where(ground, scene.depth_confidence, 1.0)
    scene = replace(scene, depths=depths, depth_confidence=confidence, point_confidence=confidence)
    return replace(scene, points=scene.points_from_depth)
