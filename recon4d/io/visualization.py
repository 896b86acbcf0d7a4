"""Figures of a scene, drawn with matplotlib: its depth beside the frames, and the camera path."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import os_errors_as_user_errors
from recon4d.geometry import (
    evenly_spaced_indices,
    resize_map,
    transform_points,
    unproject,
)
from recon4d.records import Clip, Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWING_HEIGHT = 360
"""Height in pixels of every panel of the depth video, whatever the size of clip and scene, unless it is too wide."""
MAX_PANEL_WIDTH = 1280
"""Largest width in pixels of a panel. Hand-tuned: three panels stay below the 4096 pixels that many players show."""
MIN_PANEL_SIDE = 16
"""Smallest side of a panel in pixels: a macroblock of H.264."""
MAX_ROW_ASPECT = 2.5
"""Panels of a larger ratio of width to height are below each other instead of side by side. Hand-tuned."""

GAP = 4
"""Width in pixels of the white line between two panels."""

_DYNAMIC_COLOR = (255.0, 96.0, 32.0)
"""RGB color of dynamic surfaces."""
_NUM_FRUSTA = 8
"""Maximum number of camera frusta in a figure."""


def depth_video_frames(clip: Clip, scene: Scene) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Draw each frame beside its depth (near is bright, unknown is black) and its dynamic surfaces.

    All frames share one color range: the 2nd to 98th percentile of known inverse depth. The third panel shows the
    frame in gray with dynamic surfaces in orange; it is left out if the dynamic probability is unknown everywhere. All
    panels have the height `VIEWING_HEIGHT`, or less if they would be wider than `MAX_PANEL_WIDTH`, and the aspect ratio
    of the clip. Panels of wide clips are below each other. Height and width are even, as video codecs need.

    Args:
        clip: The clip.
        scene: Its scene, possibly at another size.

    Returns:
        An iterator over RGB pictures of shape (height, width, 3), in the order of time.

    Raises:
        ValueError: If clip and scene are batches or differ in their number of frames.
    """
    check_pair(clip, scene)
    size = _panel_size(clip.size)
    nearness_range = _nearness_range(scene)
    has_dynamic = bool(torch.isfinite(scene.dynamic).any())
    # Not a generator function, whose checks would wait for the first picture.
    return (
        _side_by_side(_panels(clip, scene, frame, size, nearness_range, has_dynamic))
        for frame in _in_time_order(clip.times)
    )


def write_camera_path(path: str | Path, scene: Scene, times: Float[Tensor, " time"]) -> None:
    """Write a PNG of the camera path from above (x, z) and from the side (z, y), with some cameras as frusta.

    Colors show time; photos without an order are colored by their number and not connected. Lengths are in meters if
    the scene is metric.

    Args:
        path: The file to write or replace.
        scene: The scene, without batch axes.
        times: Times of its frames in seconds, of shape (time,); NaN for photos without an order.

    Raises:
        ValueError: If the scene is a batch or the times do not fit it.
        UserError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if scene.batch_shape or times.shape != (scene.num_frames,):
        raise ValueError(
            f"wanted one scene and a time for each of its {scene.num_frames} frames, given a batch of "
            f"{tuple(scene.batch_shape)} and times of shape {tuple(times.shape)}"
        )
    is_ordered = bool(torch.isfinite(times).all())
    scene = scene.frames(_in_time_order(times))
    values = times.sort().values.cpu().numpy() if is_ordered else np.arange(scene.num_frames)
    meters = float(scene.metres_per_unit)
    unit, scale = ("meters", meters) if np.isfinite(meters) else ("unit of the scene", 1.0)
    centers = scene.cameras.centers.detach().double().cpu().numpy() * scale
    frusta = _frusta(scene).detach().double().cpu().numpy() * scale

    figure = Figure(figsize=(11, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, side = figure.subplots(1, 2)
    for axes, title, across, up in ((above, "seen from above", 0, 2), (side, "seen from the side", 2, 1)):
        points = _draw_cameras(axes, centers[:, (across, up)], frusta[..., (across, up)], values, is_ordered)
        axes.set(title=title, xlabel=f"{'xyz'[across]} ({unit})", ylabel=f"{'xyz'[up]} ({unit})")
        _show_square(axes, frusta[..., (across, up)], width=1.1 * float(np.nanmax(np.ptp(frusta, axis=(0, 1)))))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    side.invert_yaxis()  # y points down in the world
    if scene.num_frames > 1:
        figure.colorbar(points, ax=[above, side], label="time (s)" if is_ordered else "photo", pad=0.01, shrink=0.9)
    if scene.num_frames > 1 and is_ordered:
        above.legend(loc="best", framealpha=0.8)
    with os_errors_as_user_errors(f"cannot write {path}"):
        figure.savefig(path, format="png")


def check_pair(clip: Clip, scene: Scene) -> None:
    """Check that a clip and a scene have the same frames.

    Args:
        clip: The clip.
        scene: The scene.

    Raises:
        ValueError: If they are batches or differ in their number of frames.
    """
    if clip.batch_shape or scene.batch_shape or clip.num_frames != scene.num_frames:
        raise ValueError(
            f"wanted one clip and its scene, given a clip of shape {tuple(clip.images.shape)} and a scene with depths "
            f"of shape {tuple(scene.depths.shape)}"
        )


def _panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a panel of the depth video, both even, for frames of a height and width."""
    height, width = size
    scale = min(VIEWING_HEIGHT / height, MAX_PANEL_WIDTH / width)
    to_even = (max(MIN_PANEL_SIDE, 2 * round(scale * length / 2)) for length in (height, width))
    return next(to_even), next(to_even)


