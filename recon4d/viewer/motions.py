"""Displayed trajectories: points that move at times between the frames, and sampled motions as faint alternatives."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices, pixel_indices
from recon4d.records import Scene, Trajectories
from recon4d.viewer.trails import rainbow

GRAY = 160
"""Brightness of curves without a picture."""
FAINTNESS = 0.45
"""Brightness of alternatives relative to tracks. Hand-tuned."""
LINE_POINTS = 24
"""Number of points of the line of an alternative."""
ALTERNATIVE_CURVES = 24
"""Largest number of curves whose alternatives are shown: each sample of each is a line. Hand-tuned."""


@dataclass(frozen=True)
class CurveCloud:
    """Points of curves at one time."""

    seconds: float
    """Time in seconds."""
    frame: float
    """Number of the frame; between two frames, a fraction."""
    positions: Float[Tensor, "n 3"]
    """World positions."""
    colors: UInt8[Tensor, "n 3"]
    """RGB colors."""


@dataclass(frozen=True)
class Alternative:
    """One sample of the motion of some curves."""

    sample: int
    """Index of the sample."""
    lines: Float[Tensor, "curve point 3"]
    """World positions over the whole interval of the samples."""
    colors: UInt8[Tensor, "curve 3"]
    """RGB of each curve, the same in all samples."""


def points_between(
    scene: Scene, images: UInt8[Tensor, "time 3 height width"] | None, interpolated_frames: int, max_points: int
) -> Iterator[CurveCloud]:
    """Evaluate the curves at the times of all frames and at times between them.

    Args:
        scene: A scene with trajectories, its frames in the order of time.
        images: Pictures of the size of its maps; None for gray points.
        interpolated_frames: Number of times between two frames.
        max_points: Largest number of points of one time.

    Yields:
        The curves that are probably visible, in the order of time.
    """
    curves = scene.trajectories
    assert curves is not None
    kept = evenly_spaced_indices(curves.num_curves, max_points)
    kept = kept[curves.anchors[kept] >= 0]
    colors = torch.full((len(kept), 3), GRAY, dtype=torch.uint8)
    if images is not None:
        row, column = pixel_indices(curves.pixels[kept], scene.size)
        colors = images[curves.anchors[kept], :, row, column]
    for number, seconds in enumerate(curves.interpolated_times(interpolated_frames).tolist()):
        is_shown = curves.shown_at(seconds)[kept]
        positions = curves.positions(curves.times.new_tensor([seconds]))[kept[is_shown], 0]
        frame = number / (interpolated_frames + 1)
        yield CurveCloud(seconds, frame, positions.float(), colors[is_shown])


def select_alternatives(curves: Trajectories) -> list[Alternative]:
    """Select the curves whose samples are shown, and evaluate them.

    Args:
        curves: Trajectories of a scene.

    Returns:
        The samples; none if the scene has no samples or nothing moves.
    """
    if curves.samples is None or not curves.num_curves:
        return []
    chosen = evenly_spaced_indices(curves.num_curves, ALTERNATIVE_CURVES)
    start, end = curves.samples.interval.tolist()
    lines = curves.samples.positions(torch.linspace(start, end, LINE_POINTS, dtype=curves.samples.interval.dtype))
    colors = (FAINTNESS * rainbow(len(chosen))).to(torch.uint8)
    return [Alternative(number, sample[chosen].float(), colors) for number, sample in enumerate(lines)]
