"""Picture of a prediction for a clip: frames, true and predicted depth, depth errors and the camera path."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.datasets import Sample
from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.eval.alignment.depth import DepthAlignment, median_scale
from recon4d.eval.pairing import pair_with_truth
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.path_pictures import draw_paths
from recon4d.geometry import resize_map
from recon4d.io import atomic_file, write_jpeg
from recon4d.records import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 900
"""Width of the picture in pixels."""

MAX_ERROR = 0.3
"""Relative depth error of the last color; larger errors have the same color."""

SPARSE_COVERAGE = 0.2
"""Maps that are known at less than this fraction of their pixels are drawn as dots. Hand-tuned."""

MAX_BYTES = 60_000
"""Target size of the file in bytes: JPEG quality is lowered, down to a limit, until it is reached. Hand-tuned."""

_QUALITIES = (80, 65, 50, 35)
"""JPEG qualities to try in this order."""
_COLUMNS = 4
_GAP, _HEAD, _PATHS = 6, 26, 250
"""Space between panels, height of the titles and height of the camera paths, in pixels."""
_MAX_PANEL_HEIGHT = 230
"""Largest height of a panel in pixels."""
_SCALE_FRAMES = 12
"""Number of frames, besides the drawn ones, that the depth scale is fitted to."""
_UNKNOWN_DEPTH, _UNKNOWN_ERROR = 0, 168
"""Gray values of unknown depths and unknown errors."""
_REASON_LINES = 9
"""Largest number of lines of a failure reason."""
_ERROR_TITLE = "relative depth error"


@dataclass(frozen=True)
class _Column:
    """Title of a column and one panel for each drawn frame."""

    title: str
    panels: list[UInt8[np.ndarray, "height width 3"]]


def write_clip_picture(path: Path, sample: Sample, prediction: Prediction) -> None:
    """Write a JPEG with the first, the middle and the last frame and the camera path.

    Predicted depth is scaled once for the clip, by the median ratio over the pixels that both scenes know in a dozen
    uniformly sampled frames. True and predicted depth share their colors: near is bright, unknown is black. The
    predicted path is aligned by a Sim(3) of the registered camera centers. For a failed or unsuitable prediction, the
    reason is written instead.

    Args:
        path: JPEG file to write atomically, `WIDTH` pixels wide. Its folder is created if it is missing.
        sample: Clip with its true scene.
        prediction: Prediction for this clip.

    Raises:
        UserError: If the file cannot be written.
    """
    scene, reason = _suitable_scene(prediction, sample.scene)
    picture = _compose(sample, _columns(sample, scene), scene, reason)
    with os_errors_as_user_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            for quality in _QUALITIES:
                write_jpeg(partial, torch.from_numpy(picture).movedim(-1, 0), quality)
                if partial.stat().st_size <= MAX_BYTES:
                    break


def _suitable_scene(prediction: Prediction, truth: Scene) -> tuple[Scene | None, str]:
    """Return the predicted scene if it can be compared with the truth, else None and the reason."""
    scene = prediction.scene
    if scene is None:
        return None, f"{prediction.status}: {prediction.reason}"
    try:
        # Pairing a scene with itself checks it without resizing its maps.
        pair_with_truth(scene, scene if scene.num_frames == truth.num_frames else truth)
    except UserError as error:
        return None, f"does not fit its truth: {one_line(error)}"
    return scene.to(truth.depths.device, dtype=torch.float32), ""


def _columns(sample: Sample, scene: Scene | None) -> list[_Column]:
    """Draw the panels of the first, the middle and the last frame."""
    frames, size = _drawn_frames(sample.scene.num_frames), _panel_size(sample.clip.size)
    images = sample.clip.frames(frames).resized(*size).images.movedim(-3, -1).cpu().numpy()
    columns = [_Column("frame", list(images))]
    true, is_known = _depths(sample.scene, frames)
    colors = _nearness_range(true, is_known)
    if is_known.any():
        columns.append(_Column("true depth", _depth_panels(true, is_known, colors, size)))
    if scene is None:
        return columns

    predicted, is_predicted = _depths(scene, frames, sample.scene.size)
    scale = _scale(scene, sample.scene)
    if scale is None:
        colors = _nearness_range(predicted, is_predicted)
    else:
        predicted = scale.apply(predicted)
    columns.append(_Column("predicted depth", _depth_panels(predicted, is_predicted, colors, size)))
    if is_known.any():
        errors = (predicted - true).abs() / true
        columns.append(_Column(_ERROR_TITLE, _error_panels(errors, is_known & is_predicted, size)))
    return columns


def _scale(prediction: Scene, truth: Scene) -> DepthAlignment | None:
    """Fit the median scale over the pixels that both scenes know; None if there are none."""
    uniform = np.linspace(0, truth.num_frames - 1, _SCALE_FRAMES).round().astype(int)
    frames = sorted({*_drawn_frames(truth.num_frames), *uniform.tolist()})
    true, is_known = _depths(truth, frames)
    predicted, is_predicted = _depths(prediction, frames, truth.size)
    both = is_known & is_predicted
    return median_scale(predicted[both], true[both]) if both.any() else None


def _depths(
    scene: Scene, frames: list[int], size: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "frame height width"], Bool[Tensor, "frame height width"]]:
    """Return depths of some frames, resized if a size is given, and the mask of known pixels."""
    depths, confidence = scene.depths[frames], scene.depth_confidence[frames]
    is_known = (confidence > 0) & torch.isfinite(depths) & (depths > 0)
    resized, is_known = resize_map(depths[:, None], is_known, size or scene.size)
    return resized[:, 0], is_known


def _drawn_frames(num_frames: int) -> list[int]:
    return sorted({0, num_frames // 2, num_frames - 1})


def _panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a panel with the clip's aspect ratio."""
    height, width = size
    factor = min((WIDTH - (_COLUMNS + 1) * _GAP) // _COLUMNS / width, _MAX_PANEL_HEIGHT / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _nearness_range(
    depths: Float[Tensor, "frame height width"], is_known: Bool[Tensor, "frame height width"]
) -> tuple[float, float]:
    """Return the inverse depths of the first and the last color."""
    if not is_known.any():
        return 0.0, 1.0
    low, high = np.percentile(1 / depths[is_known].cpu().numpy(), (2, 98))
    margin = max(0.0, 0.01 * high - (high - low)) / 2
    return float(low - margin), float(high + margin)


