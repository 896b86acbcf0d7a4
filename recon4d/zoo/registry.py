"""The models by name: their configurations, and how they are created and loaded."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from recon4d.errors import UserError
from recon4d.heads import (
    CameraHeadConfig,
    DptHeadConfig,
    DualDptHeadConfig,
    LinearHeadConfig,
    MotionHeadConfig,
    ShuffleHeadConfig,
)
from recon4d.layers import BlockConfig, MatchingConfig
from recon4d.models import (
    AggregatorConfig,
    Model,
    ModelConfig,
    NetworkConfig,
    SceneModel,
    create_network,
)
from recon4d.models.backbones import ConvolutionalBackboneConfig, DinoBackbone, DinoBackboneConfig
from recon4d.zoo.checkpoints import empty_model, is_checkpoint, load_checkpoint
from recon4d.zoo.da3.any_view import any_view_config, tiny_config
from recon4d.zoo.da3.da3 import APACHE, NONCOMMERCIAL, from_da3
from recon4d.zoo.da3.mono import mono_config
from recon4d.zoo.da3.nested import nested_config
from recon4d.zoo.da3.presets import Preset
from recon4d.zoo.da3.with_motion import SIDE, TINY_SIDE, with_motion
from recon4d.zoo.hub import (
    OMEGA_LICENSE,
    PublishedSource,
    choose_reference_view,
    load_published,
    published_model,
)
from recon4d.zoo.vggt.vggt import from_vggt, vggt_1b_config
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega, vggt_omega_1b_config

DEFAULT_MODEL = "recon4d_mini"
RECOMMENDED: dict[str, str] = {
    "without a download": DEFAULT_MODEL,
    "for any use, with a download of 540 MB": "da3_base",
    "for any use, small and fast (140 MB)": "da3_small",
    "for research only (5 GB)": "vggt_1b",
}
"""Recommended models by license and size."""
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Folder of the weights that are part of the package, as NAME.safetensors."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""File name endings that mark a checkpoint rather than the name of a model."""

HeadKind = Literal["linear", "dpt"]
"""Kind of dense heads that `create_model` offers."""


_HEAD_KINDS: dict[type, Literal["linear", "dpt", "shuffle"]] = {
    LinearHeadConfig: "linear",
    DptHeadConfig: "dpt",
    DualDptHeadConfig: "dpt",
    ShuffleHeadConfig: "shuffle",
}


class UntrainedWarning(UserWarning):
    """Warns that a model has random weights: its predictions have the right shapes and no meaning."""


@dataclass(frozen=True)
class ZooEntry:
    """Description of a model of the zoo."""

    name: str
    backbone: str
    """Short description of the backbone, for `recon4d models`."""
    backbone_license: str
    """License of weights that are downloaded; the weights in the package are Apache-2.0."""
    make_config: Callable[[], NetworkConfig]
    published: PublishedSource | None = None
    """Source of published weights of the whole model, downloaded at first use; None if there are none."""

    @property
    def weights_file(self) -> Path | None:
        """File of the weights that are part of the package, or None."""
        file = WEIGHTS_FOLDER / f"{self.name}.safetensors"
        return file if file.is_file() else None

    @property
    def has_weights(self) -> bool:
        """Whether there are trained weights, in the package or published."""
        return self.published is not None or self.weights_file is not None

    def num_parameters(self) -> int:
        """Count the parameters of the model without allocating them.

        Returns:
            Number of parameters.
        """
        return empty_model(self.make_config()).num_parameters()


def list_models() -> list[str]:
    """List the names of the models.

    Returns:
        Names that `create_model` accepts.
    """
    return list(_ZOO)


