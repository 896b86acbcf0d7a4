"""Models by name: which there are, what they are made of, and how they are created."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from recon4d.heads import (
    CameraHeadConfig,
    DptHeadConfig,
    LinearHeadConfig,
    MotionHeadConfig,
)
from recon4d.layers import BlockConfig, MatchingConfig
from recon4d.models import AggregatorConfig, Model, ModelConfig
from recon4d.models.backbones import ConvolutionalBackboneConfig, DinoBackbone, DinoBackboneConfig
from recon4d.zoo.checkpoints import empty_model, is_checkpoint, load_checkpoint
from recon4d.zoo.hub import (
    OMEGA_LICENSE,
    PublishedSource,
    load_published,
    published_model,
)
from recon4d.zoo.vggt.vggt import from_vggt, vggt_1b_config
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega, vggt_omega_1b_config

DEFAULT_MODEL = "recon4d_mini"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
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
    backbone_license: str
    """The license of backbone weights that can be downloaded; those of the package are Apache-2.0."""
    make_config: Callable[[], ModelConfig]
    published: PublishedSource | None = None
    """Where others published weights of the whole model, which are downloaded when first used."""

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
    """The configuration of a name, with linear or DPT dense heads; change it with `dataclasses.replace`.

    Published models keep their own heads. Raises ``ValueError`` where the name is unknown.
    """
    entry = model_entry(name)
    config = entry.make_config()
    return config if heads == "linear" or entry.published is not None else _with_dpt_heads(config)


def create_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = "default",
    *,
    heads: HeadKind = "linear",
    backbone_weights: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """A model of the zoo, in evaluation mode on the CPU.

    `weights` are "default" (what ships with the package, or for published models what is downloaded once; where there
    is nothing, random ones and an `UntrainedWarning`), None (random from `seed`, no warning) or a checkpoint file of
    the same configuration. `backbone_weights`, for
    DINO-backed models, are "pretrained" (timm downloads them, under their own license) or a local file.
    Raises ``ValueError`` where the name is unknown or weights do not fit.
    """
    entry = model_entry(name)
    if entry.published is not None and weights is not None:
        return _published(entry, entry.published, weights)
    config = model_config(name, heads)
    file = entry.weights_file if weights == "default" and heads == "linear" else None
    if weights not in ("default", None):
        file = Path(str(weights))
    if file is not None:
        model = load_checkpoint(file)
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


def load_model(path: str | Path) -> Model:
    """The model of a file, in evaluation mode on the CPU: a checkpoint of this package, or VGGT's or VGGT-Omega's.

    Raises ``FileNotFoundError``, or ``ValueError`` where the file is damaged, is no checkpoint that is known here, or
    has other names or shapes than it should.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    return load_checkpoint(path) if is_checkpoint(path) else load_published(path)


def _published(entry: ZooEntry, source: PublishedSource, weights: str | Path) -> Model:
    if weights == "default":
        return published_model(entry.name, source)
    model = load_model(weights)
    if model.config != entry.make_config():
        raise ValueError(f"{weights} holds a model of another configuration than {entry.name}")
    model.name = entry.name
    return model


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
    pairs, width = config.aggregator.depth, config.aggregator.block.width
    taps = sorted({max(0, round(pairs * quarter / 4) - 1) for quarter in (1, 2, 3, 4)})
    channels = (width // 4, width // 2, width, width)
    return replace(
        config,
        aggregator=replace(config.aggregator, out_indices=tuple(taps)),
        dense=DptHeadConfig(channels=channels, features=max(32, width // 4)),
    )


def _tiny() -> ModelConfig:
    block = BlockConfig(width=96, heads=3, mlp_width=192)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=1, quarter_channels=32, eighth_channels=48),
        aggregator=AggregatorConfig(block, depth=2, out_indices=(0, 1), registers=2),
        matching=MatchingConfig(channels=32),
        camera=CameraHeadConfig(block, blocks=1),
        dense=LinearHeadConfig(width=96, channels=16),
        motion=MotionHeadConfig(block, blocks=1),
        processing_size=96,
    )


def _mini() -> ModelConfig:
    """Between tiny and small: what a CPU can train in some hours."""
    block = BlockConfig(width=256, heads=4, mlp_width=640)
    head_block = replace(block, mlp_width=384)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=3, quarter_channels=48, eighth_channels=96),
        aggregator=AggregatorConfig(block, depth=4, out_indices=(0, 3)),
        matching=MatchingConfig(channels=96),
        camera=CameraHeadConfig(head_block),
        dense=LinearHeadConfig(width=160, channels=48),
        motion=MotionHeadConfig(head_block),
        processing_size=166,
    )


def _small() -> ModelConfig:
    """The network that was shown to learn from scratch; the MLPs a little narrower to stay under 30 M parameters."""
    block = BlockConfig(width=384, heads=6, mlp_width=960)
    head_block = replace(block, mlp_width=512)
    return ModelConfig(
        backbone=ConvolutionalBackboneConfig(block, blocks=4),
        aggregator=AggregatorConfig(block, depth=6, out_indices=(0, 5)),
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
        aggregator=AggregatorConfig(block, pairs, out_indices=(0, pairs - 1)),
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
    for family, (pattern, processing_size, license) in families.items():
        for size, (width, pairs) in sizes.items():
            timm_name = pattern.format(size)
            yield ZooEntry(
                f"recon4d_{family}_{size}",
                timm_name,
                license,
                lambda arguments=(timm_name, width, pairs, processing_size): _dino(*arguments),
            )


def _published_entries() -> Iterator[ZooEntry]:
    for name, repository, license, is_gated in (
        ("vggt_1b", "facebook/VGGT-1B", "CC BY-NC 4.0, by Meta: not for commercial use", False),
        ("vggt_1b_commercial", "facebook/VGGT-1B-Commercial", "VGGT License, by Meta: no military use", True),
    ):
        source = PublishedSource(repository, "model.pt", license, from_vggt, is_gated)
        yield ZooEntry(name, "vit_large_patch14_reg4_dinov2", license.split(",")[0], vggt_1b_config, source)
    source = PublishedSource("facebook/VGGT-Omega", "vggt_omega_1b_512.pt", OMEGA_LICENSE, from_vggt_omega, True)
    yield ZooEntry(
        "vggt_omega_1b",
        "vit_large_patch16_dinov3, trained on",
        OMEGA_LICENSE.split(",")[0],
        vggt_omega_1b_config,
        source,
    )


_ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry("recon4d_tiny", "convolutional stem (for tests)", "-", _tiny),
        ZooEntry("recon4d_mini", "convolutional stem and 3 blocks", "-", _mini),
        ZooEntry("recon4d_small", "convolutional stem and 4 blocks", "-", _small),
        *_dino_entries(),
        *_published_entries(),
    )
}
"""A new model is one function and one line here."""
