"""Models by name: which there are, what they are made of, and how they are created."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from recon4d.aggregator import AggregatorConfig
from recon4d.attention import BlockConfig
from recon4d.backbone import ConvolutionalBackboneConfig, DinoBackbone, DinoBackboneConfig
from recon4d.heads import CameraHeadConfig, DptHeadConfig, LinearHeadConfig, MotionHeadConfig
from recon4d.matching import MatchingConfig
from recon4d.model import Model, ModelConfig
from recon4d.zoo.checkpoint import empty_model, load_model

DEFAULT_MODEL = "recon4d_small"
WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
"""Weights that ship inside the package, NAME.safetensors each."""

HeadKind = Literal["linear", "dpt"]


class UntrainedWarning(UserWarning):
    """A model has random weights: its answers have the right shapes and no meaning."""


@dataclass(frozen=True)
class ZooEntry:
    """What a person should know of a model before choosing it."""

    name: str
    backbone: str
    """Words for `recon4d models`."""
    backbone_licence: str
    """The licence of backbone weights that can be downloaded; those of the package are Apache-2.0."""
    make_config: Callable[[], ModelConfig]

    @property
    def weights_file(self) -> Path | None:
        """The weights that ship with the package, if there are any."""
        file = WEIGHTS_FOLDER / f"{self.name}.safetensors"
        return file if file.is_file() else None

    def num_parameters(self) -> int:
        """Counted on a model that is never filled with weights."""
        return empty_model(self.make_config()).num_parameters()


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return list(_ZOO)


def model_entry(name: str) -> ZooEntry:
    """The entry of `name`; raises ``ValueError`` with the names there are."""
    if name not in _ZOO:
        raise ValueError(f"unknown model {name!r}; there are {', '.join(_ZOO)}, or give a .safetensors file")
    return _ZOO[name]


def model_config(name: str, heads: HeadKind = "linear") -> ModelConfig:
    """The configuration of a name, with linear or DPT dense heads; change it with `dataclasses.replace`."""
    config = model_entry(name).make_config()
    return config if heads == "linear" else _with_dpt_heads(config)


def create_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = "default",
    *,
    heads: HeadKind = "linear",
    backbone_weights: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """A model of the zoo, in evaluation mode on the CPU.

    `weights` are "default" (what ships with the package; where nothing does, random ones and an `UntrainedWarning`),
    None (random from `seed`, no warning) or a checkpoint file of the same configuration. `backbone_weights`, for
    DINO-backed models, are "pretrained" (timm downloads them, under their own licence) or a local file.
    Raises ``ValueError`` where the name is unknown or weights do not fit.
    """
    entry = model_entry(name)
    config = model_config(name, heads)
    file = entry.weights_file if weights == "default" and heads == "linear" else None
    if weights not in ("default", None):
        file = Path(str(weights))
    if file is not None:
        model = load_model(file)
        if model.config != config:
            raise ValueError(f"{file} holds a model of another configuration than {name} with {heads} heads")
        return model

    with _seeded(seed):
        model = Model(config)
    model.name = name
    if backbone_weights is not None:
        _load_backbone(model, backbone_weights)
    if weights == "default":
        warnings.warn(
            f"{name} is untrained (no weights ship for it yet): its answers have the right shapes and no meaning",
            UntrainedWarning,
            stacklevel=2,
        )
    return model.eval()


def _load_backbone(model: Model, weights: str | Path) -> None:
    if not isinstance(model.backbone, DinoBackbone):
        raise ValueError(f"{model.name} has no DINO backbone; backbone_weights are for recon4d_dinov2_* and _dinov3_*")
    model.backbone.load_pretrained(None if weights == "pretrained" else Path(weights))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside, the caller's own random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_dpt_heads(config: ModelConfig) -> ModelConfig:
    """The same network with DPT heads, which see four layers instead of two."""
    pairs, width = config.aggregator.pairs, config.aggregator.block.width
    taps = sorted({max(0, round(pairs * quarter / 4) - 1) for quarter in (1, 2, 3, 4)})
    channels = (width // 4, width // 2, width, width)
    return replace(
        config,
        aggregator=replace(config.aggregator, taps=tuple(taps)),
        dense=DptHeadConfig(channels=channels, features=max(32, width // 4)),
    )


def _tiny() -> ModelConfig:
    block = BlockConfig(width=96, heads=3, mlp_width=192)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=1, quarter_channels=32, eighth_channels=48),
        aggregator=AggregatorConfig(block, pairs=2, taps=(0, 1), registers=2),
        matching=MatchingConfig(channels=32),
        camera=CameraHeadConfig(block, blocks=1),
        dense=LinearHeadConfig(width=96, channels=16),
        motion=MotionHeadConfig(block, blocks=1),
        processing_size=96,
    )


def _mini() -> ModelConfig:
    """Small enough to learn on two cores of a CPU in an afternoon."""
    block = BlockConfig(width=192, heads=3, mlp_width=384)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=2, quarter_channels=32, eighth_channels=64),
        aggregator=AggregatorConfig(block, pairs=3, taps=(0, 2), registers=2),
        matching=MatchingConfig(channels=64),
        camera=CameraHeadConfig(block, blocks=1),
        dense=LinearHeadConfig(width=96, channels=32),
        motion=MotionHeadConfig(block, blocks=1),
        processing_size=128,
    )


def _small() -> ModelConfig:
    """The network that was shown to learn from scratch; the MLPs a little narrower to stay under 30 M parameters."""
    block = BlockConfig(width=384, heads=6, mlp_width=960)
    head_block = replace(block, mlp_width=512)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=4),
        aggregator=AggregatorConfig(block, pairs=6, taps=(0, 5)),
        matching=MatchingConfig(),
        camera=CameraHeadConfig(head_block),
        dense=LinearHeadConfig(width=256),
        motion=MotionHeadConfig(head_block),
        processing_size=256,
    )


def _dino(timm_name: str, width: int, pairs: int, processing_size: int) -> ModelConfig:
    heads = width // 64
    block = BlockConfig(width, heads, 4 * width, layer_scale=0.01, qkv_bias=True)
    head_block = BlockConfig(384, 6, 1024)
    return ModelConfig(
        backbone=DinoBackboneConfig(timm_name),
        aggregator=AggregatorConfig(block, pairs, taps=(0, pairs - 1)),
        matching=MatchingConfig(),
        camera=CameraHeadConfig(replace(block, mlp_width=2 * width)),
        dense=LinearHeadConfig(width=384),
        motion=MotionHeadConfig(head_block),
        processing_size=processing_size,
    )


def _dino_entries() -> Iterator[ZooEntry]:
    sizes = {"small": (384, 6), "base": (768, 12), "large": (1024, 24)}
    families = {
        "dinov2": ("vit_{}_patch14_reg4_dinov2", 392, "Apache-2.0"),
        "dinov3": ("vit_{}_patch16_dinov3", 384, "DINOv3 License"),
    }
    for family, (pattern, processing_size, licence) in families.items():
        for size, (width, pairs) in sizes.items():
            timm_name = pattern.format(size)
            yield ZooEntry(
                f"recon4d_{family}_{size}",
                timm_name,
                licence,
                lambda arguments=(timm_name, width, pairs, processing_size): _dino(*arguments),
            )


_ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry("recon4d_tiny", "convolutional stem (for tests)", "-", _tiny),
        ZooEntry("recon4d_mini", "convolutional stem and 2 blocks", "-", _mini),
        ZooEntry("recon4d_small", "convolutional stem and 4 blocks", "-", _small),
        *_dino_entries(),
    )
}
"""A new model is one function and one line here."""
