"""One picture for a clip and a method: frames, true and predicted depth, where they differ, and the camera's path."""

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
from recon4d.eval.alignment.depth import DepthAlignment, median_scale
from recon4d.eval.pairing import paired
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.path_pictures import draw_paths
from recon4d.geometry import resize_map
from recon4d.io import atomic_file, write_jpeg
from recon4d.records import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 900
"""Of the picture, in pixels."""

MAX_ERROR = 0.3
"""Relative depth errors from here on have the last color."""

SPARSE = 0.2
"""Maps known at less than this share of their pixels are drawn as dots that one can see."""

MAX_BYTES = 60_000
"""Pictures are compressed harder, within reason, until they are no larger."""

_QUALITIES = (80, 65, 50, 35)
_COLUMNS, _GAP, _HEAD, _PATHS = 4, 6, 26, 250
_MAX_PANEL_HEIGHT = 230
_SCALE_FRAMES = 12
_UNKNOWN_DEPTH, _UNKNOWN_ERROR = 0, 168
_REASON_LINES = 9
_ERROR_TITLE = "relative depth error"


@dataclass(frozen=True)
class _Column:
    """A title and one panel for each frame drawn."""

    title: str
    panels: list[UInt8[np.ndarray, "height width 3"]]


def write_clip_picture(path: Path, sample: Sample, prediction: Prediction) -> None:
    """A JPEG, `WIDTH` pixels wide, of the first, the middle and the last frame, and of the camera's path.

    Predicted depth has one median scale for the clip, over the pixels known to both in a dozen evenly spread frames;
    true and predicted depth share their colors (near is bright, unknown black). The predicted path is brought to the
    true one by a Sim(3) of centers of placed frames. A prediction that failed or does not fit its truth is told in
    words. Folders are made; the file is whole or not there. Raises ``OSError`` where it cannot be written.
    """
    scene, reason = _fitting(prediction, sample.scene)
    picture = _compose(sample, _columns(sample, scene), scene, reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        for quality in _QUALITIES:
            write_jpeg(partial, torch.from_numpy(picture).movedim(-1, 0), quality)
            if partial.stat().st_size <= MAX_BYTES:
                break


def _fitting(prediction: Prediction, truth: Scene) -> tuple[Scene | None, str]:
    """The predicted scene where it can be drawn beside the truth, else None and the reason in words."""
    scene = prediction.scene
    if scene is None:
        return None, f"{prediction.status}: {prediction.reason}"
    try:
        # Beside itself a scene is checked without resizing every map of it.
        paired(scene, scene if scene.num_frames == truth.num_frames else truth)
    except ValueError as error:
        return None, f"does not fit its truth: {error}"
    return scene.to(truth.depths.device, dtype=torch.float32), ""


def _columns(sample: Sample, scene: Scene | None) -> list[_Column]:
    """What there is to see of the first, the middle and the last frame."""
    frames, size = _frames_drawn(sample.scene.num_frames), _panel_size(sample.clip.size)
    images = sample.clip.frames(frames).resized(*size).images.movedim(-3, -1).cpu().numpy()
    columns = [_Column("frame", list(images))]
    true, is_known = _depths(sample.scene, frames)
    colors = _nearness_range(true, is_known)
    if is_known.any():
        columns.append(_Column("true depth", _depth_panels(true, is_known, colors, size)))
    if scene is None:
        return columns

    predicted, is_believed = _depths(scene, frames, sample.scene.size)
    scale = _scale(scene, sample.scene)
    if scale is None:
        colors = _nearness_range(predicted, is_believed)
    else:
        predicted = scale.apply(predicted)
    columns.append(_Column("predicted depth", _depth_panels(predicted, is_believed, colors, size)))
    if is_known.any():
        errors = (predicted - true).abs() / true
        columns.append(_Column(_ERROR_TITLE, _error_panels(errors, is_known & is_believed, size)))
    return columns


def _scale(prediction: Scene, truth: Scene) -> DepthAlignment | None:
    """The median scale over the pixels known to both; None where there are none."""
    drawn, spread = _frames_drawn(truth.num_frames), np.linspace(0, truth.num_frames - 1, _SCALE_FRAMES)
    frames = sorted({*drawn, *spread.round().astype(int).tolist()})
    true, is_known = _depths(truth, frames)
    predicted, is_believed = _depths(prediction, frames, truth.size)
    both = is_known & is_believed
    return median_scale(predicted[both], true[both]) if both.any() else None


def _depths(
    scene: Scene, frames: list[int], size: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "frame height width"], Bool[Tensor, "frame height width"]]:
    """Depths of some frames, at another size where it is given, and where they are known."""
    depths, confidence = scene.depths[frames], scene.depth_confidence[frames]
    is_known = (confidence > 0) & torch.isfinite(depths) & (depths > 0)
    resized, is_known = resize_map(depths[:, None], is_known, size or scene.size)
    return resized[:, 0], is_known


