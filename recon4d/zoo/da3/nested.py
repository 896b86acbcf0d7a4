"""Nested model of Depth Anything 3: the giant any-view model and the metric model in one file."""

from recon4d.models import Model, MonoModel, NestedModel, NestedModelConfig
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.da3.any_view import any_view_config
from recon4d.zoo.da3.mono import mono_config


def join_nested(any_view: Model, metric: MonoModel) -> NestedModel:
    """Join an any-view model and a metric model.

    Args:
        any_view: The any-view model.
        metric: The metric model.

    Returns:
        The nested model, in evaluation mode; it shares all tensors.
    """
    model = empty_model(NestedModelConfig(any_view.config, metric.config))
    parts = (("any_view", any_view), ("metric", metric))
    state = {f"{part}.{name}": value for part, inner in parts for name, value in inner.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.trained = True
    return model.eval()


def nested_config() -> NestedModelConfig:
    """Return the configuration of the published nested model.

    Returns:
        The configuration.
    """
    return NestedModelConfig(any_view_config("giant"), mono_config(metric=True))