def _depth_panels(
    depths: Float[Tensor, "frame height width"],
    is_known: Bool[Tensor, "frame height width"],
    nearness_range: tuple[float, float],
    size: tuple[int, int],
) -> list[UInt8[np.ndarray, "panel_height panel_width 3"]]:
    """Color inverse depth: near is bright, unknown is black."""
    low, high = nearness_range
    panels = []
    for depth, is_valid in zip(depths, is_known, strict=True):
        nearness, is_drawn = _shrink(1 / torch.where(is_valid, depth, 1), is_valid, size)
        # Skip the darkest colors of the map, because unknown pixels are black.
        fraction = 0.15 + 0.85 * ((nearness - low) / (high - low)).clamp(0, 1)
        panels.append(_apply_color_map(fraction, is_drawn, "magma", _UNKNOWN_DEPTH))
    return panels


def _error_panels(
    errors: Float[Tensor, "frame height width"], is_known: Bool[Tensor, "frame height width"], size: tuple[int, int]
) -> list[UInt8[np.ndarray, "panel_height panel_width 3"]]:
    """Color relative errors from 0 to `MAX_ERROR`; unknown is gray."""
    panels = []
    for error, is_valid in zip(errors, is_known, strict=True):
        value, is_drawn = _shrink(error.clamp(max=MAX_ERROR), is_valid, size)
        panels.append(_apply_color_map(value / MAX_ERROR, is_drawn, "viridis", _UNKNOWN_ERROR))
    return panels