def _frames_drawn(num_frames: int) -> list[int]:
    return sorted({0, num_frames // 2, num_frames - 1})


def _panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in the proportions of the clip that fit into a column and are not too high."""
    height, width = size
    factor = min((WIDTH - (_COLUMNS + 1) * _GAP) // _COLUMNS / width, _MAX_PANEL_HEIGHT / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _nearness_range(
    depths: Float[Tensor, "frame height width"], is_known: Bool[Tensor, "frame height width"]
) -> tuple[float, float]:
    """The inverse depths that get the first and the last color."""
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
    """Inverse depth in colors, near is bright, unknown is black."""
    low, high = nearness_range
    panels = []
    for depth, known in zip(depths, is_known, strict=True):
        nearness, drawn = _shrunk(1 / torch.where(known, depth, 1), known, size)
        # The map's first colors are left out: far must not look like unknown.
        share = 0.15 + 0.85 * ((nearness - low) / (high - low)).clamp(0, 1)
        panels.append(_colored(share, drawn, "magma", _UNKNOWN_DEPTH))
    return panels


def _error_panels(
    errors: Float[Tensor, "frame height width"], is_known: Bool[Tensor, "frame height width"], size: tuple[int, int]
) -> list[UInt8[np.ndarray, "panel_height panel_width 3"]]:
    """Relative errors in colors, from 0 to `MAX_ERROR`; unknown is gray."""
    panels = []
    for error, known in zip(errors, is_known, strict=True):
        value, drawn = _shrunk(error.clamp(max=MAX_ERROR), known, size)
        panels.append(_colored(value / MAX_ERROR, drawn, "viridis", _UNKNOWN_ERROR))
    return panels


def _shrunk(
    values: Float[Tensor, "height width"], is_known: Bool[Tensor, "height width"], size: tuple[int, int]
) -> tuple[Float[Tensor, "new_height new_width"], Bool[Tensor, "new_height new_width"]]:
    """A map at the size of a panel; of a sparse one every point is a dot of 3 x 3, the largest value in front."""
    if is_known.float().mean() >= SPARSE:
        resized, known = resize_map(values[None], is_known, size)
        return resized[0], known
    rows, columns = is_known.nonzero().double().add(0.5).T
    new_rows = (rows * size[0] / is_known.shape[0]).long()
    new_columns = (columns * size[1] / is_known.shape[1]).long()
    dots = torch.full(size, -torch.inf, device=values.device).flatten()
    dots.scatter_reduce_(0, new_rows * size[1] + new_columns, values[is_known], "amax")
    dots = F.max_pool2d(dots.reshape(1, 1, *size), 3, stride=1, padding=1)[0, 0]
    return torch.where(dots.isfinite(), dots, 0), dots.isfinite()


def _colored(
    share: Float[Tensor, "height width"], is_known: Bool[Tensor, "height width"], color_map: str, unknown: int
) -> UInt8[np.ndarray, "height width 3"]:
    from matplotlib import colormaps

    colors = colormaps[color_map](share.cpu().numpy(), bytes=True)[..., :3]
    return np.where(is_known.cpu().numpy()[..., None], colors, unknown).astype(np.uint8)


def _compose(
    sample: Sample, columns: list[_Column], scene: Scene | None, reason: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Titles, panels in columns, the reason where the prediction's would be, and the paths below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames, (height, width) = _frames_drawn(sample.scene.num_frames), _panel_size(sample.clip.size)
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
        words = textwrap.wrap(" ".join(reason.split()), 62)
        shown = "\n".join([*words[:_REASON_LINES], *(["..."] if len(words) > _REASON_LINES else [])])
        left = (_GAP + len(columns) * pitch + 20) / WIDTH
        middle = 1 - (_HEAD + below) / 2 / total
        # A reason may hold dollar signs, which would begin a formula.
        figure.text(left, middle, shown, va="center", fontsize=8.5, color="#a33020", linespacing=1.5, parse_math=False)
    figure.figimage(canvas, zorder=-1)
    draw_paths(figure, sample, scene, _PATHS / total)
    agg.draw()
    return np.array(agg.buffer_rgba())[..., :3]


def _draw_error_scale(figure: "Figure", canvas: UInt8[np.ndarray, "height width 3"], below: int) -> None:
    """What the colors of errors mean, under the lower right corner of the panels."""
    total, width, top = len(canvas), 60, below + 12
    left = WIDTH - _GAP - width - 150
    share = torch.linspace(0, 1, width).expand(9, width)
    canvas[top : top + 9, left : left + width] = _colored(share, torch.ones_like(share).bool(), "viridis", 0)
    height = 1 - (top + 4.5) / total
    figure.text((left - 6) / WIDTH, height, "error 0", ha="right", va="center", fontsize=7.5)
    words = f"{MAX_ERROR:g} and more; gray: unknown"
    figure.text((left + width + 6) / WIDTH, height, words, va="center", fontsize=7.5)