def model_entry(name: str) -> ZooEntry:
    """Look up the description of a model.

    Args:
        name: One of `list_models`.

    Returns:
        The entry of the model.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in _ZOO:
        raise UserError(f"unknown model {name!r}; wanted one of {', '.join(_ZOO)}, or a .safetensors file")
    return _ZOO[name]


def model_config(name: str, heads: HeadKind = "linear") -> NetworkConfig:
    """Return the configuration of a model; vary it with `dataclasses.replace`.

    Args:
        name: One of `list_models`.
        heads: Kind of the dense heads. Published models keep their own heads.

    Returns:
        The configuration.

    Raises:
        UserError: If the name is unknown.
    """
    entry = model_entry(name)
    config = entry.make_config()
    if heads == "linear" or entry.published is not None or not isinstance(config, ModelConfig) or config.side:
        return config
    return _with_dpt_heads(config)


def head_kind(config: ModelConfig) -> Literal["linear", "dpt", "shuffle"]:
    """Return the kind of the dense heads of a model.

    Args:
        config: Configuration of any model.

    Returns:
        The kind; "shuffle" are the heads of VGGT-Omega.
    """
    return _HEAD_KINDS[type(config.dense)]


def create_model(
    name: str = DEFAULT_MODEL,
    pretrained: bool = True,
    *,
    checkpoint: str | Path | None = None,
    heads: HeadKind = "linear",
    backbone_weights: str | Path | None = None,
    seed: int = 0,
) -> SceneModel:
    """Create a model of the zoo, in evaluation mode on the CPU.

    Args:
        name: One of `list_models`.
        pretrained: Whether the model has trained weights: those of the package, or for published models those that are
            downloaded once. False gives random weights, whose predictions have no meaning.
        checkpoint: Path of a checkpoint with the same configuration, whose weights are used instead.
        heads: Kind of the dense heads: "linear" (faster) or "dpt" (sharper). Published models keep their own heads.
        backbone_weights: For DINO-backed models with ``pretrained=False``, "pretrained" (downloaded through timm under
            their own license) or the path of a local file. None for random weights.
        seed: Seed of random weights. The caller's random state does not change.

    Returns:
        The model.

    Raises:
        UserError: If the name is unknown, the model has no trained weights, or the weights do not fit or cannot be
            obtained.
    """
    entry = model_entry(name)
    config = model_config(name, heads)
    if checkpoint is not None:
        model = load_model(checkpoint, preset=_mono_preset(name))
        if model.config != config:
            raise UserError(f"{checkpoint} contains a model with another configuration than {name} with {heads} heads")
        model.name = name
        return model
    if pretrained:
        return _trained(entry, config, heads)
    with _seeded(seed):
        model = create_network(config)
    model.name = name
    if backbone_weights is not None:
        _load_backbone(model, backbone_weights)
    return model.eval()


def load_model(path: str | Path, reference_view: str | None = None, preset: str | None = None) -> SceneModel:
    """Load a model from a checkpoint of this package, or from published weights of VGGT, VGGT-Omega or DA3.

    Args:
        path: A .safetensors file written by `save_model`, or a .pt, .pth, .bin or .safetensors file with the parameter
            names of the published checkpoints.
        reference_view: How the reference frame is chosen; None for the choice of the file, which is "saddle_balanced"
            for published weights of Depth Anything 3 and "first" for most others.
        preset: Preset of published weights of Depth Anything 3 (`from_da3`), where neither shapes nor the names of the
            file and its folders tell it.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        UserError: If the file does not exist, is damaged, is no supported checkpoint, has parameters with unexpected
            names or shapes, or cannot choose the reference frame.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    model = load_checkpoint(path) if is_checkpoint(path) else load_published(path, preset)
    if reference_view is not None:
        choose_reference_view(model, reference_view)
    return model


def find_model(name_or_file: str | Path, allow_untrained: bool = False) -> SceneModel:
    """Create a model from its name or load it from a checkpoint.

    Args:
        name_or_file: A name that `list_models` returns, or the path of a checkpoint file.
        allow_untrained: Whether a model without trained weights gets random ones, with an `UntrainedWarning`, instead
            of an error.

    Returns:
        The model on the CPU, with its weights.

    Raises:
        UserError: If there is no such model, it has no trained weights, or the checkpoint cannot be read.
    """
    path = Path(name_or_file)
    if path.suffix in CHECKPOINT_SUFFIXES or path.is_file():
        return load_model(path)
    name = str(name_or_file)
    if not allow_untrained or model_entry(name).has_weights:
        return create_model(name)
    warnings.warn(
        f"{name} has no trained weights yet: its predictions have the right shapes and no meaning",
        UntrainedWarning,
        stacklevel=2,
    )
    return create_model(name, pretrained=False)


def _trained(entry: ZooEntry, config: NetworkConfig, heads: HeadKind) -> SceneModel:
    """Load the weights of the package, or published ones."""
    if entry.published is not None:
        return published_model(entry.name, entry.published)
    if entry.weights_file is None:
        raise UserError(
            f"{entry.name} has no trained weights yet; create_model({entry.name!r}, pretrained=False) creates it with "
            "random ones, whose predictions have no meaning"
        )
    model = load_checkpoint(entry.weights_file)
    if model.config != config:
        raise UserError(f"{entry.name} has no trained weights for {heads} heads; use pretrained=False to train them")
    return model


def _mono_preset(name: str) -> Preset | None:
    """Return the preset of the monocular models, which files do not tell."""
    presets: dict[str, Preset] = {"da3_mono_large": "mono", "da3_metric_large": "metric"}
    return presets.get(name)


