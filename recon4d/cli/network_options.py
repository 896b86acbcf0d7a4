"""Options of `recon4d reconstruct` for some networks: reference frame, source of cameras, metric scale."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from recon4d.cli.arguments import find_device, find_model
from recon4d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from recon4d.cli.reconstruct_options import ReconstructOptions
    from recon4d.inference import MetricFit
    from recon4d.models import SceneModel


def choose_camera_source(model: "SceneModel", options: "ReconstructOptions") -> None:
    """Set where a model takes cameras from, as the options say.

    Args:
        model: The model, changed in place.
        options: The options of the command.

    Raises:
        UserError: If the model cannot take cameras from there.
    """
    from recon4d.models import Model, NestedModel

    if options.camera_source is None:
        return
    if not isinstance(model, Model | NestedModel):
        raise UserError(f"{model.name} predicts no cameras; remove --camera-source")
    model.camera_source = options.camera_source


@contextmanager
def chosen_reference_view(model: "SceneModel", options: "ReconstructOptions", times: "Tensor") -> Iterator[None]:
    """Choose the reference frame as the options say, for one clip.

    Args:
        model: The model.
        options: The options of the command.
        times: Times of the frames; NaN for pictures without an order.

    Yields:
        Nothing; afterwards the model chooses as before.

    Raises:
        UserError: If the model cannot choose as requested.
    """
    from recon4d.models import Model, NestedModel
    from recon4d.zoo import choose_reference_view

    if not isinstance(model, Model | NestedModel):
        if options.reference_view != "auto":
            choose_reference_view(model, options.reference_view)  # raises
        yield
        return
    before = model.reference_view
    if options.reference_view != "auto":
        choose_reference_view(model, options.reference_view)
    elif before != "first" and bool(times.isfinite().all()):
        model.reference_view = "middle"
    try:
        yield
    finally:
        model.reference_view = before


@cache
def metric_model(name_or_file: str, device_name: str) -> "SceneModel":
    """Load the metric model, once for all clips.

    Args:
        name_or_file: Name of a model, or a file of its weights.
        device_name: Device as `find_device` takes it.

    Returns:
        The model on the device.

    Raises:
        UserError: If the model cannot be loaded, or is not metric.
    """
    from recon4d.models import MonoModel

    device = find_device(device_name)
    model = find_model(name_or_file)
    if not isinstance(model, MonoModel) or not model.config.metric:
        raise UserError(f"--metric is {name_or_file}, which is no metric model; give da3_metric_large, or its file")
    return model.to(device)


def describe_metric_fit(model: "SceneModel", fit: "MetricFit") -> str:
    """Describe a metric scale in one line.

    Args:
        model: The metric model.
        fit: The scale that was fitted.

    Returns:
        The line.
    """
    sky = f", {100 * fit.sky_share:.0f} % of the pixels are sky" if fit.sky_share > 0 else ""
    error = f"{100 * fit.relative_error:.1f} %"
    return f"{model.name}: the unit is {fit.metres_per_unit:.3g} m long, depths differ by {error} (median){sky}"
