"""The networks by their configurations."""

from recon4d.errors import UserError
from recon4d.models.config import ModelConfig
from recon4d.models.mono import MonoModel, MonoModelConfig
from recon4d.models.nested import NestedModel, NestedModelConfig
from recon4d.models.network import Model
from recon4d.models.scene_model import SceneModel

NetworkConfig = ModelConfig | MonoModelConfig | NestedModelConfig
"""Configuration of any network."""

NETWORKS: dict[type, type[Model] | type[MonoModel] | type[NestedModel]] = {
    ModelConfig: Model,
    MonoModelConfig: MonoModel,
    NestedModelConfig: NestedModel,
}
"""Network class of each configuration class."""


def create_network(config: NetworkConfig) -> SceneModel:
    """Create a network with random weights.

    Args:
        config: Configuration, whose class selects the network.

    Returns:
        The network.
    """
    return NETWORKS[type(config)](config)  # pyright: ignore[reportArgumentType]


def require_trainable(model: SceneModel) -> Model:
    """Return a model that can be trained.

    Args:
        model: Any model.

    Returns:
        The same model.

    Raises:
        UserError: If it is a monocular or nested model.
    """
    if not isinstance(model, Model):
        raise UserError(
            f"{model.name} cannot be trained or adapted: monocular and nested models only run; use a model that "
            "predicts cameras, such as da3_small"
        )
    return model


def predicts_dense_tracks(model: SceneModel) -> bool:
    """Check whether a model tracks every pixel of an anchor frame.

    Args:
        model: Any model.

    Returns:
        True for models with a motion head.
    """
    return isinstance(model, Model) and model.motion_head is not None
