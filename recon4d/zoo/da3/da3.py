"""Depth Anything 3 (Lin et al. 2025): models from state dicts with published names."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from recon4d.errors import UserError
from recon4d.models import Model, MonoModel, NestedModel, SceneModel
from recon4d.models.config import check_camera_source
from recon4d.models.reference_view import ReferenceView, check_reference_view
from recon4d.zoo.da3.any_view import convert_any_view
from recon4d.zoo.da3.mono import convert_mono
from recon4d.zoo.da3.names import VIT
from recon4d.zoo.da3.nested import join_nested
from recon4d.zoo.da3.presets import MONO_PRESETS, Preset, check_preset, size_of
from recon4d.zoo.published import PublishedWeights

WHAT = "Depth Anything 3"
"""Name of the family in error messages."""
PREFIX = "model."
"""Start of all names in published files."""
ANY_VIEW_PREFIX = "da3."
METRIC_PREFIX = "da3_metric."
"""Starts of the names of both models in files of nested models, after `PREFIX`."""
APACHE = "Apache-2.0, by ByteDance"
NONCOMMERCIAL = "CC BY-NC 4.0, by ByteDance: not for commercial use"
LARGEST_APACHE_WIDTH = 768
"""Any-view models of this width (base) or less are Apache-2.0, wider ones are not for commercial use."""


def is_da3(state_dict: Mapping[str, Tensor]) -> bool:
    """Check whether a state dict has the names of Depth Anything 3.

    Args:
        state_dict: Tensors by name.

    Returns:
        True for all presets, with or without the prefix of published files.
    """
    starts = tuple(f"{prefix}{part}{VIT}" for prefix in (PREFIX, "") for part in ("", ANY_VIEW_PREFIX, METRIC_PREFIX))
    return any(name.startswith(starts) for name in state_dict)


def is_monocular(state_dict: Mapping[str, Tensor]) -> bool:
    """Check whether a state dict of Depth Anything 3 is of a monocular model: it has nothing of cameras.

    Args:
        state_dict: Tensors by name.

    Returns:
        True for mono and metric.
    """
    prefix = _prefix(state_dict)
    parts = (f"{VIT}camera_token", "cam_dec.", "cam_enc.", ANY_VIEW_PREFIX, METRIC_PREFIX)
    starts = tuple(f"{prefix}{part}" for part in parts)
    return not any(name.startswith(starts) for name in state_dict)


def license_of(model: SceneModel) -> str:
    """Return the license of the published weights of a model.

    Args:
        model: A model that `from_da3` returned.

    Returns:
        Name of the license, its maker and the main restriction.
    """
    if isinstance(model, MonoModel):
        return APACHE
    is_small = isinstance(model, Model) and model.config.aggregator.block.width <= LARGEST_APACHE_WIDTH
    return APACHE if is_small else NONCOMMERCIAL


def preset_of_place(path: Path) -> Preset | None:
    """Tell mono from metric weights by the configuration beside a file, or by the names of the file and its folders.

    Args:
        path: File of weights, such as DA3METRIC-LARGE/model.safetensors.

    Returns:
        "mono" or "metric"; None if neither is named, or both.
    """
    for text in (_model_name(path.with_name("config.json")), path.stem, *(folder.name for folder in path.parents[:4])):
        is_mono, is_metric = (name in text.lower() for name in MONO_PRESETS)
        if is_mono or is_metric:
            return None if is_mono and is_metric else "mono" if is_mono else "metric"
    return None


def _model_name(config: Path) -> str:
    """Read the name of the model from its published configuration; empty if there is none."""
    try:
        values = json.loads(config.read_text())
    except (OSError, ValueError):
        return ""
    name = values.get("model_name") if isinstance(values, dict) else None
    return name if isinstance(name, str) else ""


def from_da3(
    state_dict: Mapping[str, Tensor],
    preset: str | None = None,
    *,
    reference_view: str = "saddle_balanced",
    camera_source: str = "decoder",
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
    strategy, source = check_reference_view(reference_view), check_camera_source(camera_source)
    prefix = _prefix(state_dict)
    if any(name.startswith(f"{prefix}{METRIC_PREFIX}") for name in state_dict):
        model = _nested(state_dict, prefix, preset, strategy)
        any_view = model.any_view
    else:
        published = PublishedWeights(state_dict, WHAT, prefix)
        is_mono = is_monocular(state_dict)
        check_preset(preset, False, is_mono, size_of(published))
        if is_mono:
            model, any_view = convert_mono(published, metric=preset == "metric"), None
        else:
            model = any_view = convert_any_view(published, strategy)
        _check_prefix(state_dict, prefix)
    if any_view is not None:
        any_view.camera_source = source
    elif camera_source != "decoder":
        raise UserError(f"camera_source is {camera_source!r}, but the preset {preset} predicts no cameras")
    model.name = f"da3_{preset}" if preset in MONO_PRESETS else "da3"
    return model


def _nested(
    state_dict: Mapping[str, Tensor], prefix: str, preset: str | None, reference_view: ReferenceView
) -> NestedModel:
    any_view = PublishedWeights(state_dict, WHAT, f"{prefix}{ANY_VIEW_PREFIX}")
    metric = PublishedWeights(state_dict, WHAT, f"{prefix}{METRIC_PREFIX}")
    check_preset(preset, True, False, size_of(any_view))
    model = join_nested(convert_any_view(any_view, reference_view), convert_mono(metric, metric=True))
    _check_prefix(state_dict, f"{prefix}{ANY_VIEW_PREFIX}", f"{prefix}{METRIC_PREFIX}")
    return model


def _prefix(state_dict: Mapping[str, Tensor]) -> str:
    """Return the prefix of all names: that of published files, or none."""
    return PREFIX if any(name.startswith(PREFIX) for name in state_dict) else ""


def _check_prefix(state_dict: Mapping[str, Tensor], *prefixes: str) -> None:
    """Check that no tensor is outside of the parts that were converted."""
    if others := [name for name in state_dict if not name.startswith(prefixes)]:
        raise UserError(f"this state dict does not fit {WHAT}: it has the unknown {', '.join(others[:3])}")
