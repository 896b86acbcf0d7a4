"""Depth Anything 3 (Lin et al. 2025): models from state dicts with published names."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from recon4d.errors import UserError
from recon4d.models import Model, MonoModelConfig, NestedModel, NestedModelConfig, SceneModel
from recon4d.models.reference_view import ReferenceView, check_reference_view
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.da3.any_view import convert_any_view
from recon4d.zoo.da3.mono import convert_mono
from recon4d.zoo.da3.names import VIT
from recon4d.zoo.da3.presets import MONO_PRESETS, Preset, check_preset, size_of
from recon4d.zoo.published import PublishedWeights

WHAT = "Depth Anything 3"
"""Name of the family in error messages."""
PREFIX = "model."
"""Start of all names in published files."""
ANY_VIEW_PREFIX = "da3."
METRIC_PREFIX = "da3_metric."
"""Starts of the names of both models in files of nested models, after `PREFIX`."""
CLASS_TOKEN = f"{VIT}cls_token"
"""A parameter that all models have."""


def is_da3(state_dict: Mapping[str, Tensor]) -> bool:
    """Check whether a state dict has the names of Depth Anything 3.

    Args:
        state_dict: Tensors by name.

    Returns:
        True for all presets, with or without the prefix of published files.
    """
    parts = ("", ANY_VIEW_PREFIX, METRIC_PREFIX)
    return any(f"{prefix}{part}{CLASS_TOKEN}" in state_dict for prefix in (PREFIX, "") for part in parts)


def from_da3(
    state_dict: Mapping[str, Tensor],
    preset: Preset | None = None,
    *,
    reference_view: ReferenceView = "saddle_balanced",
    camera_source: Literal["decoder", "rays"] = "decoder",
) -> SceneModel:
    """Build a model from a state dict with the parameter names of Depth Anything 3.

    Files may contain the six LayerNorm entries that the levels of the ray head share, or only those of level 0.

    Args:
        state_dict: Published tensors by name. The model shares them where no conversion is needed.
        preset: Published model. small, base, large, giant and nested are told by names and shapes; mono and metric,
            whose names and shapes are equal, must be given.
        reference_view: How the frame is chosen whose camera is about the world frame; not for mono and metric. It can
            be changed later (``model.reference_view``).
        camera_source: Whether cameras come from the camera decoder, or from the predicted rays: slower, often better.
            Not for mono and metric.

    Returns:
        The model in evaluation mode: a `Model`, a `MonoModel` for mono and metric, or a `NestedModel`.

    Raises:
        UserError: If the preset is missing or does not fit, or with the first names that are missing, unknown or of
            another shape than expected.
    """
    check_reference_view(reference_view)
    prefix = _prefix(state_dict)
    if any(name.startswith(f"{prefix}{METRIC_PREFIX}") for name in state_dict):
        model = _nested(state_dict, prefix, preset, reference_view)
        any_view = model.any_view
    else:
        published = PublishedWeights(state_dict, WHAT, prefix)
        is_mono = f"{prefix}{VIT}camera_token" not in state_dict and not _has_camera_parts(state_dict, prefix)
        check_preset(preset, False, is_mono, size_of(published))
        if is_mono:
            model, any_view = convert_mono(published, metric=preset == "metric"), None
        else:
            model = any_view = convert_any_view(published, reference_view)
        _check_prefix(state_dict, prefix)
    if any_view is not None:
        any_view.camera_source = camera_source
    elif camera_source != "decoder":
        raise UserError(f"camera_source is {camera_source!r}, but the preset {preset} predicts no cameras")
    model.name = f"da3_{preset}" if preset in MONO_PRESETS else "da3"
    return model


def _nested(
    state_dict: Mapping[str, Tensor], prefix: str, preset: Preset | None, reference_view: ReferenceView
) -> NestedModel:
    any_view = PublishedWeights(state_dict, WHAT, f"{prefix}{ANY_VIEW_PREFIX}")
    check_preset(preset, True, False, size_of(any_view))
    inner = convert_any_view(any_view, reference_view)
    metric = convert_mono(PublishedWeights(state_dict, WHAT, f"{prefix}{METRIC_PREFIX}"), metric=True)
    _check_prefix(state_dict, f"{prefix}{ANY_VIEW_PREFIX}", f"{prefix}{METRIC_PREFIX}")
    return join_nested(inner, metric.config, {f"metric.{name}": value for name, value in metric.state_dict().items()})


def join_nested(any_view: Model, metric: MonoModelConfig, metric_state: Mapping[str, Tensor]) -> NestedModel:
    """Join an any-view model and a metric model.

    Args:
        any_view: The any-view model.
        metric: Configuration of the metric model.
        metric_state: State dict of the metric model as a part of the nested model.

    Returns:
        The nested model, in evaluation mode; it shares all tensors.
    """
    model = empty_model(NestedModelConfig(any_view.config, metric))
    state = {f"any_view.{name}": value for name, value in any_view.state_dict().items()}
    model.load_state_dict({**state, **metric_state}, strict=True, assign=True)
    model.trained = True
    return model.eval()


def _prefix(state_dict: Mapping[str, Tensor]) -> str:
    """Return the prefix of all names: that of published files, or none."""
    return PREFIX if any(name.startswith(PREFIX) for name in state_dict) else ""


def _has_camera_parts(state_dict: Mapping[str, Tensor], prefix: str) -> bool:
    """Check for parts that only any-view models have, so that a truncated state dict is named as what it is."""
    return any(name.startswith((f"{prefix}cam_dec.", f"{prefix}cam_enc.")) for name in state_dict)


def _check_prefix(state_dict: Mapping[str, Tensor], *prefixes: str) -> None:
    """Check that no tensor is outside of the parts that were converted."""
    if others := [name for name in state_dict if not name.startswith(prefixes)]:
        raise UserError(f"this state dict does not fit {WHAT}: it has the unknown {', '.join(others[:3])}")