def _in_time_order(times: Float[Tensor, " time"]) -> list[int]:
    """Frame indices from the earliest to the latest, or ascending if the frames have no times."""
    if not torch.isfinite(times).all():
        return list(range(len(times)))
    return times.argsort(stable=True).tolist()


def _is_known(scene: Scene) -> Bool[Tensor, "time height width"]:
    return (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)


def _nearness_range(scene: Scene) -> tuple[float, float]:
    """The inverse depths of the first and the last color."""
    inverse = 1 / scene.depths[_is_known(scene)].detach().cpu().numpy()
    if inverse.size == 0:
        return 0.0, 1.0
    # numpy: torch.quantile refuses more than 16 million values.
    low, high = (float(bound) for bound in np.percentile(inverse, (2, 98)))
    # A minimum range, so that rounding errors of a flat wall do not fill the whole range of colors.
    margin = max(0.0, 0.01 * high - (high - low)) / 2
    return low - margin, high + margin


def _panels(
    clip: Clip, scene: Scene, frame: int, size: tuple[int, int], nearness_range: tuple[float, float], has_dynamic: bool
) -> list[UInt8[np.ndarray, "height width 3"]]:
    single = Clip(images=clip.images[frame : frame + 1], times=clip.times[frame : frame + 1])
    picture = single.resized(*size).images[0].movedim(0, -1).cpu().numpy()
    one = scene.frames([frame])
    panels = [picture, _depth_picture(one, size, nearness_range)]
    return [*panels, _dynamic_picture(one, picture)] if has_dynamic else panels


def _depth_picture(
    scene: Scene, size: tuple[int, int], nearness_range: tuple[float, float]
) -> UInt8[np.ndarray, "height width 3"]:
    """The inverse depth of the first frame in colors."""
    from matplotlib import colormaps

    inverse, is_known = resize_map(1 / scene.depths[:1], _is_known(scene)[0], size)
    low, high = nearness_range
    nearness = ((inverse[0].detach().cpu().numpy() - low) / (high - low)).clip(0, 1)
    # The darkest colors are left out, so that distant pixels differ from unknown ones.
    colors = colormaps["magma"](0.15 + 0.85 * nearness, bytes=True)[..., :3]
    return np.where(is_known.cpu().numpy()[..., None], colors, 0).astype(np.uint8)