def _shrink(
    values: Float[Tensor, "height width"], is_known: Bool[Tensor, "height width"], size: tuple[int, int]
) -> tuple[Float[Tensor, "new_height new_width"], Bool[Tensor, "new_height new_width"]]:
    """Resize a map to the size of a panel; each point of a sparse map is a dot of 3 x 3 pixels, the largest on top."""
    if is_known.float().mean() >= SPARSE_COVERAGE:
        resized, is_valid = resize_map(values[None], is_known, size)
        return resized[0], is_valid
    rows, columns = is_known.nonzero().double().add(0.5).T
    new_rows = (rows * size[0] / is_known.shape[0]).long()
    new_columns = (columns * size[1] / is_known.shape[1]).long()
    dots = torch.full(size, -torch.inf, device=values.device).flatten()
    dots.scatter_reduce_(0, new_rows * size[1] + new_columns, values[is_known], "amax")
    dots = F.max_pool2d(dots.reshape(1, 1, *size), 3, stride=1, padding=1)[0, 0]
    return torch.where(dots.isfinite(), dots, 0), dots.isfinite()


def _apply_color_map(
    fraction: Float[Tensor, "height width"], is_known: Bool[Tensor, "height width"], color_map: str, unknown: int
) -> UInt8[np.ndarray, "height width 3"]:
    from matplotlib import colormaps

    colors = colormaps[color_map](fraction.cpu().numpy(), bytes=True)[..., :3]
    return np.where(is_known.cpu().numpy()[..., None], colors, unknown).astype(np.uint8)


def _compose(
    sample: Sample, columns: list[_Column], scene: Scene | None, reason: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw titles, panels, the reason of a failure in place of the prediction, and the camera paths below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames, (height, width) = _drawn_frames(sample.scene.num_frames), _panel_size(sample.clip.size)
    below = _HEAD + len(frames) * (height + _GAP)
    total, pitch = below + _PATHS, (WIDTH - _GAP) // _COLUMNS
    canvas = np.full((total, WIDTH, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(WIDTH / 100, total / 100), dpi=100)
    agg = FigureCanvasAgg(figure)
    for place, column in enumerate(columns):
        left = _GAP + place * pitch + (pitch - _GAP - width) // 2
        for row, panel in enumerate(column.panels):
            top = _HEAD + row * (height + _GAP)
            canvas[top : top + height, left : left + width] = panel
        middle = (_GAP + place * pitch + (pitch - _GAP) / 2) / WIDTH
        figure.text(middle, 1 - 0.55 * _HEAD / total, column.title, ha="center", va="center", fontsize=8.5)
        if column.title == _ERROR_TITLE:
            _draw_error_scale(figure, canvas, below)
    if scene is None:
        lines = textwrap.wrap(" ".join(reason.split()), 62)
        text = "\n".join([*lines[:_REASON_LINES], *(["..."] if len(lines) > _REASON_LINES else [])])
        left = (_GAP + len(columns) * pitch + 20) / WIDTH
        middle = 1 - (_HEAD + below) / 2 / total
        # Without parsing, because a dollar sign in the reason would start a formula.
        figure.text(left, middle, text, va="center", fontsize=8.5, color="#a33020", linespacing=1.5, parse_math=False)
    figure.figimage(canvas, zorder=-1)
    draw_paths(figure, sample, scene, _PATHS / total)
    agg.draw()
    return np.array(agg.buffer_rgba())[..., :3]


def _draw_error_scale(figure: "Figure", canvas: UInt8[np.ndarray, "height width 3"], below: int) -> None:
    """Draw the color scale of errors below the lower right corner of the panels."""
    total, width, top = len(canvas), 60, below + 12
    left = WIDTH - _GAP - width - 150
    fraction = torch.linspace(0, 1, width).expand(9, width)
    canvas[top : top + 9, left : left + width] = _apply_color_map(
        fraction, torch.ones_like(fraction).bool(), "viridis", 0
    )
    height = 1 - (top + 4.5) / total
    figure.text((left - 6) / WIDTH, height, "error 0", ha="right", va="center", fontsize=7.5)
    label = f"{MAX_ERROR:g} and more; gray: unknown"
    figure.text((left + width + 6) / WIDTH, height, label, va="center", fontsize=7.5)