def _load_backbone(model: SceneModel, weights: str | Path) -> None:
    if not isinstance(model, Model) or not isinstance(model.backbone, DinoBackbone):
        raise UserError(f"{model.name} has no DINO backbone; backbone_weights are for recon4d_dinov2_* and _dinov3_*")
    model.backbone.load_pretrained(None if weights == "pretrained" else Path(weights))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside the block and restore the caller's random state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_dpt_heads(config: ModelConfig) -> ModelConfig:
    """Replace linear dense heads by DPT heads, which read four layers instead of two."""
    depth, width = config.aggregator.depth, config.aggregator.block.width
    out_indices = sorted({max(0, round(depth * quarter / 4) - 1) for quarter in (1, 2, 3, 4)})
    channels = (width // 4, width // 2, width, width)
    return replace(
        config,
        aggregator=replace(config.aggregator, out_indices=tuple(out_indices)),
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
    """A size between tiny and small that a CPU can train in several hours."""
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
    """A size for training from scratch on a GPU; narrow MLPs keep it below 30 M parameters."""
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


def _dino(timm_name: str, width: int, depth: int, processing_size: int) -> ModelConfig:
    heads = width // 64
    block = BlockConfig(width, heads, 4 * width, layer_scale=0.01, qkv_bias=True)
    head_block = BlockConfig(384, 6, 1024)
    return ModelConfig(
        backbone=DinoBackboneConfig(timm_name),
        aggregator=AggregatorConfig(block, depth, out_indices=(0, depth - 1)),
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
    for family, (pattern, processing_size, license_name) in families.items():
        for size, (width, depth) in sizes.items():
            timm_name = pattern.format(size)
            yield ZooEntry(
                f"recon4d_{family}_{size}",
                timm_name,
                license_name,
                lambda arguments=(timm_name, width, depth, processing_size): _dino(*arguments),
            )


def _published_entries() -> Iterator[ZooEntry]:
    for name, repository, license_text, is_gated in (
        ("vggt_1b", "facebook/VGGT-1B", "CC BY-NC 4.0, by Meta: not for commercial use", False),
        ("vggt_1b_commercial", "facebook/VGGT-1B-Commercial", "VGGT License, by Meta: no military use", True),
    ):
        source = PublishedSource(repository, "model.pt", license_text, from_vggt, is_gated)
        yield ZooEntry(name, "vit_large_patch14_reg4_dinov2", license_text.split(",")[0], vggt_1b_config, source)
    source = PublishedSource("facebook/VGGT-Omega", "vggt_omega_1b_512.pt", OMEGA_LICENSE, from_vggt_omega, True)
    yield ZooEntry(
        "vggt_omega_1b",
        "vit_large_patch16_dinov3, fine-tuned",
        OMEGA_LICENSE.split(",")[0],
        vggt_omega_1b_config,
        source,
    )


def _da3_entries() -> Iterator[ZooEntry]:
    entries: tuple[tuple[str, Preset, str, str, Callable[[], NetworkConfig]], ...] = (
        ("da3_small", "small", "DA3-SMALL", APACHE, partial(any_view_config, "small")),
        ("da3_base", "base", "DA3-BASE", APACHE, partial(any_view_config, "base")),
        ("da3_large", "large", "DA3-LARGE-1.1", NONCOMMERCIAL, partial(any_view_config, "large")),
        ("da3_giant", "giant", "DA3-GIANT-1.1", NONCOMMERCIAL, partial(any_view_config, "giant")),
        ("da3_mono_large", "mono", "DA3MONO-LARGE", APACHE, partial(mono_config, False)),
        ("da3_metric_large", "metric", "DA3METRIC-LARGE", APACHE, partial(mono_config, True)),
        ("da3_nested_giant_large", "nested", "DA3NESTED-GIANT-LARGE-1.1", NONCOMMERCIAL, nested_config),
    )
    for name, preset, repository, license_text, make_config in entries:
        convert = partial(from_da3, preset=preset)
        source = PublishedSource(f"depth-anything/{repository}", "model.safetensors", license_text, convert)
        size = repository.split("-")[1].lower()
        yield ZooEntry(name, f"DINOv2 {size}", license_text.split(",")[0], make_config, source)


def _motion_entries() -> Iterator[ZooEntry]:
    yield ZooEntry("da3_tiny", "shrunk DINOv2 of da3_small (for demonstrations)", "-", tiny_config)
    yield ZooEntry("recon4d_da3_tiny", "da3_tiny, frozen", "-", lambda: with_motion(tiny_config(), TINY_SIDE))
    licenses: dict[Literal["small", "base", "large"], str] = {
        "small": APACHE,
        "base": APACHE,
        "large": NONCOMMERCIAL,
    }
    for size, license_text in licenses.items():
        make_config = partial(_da3_with_motion, size)
        yield ZooEntry(f"recon4d_da3_{size}", f"da3_{size}, frozen", license_text.split(",")[0], make_config)


def _da3_with_motion(size: Literal["small", "base", "large"]) -> ModelConfig:
    return with_motion(any_view_config(size), SIDE)


_ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry("recon4d_tiny", "convolutional stem (for tests)", "-", _tiny),
        ZooEntry("recon4d_mini", "convolutional stem and 3 blocks", "-", _mini),
        ZooEntry("recon4d_small", "convolutional stem and 4 blocks", "-", _small),
        *_dino_entries(),
        *_da3_entries(),
        *_motion_entries(),
        *_published_entries(),
    )
}
"""All models by name. A new model is one function and one line here."""
