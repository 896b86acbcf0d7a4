"""DINO vision transformers by their timm names: DINOv2 with registers at patch 14, DINOv3 at patch 16."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.models.backbones.base import Backbone, BackboneFeatures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What DINO models saw in training, RGB in [0, 1]."""


@dataclass(frozen=True)
class DinoBackboneConfig:
    """A vision transformer of timm, such as ``vit_small_patch14_reg4_dinov2`` or ``vit_small_patch16_dinov3``."""

    name: str
    blocks: int | None = None
    """Only the first so many transformer blocks; None for all."""


class DinoBackbone(Backbone):
    """The patch tokens of a timm DINO model after its last norm, for any size that is a multiple of its patch.

    It is built with random weights; `load_pretrained` fills in published ones.
    """

    def __init__(self, config: DinoBackboneConfig) -> None:
        super().__init__()
        self.name = config.name
        self.blocks = config.blocks
        self.vit: Any = self._create()
        self.patch_size = self.vit.patch_embed.patch_size[0]
        self.width = self.vit.embed_dim
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:
        normalized = (images - self.get_buffer("mean")) / self.get_buffer("std")
        tokens = self.vit.forward_features(normalized)
        return BackboneFeatures(tokens[:, self.num_prefix_tokens :])

    def set_activation_checkpointing(self, enabled: bool) -> None:
        self.vit.set_grad_checkpointing(enabled)

    def load_pretrained(self, weights: Path | None) -> None:
        """Fill in the weights of a local file, or with None those that timm downloads for this name.

        Raises ``ValueError`` where they cannot be had or do not fit.
        """
        if weights is not None and not weights.is_file():
            raise ValueError(f"backbone weights {weights} do not exist")
        try:
            self.vit.load_state_dict(self._create(pretrained=True, weights=weights).state_dict())
        except (RuntimeError, OSError, KeyError) as error:
            first_line = str(error).splitlines()[0]
            given = "timm's download" if weights is None else str(weights)
            raise ValueError(f"weights for {self.name} from {given} cannot be loaded: {first_line}") from error

    def _create(self, pretrained: bool = False, weights: Path | None = None) -> Any:
        import timm

        options: dict[str, Any] = {} if self.blocks is None else {"depth": self.blocks}
        if weights is not None:
            options["pretrained_cfg_overlay"] = {"file": str(weights)}
        try:
            return timm.create_model(self.name, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **options)
        except RuntimeError as error:
            if "Unknown model" not in str(error):
                raise
            raise ValueError(
                f"timm has no model named {self.name!r}; DINO models contain 'dinov2' or 'dinov3'"
            ) from error
