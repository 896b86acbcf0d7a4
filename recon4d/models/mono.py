"""Monocular model of Depth Anything 3: depth and sky of each frame by itself, without cameras."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.geometry import intrinsics_from_field_of_view
from recon4d.heads import SkyDptHead, SkyDptHeadConfig, encode_transforms
from recon4d.heads.camera_base import PRIOR_FIELD_OF_VIEW
from recon4d.models.backbones import PlainVit, PlainVitConfig
from recon4d.models.outputs import Outputs
from recon4d.models.scene_model import Images, PassModules, SceneModel
from recon4d.models.sky import fill_sky
from recon4d.models.tokens import frame_slices
from recon4d.records import Cameras, Priors, Scene

CANONICAL_FOCAL = 300.0
"""Focal length in pixels at which the output of the metric model is depth in meters (as published)."""


@dataclass(frozen=True)
class MonoModelConfig:
    """Configuration of a monocular model; stored in checkpoints.

    Raises:
        UserError: If the backbone hands out no layers.
    """

    backbone: PlainVitConfig
    """Configuration of the backbone, with the layers that the head reads."""
    dense: SkyDptHeadConfig
    """Configuration of the head."""
    processing_size: int
    """Images are processed at about the area of a square with this side, in pixels."""
    metric: bool = False
    """Whether depth is metric for a known focal length: meters = depth * focal / `CANONICAL_FOCAL`."""

    def __post_init__(self) -> None:
        if not self.backbone.out_indices:
            raise UserError("the backbone of a monocular model needs out_indices: the layers that the head reads")


class MonoModel(SceneModel):
    """Predicts depth and sky of single pictures; frames of a clip do not see each other, except for the depth of sky.

    Cameras are not predicted: all stand at the origin, with the given intrinsics or, if none are given, those of
    `PRIOR_FIELD_OF_VIEW`. Depth has no confidence; it is 1 everywhere. A metric model predicts meters for frames of
    clips whose intrinsics are all given, otherwise depth up to scale.

    Args:
        config: Configuration of all parts.
    """

    def __init__(self, config: MonoModelConfig) -> None:
        super().__init__()
        self.config: MonoModelConfig = config
        self.backbone = PlainVit(config.backbone)
        self.patch_size = self.backbone.patch_size
        widths = [self.backbone.width] * len(config.backbone.out_indices)
        self.head = SkyDptHead(config.dense, widths, self.patch_size)
        self.head.reset_parameters()

    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        priors: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Outputs:
        """See `SceneModel.outputs`; there are no tracks, and only given intrinsics are used of `priors`."""
        images = self.floating_images(images)
        size = (images.shape[-2], images.shape[-1])
        depths, sky, features = self.depth_and_sky(images, frame_chunk)
        cameras, is_given = _cameras(depths, priors)
        depths = fill_sky(depths, sky)
        unit = torch.full_like(depths[:, 0, 0, 0], torch.nan)
        if self.config.metric:
            focal = cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].mean(dim=-1)
            meters = depths * (focal / CANONICAL_FOCAL)[..., None, None]
            depths = torch.where(is_given[:, None, None, None], meters, depths)
            unit = torch.where(is_given, 1.0, unit)
        return Outputs(
            scene=Scene.from_depth(depths, cameras, metres_per_unit=unit),
            camera_stages=encode_transforms(cameras.world_from_cam, cameras.intrinsics, size)[None],
            matches=None,
            anchor_matches=None,
            cell_features=None,
            dynamic_logits=None,
            visibility_logits=None,
            features=features,
            sky=sky,
        )

    def depth_and_sky(
        self, images: Float[Tensor, "batch time 3 height width"], frame_chunk: int | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Predict depth and evidence for sky, as the network gives them.

        Args:
            images: RGB images in [0, 1].
            frame_chunk: Number of frames processed at once; None for all.

        Returns:
            Depth and sky (batch, time, height, width), and the layers (batch, time, patches, width) that the head
            reads.
        """
        over_frames = images.shape[:2]
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        parts = []
        frames = images.flatten(0, 1)
        for part in frame_slices(frames, frame_chunk):
            layers = self.backbone(frames[part]).layers
            parts.append((*self.head(layers, grid), *layers))
        depths, sky, *layers = (torch.cat(values).unflatten(0, over_frames) for values in zip(*parts, strict=True))
        return depths, sky, tuple(layers)

    @property
    def trunks(self) -> tuple[nn.Module, ...]:
        """See `SceneModel.trunks`."""
        return (self.backbone,)

    @property
    def pass_modules(self) -> PassModules:
        """See `SceneModel.pass_modules`."""
        return PassModules(once=[], per_chunk=[self.backbone, self.head], per_anchor_chunk=[], per_anchor=[])

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `SceneModel.set_activation_checkpointing`."""
        self.backbone.set_activation_checkpointing(enabled)


def _cameras(depths: Tensor, priors: Priors | None) -> tuple[Cameras, Tensor]:
    """Return cameras at the origin with given or assumed intrinsics, and the clips whose intrinsics are all given."""
    batch, time, height, width = depths.shape
    focal = math.sqrt(height * width) / (2 * math.tan(PRIOR_FIELD_OF_VIEW / 2))
    angles = depths.new_tensor([2 * math.atan(side / (2 * focal)) for side in (width, height)])
    assumed = intrinsics_from_field_of_view(angles, depths.new_tensor([width / 2, height / 2]), height, width)
    intrinsics = assumed.expand(batch, time, 3, 3)
    is_given = torch.zeros(batch, time, dtype=torch.bool, device=depths.device)
    if priors is not None:
        is_given = priors.intrinsics.isfinite().flatten(-2).all(dim=-1)
        intrinsics = torch.where(is_given[..., None, None], priors.intrinsics.to(depths), intrinsics)
    world_from_cam = torch.eye(4, dtype=depths.dtype, device=depths.device).expand(batch, time, 4, 4)
    return Cameras(world_from_cam.clone(), intrinsics.clone()), is_given.all(dim=1)
