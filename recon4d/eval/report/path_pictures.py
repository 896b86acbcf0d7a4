"""Drawing of true and predicted camera paths from above and from the side."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets import Sample
from recon4d.eval.alignment.similarity import align_sim3
from recon4d.eval.pairing import is_registered
from recon4d.geometry import transform_points
from recon4d.records import Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE_COLOR, PREDICTED_COLOR, MISSING_COLOR = "#8a8f98", "#d1601f", "#a33020"
"""Colors of the true path, of the predicted path, and of true positions of frames without a prediction."""


def draw_paths(figure: "Figure", sample: Sample, prediction: Scene | None, height: float) -> None:
    """Draw both views at the bottom of a figure.

    Frames are connected in the order of time, unless they are photos without times. The first frame is marked with a
    ring; unregistered frames are crosses on the true path. Lengths are in meters if the truth has a metric scale.

    Args:
        figure: Figure to draw into.
        sample: Clip with its true scene.
        prediction: Predicted scene; None draws the true path only.
        height: Height of the views as a fraction of the figure's height.
    """
    order, is_ordered = _in_time_order(sample.clip.times)
    true, predicted = aligned_camera_centers(sample.scene, prediction)
    true, predicted = true[order], predicted[order]
    first = int((order == 0).nonzero()[0])
    missing = ~predicted.isfinite().all(dim=-1) if prediction is not None else torch.zeros(len(true), dtype=torch.bool)
    meters = float(sample.scene.metres_per_unit)
    unit, scale = ("m", meters) if np.isfinite(meters) else ("unit of the truth", 1.0)
    all_centers = (scale * torch.cat([true, predicted])).cpu().numpy()
    width = _width(all_centers)
    views = (("from above", 0, 2), ("from the side", 2, 1))
    for place, (title, across, up) in enumerate(views):
        axes = figure.add_axes((0.07 + 0.33 * place, 0.17 * height, 0.25, 0.7 * height))
        _draw_view(
            axes,
            (scale * true[:, (across, up)]).cpu().numpy(),
            (scale * predicted[:, (across, up)]).cpu().numpy(),
            missing.cpu().numpy(),
            first,
            "-" if is_ordered else "none",
        )
        axes.set_title(f"path {title}", fontsize=8.5)
        axes.set_xlabel(f"{'xyz'[across]} ({unit})", fontsize=7.5, labelpad=1)
        axes.set_ylabel(f"{'xyz'[up]} ({unit})", fontsize=7.5, labelpad=1)
        _set_equal_limits(axes, all_centers[:, (across, up)], width)
    figure.axes[-1].invert_yaxis()  # y points down in the world
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(0.71, 0.53 * height), fontsize=8, frameon=False)


def aligned_camera_centers(
    truth: Scene, prediction: Scene | None
) -> tuple[Float[Tensor, "time 3"], Float[Tensor, "time 3"]]:
    """Align the predicted camera centers to the true ones.

    Args:
        truth: True scene.
        prediction: Predicted scene of the same frames; None if there is none.

    Returns:
        True and predicted centers in the world of the truth, each of shape (time, 3) and NaN if unknown. The predicted
        centers are aligned by a Sim(3) that is fitted to the frames registered in both scenes.
    """
    true = torch.where(is_registered(truth)[:, None], truth.cameras.centers.double(), torch.nan)
    if prediction is None:
        return true, torch.full_like(true, torch.nan)
    registered = is_registered(prediction).to(true.device)
    predicted = torch.where(registered[:, None], prediction.cameras.centers.to(true), torch.nan)
    both = registered & is_registered(truth)
    if not both.any():
        return true, torch.full_like(true, torch.nan)
    return true, transform_points(align_sim3(predicted[both], true[both]).truth_from_prediction, predicted)


def _draw_view(
    axes: "Axes",
    true: Float[np.ndarray, "time 2"],
    predicted: Float[np.ndarray, "time 2"],
    missing: Bool[np.ndarray, "time"],
    first: int,
    line: str,
) -> None:
    axes.plot(*true.T, linestyle=line, marker="o", markersize=2.5, linewidth=2.4, color=TRUE_COLOR, label="true")
    if np.isfinite(predicted).any():
        axes.plot(
            *predicted.T,
            linestyle=line,
            marker="o",
            markersize=2,
            linewidth=1.1,
            color=PREDICTED_COLOR,
            label="predicted, aligned",
        )
    if missing.any():
        label = f"not registered ({int(missing.sum())} of {len(missing)})"
        axes.plot(*true[missing].T, "x", markersize=5, color=MISSING_COLOR, label=label)
    for path, color in ((predicted, PREDICTED_COLOR), (true, "black")):
        label = "first frame" if color == "black" else None
        axes.plot(*path[first], "o", markersize=8, markerfacecolor="none", color=color, label=label)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=4)
    for side in axes.spines.values():
        side.set_color("0.8")


def _in_time_order(times: Float[Tensor, " time"]) -> tuple[Tensor, bool]:
    """Return frame numbers in the order of time and True; in the given order and False if times are unknown."""
    if not torch.isfinite(times).all():
        return torch.arange(len(times)), False
    return times.argsort(stable=True).cpu(), True


def _width(points: Float[np.ndarray, "n 3"]) -> float:
    """Return the largest extent with a margin, as the scale of both views; 1 if all cameras are at the same place."""
    finite = points[np.isfinite(points).all(axis=-1)]
    extent = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    return 1.15 * extent if extent > 0 else 1.0


def _set_equal_limits(axes: "Axes", points: Float[np.ndarray, "n 2"], width: float) -> None:
    """Set limits with the same scale along both axes."""
    finite = points[np.isfinite(points).all(axis=-1)]
    middle = (finite.min(axis=0) + finite.max(axis=0)) / 2 if len(finite) else np.zeros(2)
    axes.set_xlim(middle[0] - width / 2, middle[0] + width / 2)
    axes.set_ylim(middle[1] - width / 2, middle[1] + width / 2)
    axes.set_aspect("equal", adjustable="box")
    axes.locator_params(nbins=5)  # more labels of small numbers would overlap
