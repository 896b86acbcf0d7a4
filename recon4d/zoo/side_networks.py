"""Models with a side network that start from the weights of a model without one."""

from dataclasses import replace

import torch

from recon4d.errors import UserError
from recon4d.models import Model, ModelConfig, SceneModel
from recon4d.zoo.da3.with_motion import SIDE, SideSize, with_motion
from recon4d.zoo.registry import model_config

PREFIX = "recon4d_"
"""Start of the names of models with a side network; the name of the frozen model follows."""


def has_side_network(name: str) -> bool:
    """Check whether a model of the zoo has a side network.

    Args:
        name: One of `list_models`.

    Returns:
        True for models such as recon4d_da3_small.

    Raises:
        UserError: If the name is unknown.
    """
    config = model_config(name)
    return isinstance(config, ModelConfig) and config.side is not None


def add_side_network(frozen: SceneModel, size: SideSize = SIDE, seed: int = 0) -> Model:
    """Add a side network, matching and a motion head with random weights to a model.

    Args:
        frozen: A model that predicts cameras and depth, without matching. The new model shares its tensors, and its
            cameras and depth are the same.
        size: Size of the side network.
        seed: Seed of the random weights. The caller's random state does not change.

    Returns:
        The model, in evaluation mode. It is not trained.

    Raises:
        UserError: If the model predicts no cameras, or has matching already.
    """
    if not isinstance(frozen, Model) or frozen.matching is not None:
        reason = "has matching already" if isinstance(frozen, Model) else "is not an any-view model"
        raise UserError(f"a side network cannot be added to {frozen.name}, which {reason}")
    return _extended(frozen, with_motion(frozen.config, size), seed)


def start_from(name: str, model: SceneModel, seed: int = 0) -> Model:
    """Prepare a model as the start of the training of a model with a side network.

    Args:
        name: Name of the model to train, such as recon4d_da3_small.
        model: A model with the configuration of the frozen part, to which a side network is added; or a model with the
            whole configuration, which is returned as it is. The reference view, the source of cameras and the
            processing size may differ.
        seed: Seed of random weights.

    Returns:
        The model.

    Raises:
        UserError: If `model` has neither configuration.
    """
    wanted = model_config(name)
    assert isinstance(wanted, ModelConfig)
    found = model.config
    if isinstance(model, Model) and _comparable(model.config, wanted) == wanted:
        return model
    frozen = replace(wanted, side=None, matching=None, motion=None)
    if not isinstance(found, ModelConfig) or _comparable(found, frozen) != frozen:
        raise UserError(_describe_difference(name, model, frozen))
    assert isinstance(model, Model)
    return _extended(model, replace(found, side=wanted.side, matching=wanted.matching, motion=wanted.motion), seed)


def _extended(frozen: Model, config: ModelConfig, seed: int) -> Model:
    """Create a model whose parts that are not in `frozen` have random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(config)
    model.load_state_dict(model.state_dict() | frozen.state_dict(), assign=True)
    model.name = f"{PREFIX}{frozen.name}"
    return model.eval()


def _comparable(config: ModelConfig, like: ModelConfig) -> ModelConfig:
    """Copy what a model can choose without other weights."""
    return replace(
        config,
        reference_view=like.reference_view,
        camera_source=like.camera_source,
        processing_size=like.processing_size,
    )


def _describe_difference(name: str, model: SceneModel, wanted: ModelConfig) -> str:
    found, base = model.config, name.removeprefix(PREFIX)
    if not isinstance(found, ModelConfig):
        return f"{name} starts from {base}, but {model.name} is not an any-view model"
    widths = [config.aggregator.block.width for config in (found, wanted)]
    difference = "with another configuration" if widths[0] == widths[1] else f"of width {widths[0]}, not {widths[1]}"
    return f"{name} starts from {base}, but {model.name} is a network {difference}"
