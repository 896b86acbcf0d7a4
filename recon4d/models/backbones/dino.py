"""DINO vision transformers of timm: DINOv2 with registers (patch size 14) and DINOv3 (patch size 16)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.models.backbones.base import Backbone, BackboneFeatures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] over ImageNet; DINO models are trained on images normalized with it."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] over ImageNet."""


@dataclass(frozen=True)
class DinoBackboneConfig:
    """Configuration of a DINO backbone."""

    name: str
    """Name in timm, such as ``vit_small_patch14_reg4_dinov2`` or ``vit_small_patch16_dinov3``."""
    blocks: int | None = None
    """Number of transformer blocks to keep, from the first; None keeps all."""


class DinoBackbone(Backbone):
    """DINO model of timm that returns its patch tokens after the final norm.

    The weights are random until `load_pretrained` loads published ones.

    Raises:
        UserError: On construction, if timm has no model of this name.
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
        """See `Backbone.forward`."""
        normalized = (images - self.get_buffer("mean")) / self.get_buffer("std")
        tokens = self.vit.forward_features(normalized)
        return BackboneFeatures(tokens[:, self.num_prefix_tokens :])

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `Backbone.set_activation_checkpointing`."""
        self.vit.set_grad_checkpointing(enabled)

    def load_pretrained(self, weights: Path | None) -> None:
        """Load pretrained weights.

        Args:
            weights: Checkpoint of timm; None downloads the weights that timm publishes under the name of the model.

        Raises:
            UserError: If the file does not exist, the download fails, or the weights do not fit the model.
        """
        if weights is not None and not weights.is_file():
            raise UserError(f"backbone weights {weights} do not exist; give a file")
        try:
            self.vit.load_state_dict(self._create(pretrained=True, weights=weights).state_dict())
        except (RuntimeError, OSError, KeyError) as error:
            first_line = str(error).splitlines()[0]
            given = "the download of timm" if weights is None else str(weights)
            raise UserError(f"weights of {self.name} from {given} cannot be loaded: {first_line}") from error

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
            raise UserError(
                f"timm has no model named {self.name!r}; names of DINO models contain 'dinov2' or 'dinov3'"
            ) from error
