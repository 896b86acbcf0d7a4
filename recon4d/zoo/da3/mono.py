"""Monocular models of Depth Anything 3: the configuration from the shapes of weights, and the conversion by name."""

from recon4d.heads import SkyDptHeadConfig
from recon4d.models import MonoModel, MonoModelConfig
from recon4d.models.backbones import PlainVitConfig
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.da3.any_view import PROCESSING_SIZE, vit_block, vit_tensor
from recon4d.zoo.da3.names import VIT, mono_name
from recon4d.zoo.da3.presets import Size, outputs_of, size_of
from recon4d.zoo.published import PublishedWeights

LARGE = Size(1024, 24)
"""Size of the published monocular models."""


def convert_mono(published: PublishedWeights, metric: bool) -> MonoModel:
    """Build a monocular model.

    Args:
        published: Published weights without the prefix of the whole model.
        metric: Whether depth is metric for a known focal length.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: With the first names that are missing, unknown or of another shape than expected.
    """
    model = empty_model(_config_of(published, metric))
    state = {}
    for name, value in model.state_dict().items():
        special = vit_tensor(published, name, value.shape)
        state[name] = published.take(mono_name(name), value.shape) if special is None else special
    published.check()
    model.load_state_dict(state, strict=True, assign=True)
    model.trained = True
    return model.eval()


def mono_config(metric: bool) -> MonoModelConfig:
    """Return the configuration of the published monocular models.

    Args:
        metric: Whether depth is metric for a known focal length.

    Returns:
        The configuration.
    """
    return _config(LARGE, 4 * LARGE.width, SkyDptHeadConfig(), metric)


def _config_of(published: PublishedWeights, metric: bool) -> MonoModelConfig:
    """Derive the configuration from the shapes of the published tensors."""
    first, second, third, fourth = (published.shape(f"head.projects.{level}.weight")[0] for level in range(4))
    dense = SkyDptHeadConfig((first, second, third, fourth), published.shape("head.scratch.layer1_rn.weight")[0])
    mlp_width = published.shape(f"{VIT}blocks.0.mlp.fc1.weight")[0]
    return _config(size_of(published), mlp_width, dense, metric)


def _config(size: Size, mlp_width: int, dense: SkyDptHeadConfig, metric: bool) -> MonoModelConfig:
    block = vit_block(size, "gelu", mlp_width, "none")
    backbone = PlainVitConfig(block, size.blocks, outputs_of(size, is_mono=True))
    return MonoModelConfig(backbone, dense, PROCESSING_SIZE, metric)