def _dynamic_picture(scene: Scene, picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """The first frame in dark gray, blended to orange by its dynamic probability; unknown is black."""
    is_known = torch.isfinite(scene.dynamic[0])
    dynamic, is_known = resize_map(scene.dynamic[:1], is_known, picture.shape[:2])
    probability = dynamic[0].detach().cpu().numpy()[..., None].clip(0, 1)
    gray = picture.mean(axis=-1, keepdims=True)
    # The orange keeps the shading, so that dynamic objects stay recognizable.
    orange = np.array(_DYNAMIC_COLOR) * (0.65 + 0.35 * gray / 255)
    mixed = (1 - probability) * 0.6 * gray + probability * orange
    return np.where(is_known.cpu().numpy()[..., None], mixed.round(), 0).astype(np.uint8)


def _side_by_side(panels: list[UInt8[np.ndarray, "height width 3"]]) -> UInt8[np.ndarray, "total_height total_width 3"]:
    """Join panels with white lines between them: in a row, or in a column if they are wide."""
    height, width = panels[0].shape[:2]
    is_row = width <= MAX_ROW_ASPECT * height
    gap = np.full((height, GAP, 3) if is_row else (GAP, width, 3), 255, dtype=np.uint8)
    with_gaps = [piece for panel in panels for piece in (gap, panel)][1:]
    return np.concatenate(with_gaps, axis=1 if is_row else 0)


def _frusta(scene: Scene) -> Float[Tensor, "time 5 3"]:
    """The center of each camera and the corners of its image plane in the world, at a depth that suits a figure."""
    height, width = scene.size
    pixels = scene.depths.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
    centers = scene.cameras.centers
    extent = (centers.amax(dim=0) - centers.amin(dim=0)).max()
    depths = scene.depths[_is_known(scene)]
    # The size of a camera that does not move, or only trembles, follows from the depth of the scene.
    smallest = 0.05 * depths.median() if len(depths) else centers.new_tensor(0.0)
    length = 0.1 * torch.maximum(extent, smallest)
    length = torch.where(length > 0, length, torch.ones_like(length))
    corners = unproject(
        pixels.expand(scene.num_frames, 4, 2), length.expand(scene.num_frames, 4), scene.cameras.intrinsics
    )
    in_camera = torch.cat([torch.zeros_like(corners[:, :1]), corners], dim=1)
    return transform_points(scene.cameras.world_from_cam, in_camera)


def _show_square(axes: "Axes", positions: Float[np.ndarray, "time 5 2"], width: float) -> None:
    """Use the same scale for both axes and both views, so that flat paths look flat."""
    middle = (np.nanmin(positions, axis=(0, 1)) + np.nanmax(positions, axis=(0, 1))) / 2
    axes.set_xlim(middle[0] - width / 2, middle[0] + width / 2)
    axes.set_ylim(middle[1] - width / 2, middle[1] + width / 2)
    axes.set_aspect("equal", adjustable="box")
    axes.locator_params(nbins=5)  # more labels of small numbers would overlap


def _draw_cameras(
    axes: "Axes",
    centers: Float[np.ndarray, "time 2"],
    frusta: Float[np.ndarray, "time 5 2"],
    values: np.ndarray,
    is_ordered: bool,
):
    """Draw one view of the cameras into `axes`, and return the drawn centers for a color bar."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    colors = colormaps["viridis"]
    limits = (values.min(), values.max() if values.max() > values.min() else values.min() + 1)
    count = len(centers)
    if is_ordered:
        segments = np.stack([centers[:-1], centers[1:]], axis=1)
        path = LineCollection(list(segments), cmap=colors, linewidths=2.0)
        path.set_array((values[:-1] + values[1:]) / 2)
        path.set_clim(*limits)
        axes.add_collection(path)
    for frame in evenly_spaced_indices(count, _NUM_FRUSTA).tolist():
        color = colors((values[frame] - limits[0]) / (limits[1] - limits[0]))
        center, *corners = frusta[frame]
        outline = np.stack([*corners, corners[0]])
        axes.plot(outline[:, 0], outline[:, 1], color=color, linewidth=1.0, alpha=0.7)
        for corner in corners:
            axes.plot([center[0], corner[0]], [center[1], corner[1]], color=color, linewidth=1.0, alpha=0.7)
    points = axes.scatter(
        centers[:, 0], centers[:, 1], c=values, cmap=colors, vmin=limits[0], vmax=limits[1], s=9, zorder=3
    )
    if is_ordered and count > 1:
        # The larger marker is below, so that both are visible if the path ends where it started.
        axes.plot(*centers[0], "o", color="black", markerfacecolor="white", markersize=11, zorder=4, label="start")
        axes.plot(*centers[-1], "s", color="black", markerfacecolor="white", markersize=6, zorder=5, label="end")
    return points
