"""Pictures beside the world: frame, depth, confidence, and the dynamic mask with its outline."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from recon4d.geometry import stratified_indices
from recon4d.records import Scene
from recon4d.viewer.layout import CONFIDENCE, DEPTH, DYNAMIC, FRAME, OUTLINE, UNKNOWN
from recon4d.viewer.rerun_loader import load_rerun
from recon4d.viewer.selection import known_depth

DYNAMIC_COLOR, UNKNOWN_COLOR, OUTLINE_COLOR = (255, 96, 32, 130), (50, 50, 55), (255, 230, 0)
"""RGB or RGBA of the dynamic mask, of unknown depth, and of the outline of the mask. Hand-tuned."""

OUTLINE_SIZE = 1.2
"""Radius of the outline on the screen in points. Hand-tuned."""

MIN_OUTLINE = 8
"""Smallest number of pixels along an outline; shorter ones are specks. Hand-tuned."""

JPEG_QUALITY, CONFIDENCE_QUALITY = 88, 80
"""JPEG quality of frames and of confidence pictures. Hand-tuned."""

MAX_SAMPLES = 1_000_000
"""Largest number of pixels from which a color range is computed; torch.quantile accepts at most 16 million."""

LARGEST_HALF = 65504.0
"""Largest finite float16 number."""


def log_classes(recording: Any) -> None:
    """Log labels and colors of the masks.

    Args:
        recording: The `rerun.RecordingStream`.
    """
    for name, label, color in ((DYNAMIC, "moving", DYNAMIC_COLOR), (UNKNOWN, "unknown", UNKNOWN_COLOR)):
        # The value 0 is transparent.
        classes = [(0, f"not {label}", (0, 0, 0, 0)), (1, label, color)]
        recording.log(name, load_rerun().AnnotationContext(classes), static=True)


def log_frame(recording: Any, image: UInt8[Tensor, "3 height width"]) -> None:
    """Log the frame of the current time.

    Args:
        recording: The `rerun.RecordingStream`.
        image: RGB image.
    """
    picture = load_rerun().Image(image.movedim(0, -1).contiguous().cpu().numpy())
    recording.log(FRAME, picture.compress(jpeg_quality=JPEG_QUALITY))


def log_depth(recording: Any, current: Scene, depth_range: tuple[float, float]) -> None:
    """Log the depth map of the current time; unknown pixels are NaN and covered by a mask.

    Depths are stored as float16, multiplied by a power of two so that they are around 1.

    Args:
        recording: The `rerun.RecordingStream`.
        current: Scene of one frame.
        depth_range: Depths of the first and last color, in scene units.
    """
    rerun = load_rerun()
    known = known_depth(current)[0]
    scale = 2.0 ** -round(math.log2(max(depth_range[1], 1e-30)))
    depths = (current.depths[0].double() * scale).clamp(max=LARGEST_HALF)
    depths = torch.where(known, depths, torch.nan).half()
    meters = float(current.metres_per_unit)
    # Stored values per meter; if the length of the unit is unknown, a unit is shown as a meter.
    meter = scale / meters if meters > 0 else scale
    scaled_range = (depth_range[0] * scale, depth_range[1] * scale)
    recording.log(DEPTH, rerun.DepthImage(depths.numpy(), meter=meter, depth_range=scaled_range))
    # rerun draws NaN in the color of the largest depth.
    recording.log(UNKNOWN, rerun.SegmentationImage((~known).to(torch.uint8).numpy(), opacity=1.0))


def log_confidence(recording: Any, current: Scene, confidence_range: tuple[float, float]) -> None:
    """Log the depth confidence of the current time in gray levels: white is most confident, black unknown.

    Args:
        recording: The `rerun.RecordingStream`.
        current: Scene of one frame.
        confidence_range: Confidences of the darkest gray and of white.
    """
    low, high = (math.log(bound) for bound in confidence_range)
    logs = current.depth_confidence[0].clamp(min=1e-30).log()
    share = (logs - low) / (high - low) if high > low else torch.ones_like(logs)
    levels = torch.where(known_depth(current)[0], 40 + 215 * share.clamp(0, 1), 0.0)
    picture = load_rerun().Image(levels.to(torch.uint8).numpy(), "L")
    recording.log(CONFIDENCE, picture.compress(jpeg_quality=CONFIDENCE_QUALITY))


def log_dynamic_mask(recording: Any, current: Scene) -> None:
    """Log the dynamic mask of the current time and its outline.

    Args:
        recording: The `rerun.RecordingStream`.
        current: Scene of one frame.
    """
    rerun = load_rerun()
    mask = current.is_dynamic[0]
    recording.log(DYNAMIC, rerun.SegmentationImage(mask.to(torch.uint8).numpy(), opacity=1.0))
    radius = rerun.Radius.ui_points(OUTLINE_SIZE)
    recording.log(OUTLINE, rerun.LineStrips2D(outlines(mask), colors=[OUTLINE_COLOR], radii=radius))


def outlines(mask: Bool[Tensor, "height width"]) -> list[Float32[np.ndarray, "n 2"]]:
    """Trace the edges of a mask.

    Args:
        mask: Any mask.

    Returns:
        Closed lines (x, y) through the centers of the outermost pixels of each region and around each hole.
    """
    import cv2

    contours, _ = cv2.findContours(mask.to(torch.uint8).numpy(), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # OpenCV counts from the center of the first pixel.
    lines = [
        contour[:, 0].astype(np.float32) + 0.5 for contour in contours if cv2.arcLength(contour, True) >= MIN_OUTLINE
    ]
    return [np.concatenate([line, line[:1]]) for line in lines]


def depth_colors(scene: Scene) -> tuple[float, float] | None:
    """Choose the color range of depth, the same for the whole clip.

    Args:
        scene: The scene.

    Returns:
        Depths of the first and last color; None if no depth is known.
    """
    depths = scene.depths[known_depth(scene)]
    if not len(depths):
        return None
    # The upper quantile excludes distant ground, which would take most of the color range.
    low, high = _quantiles(depths, (0.02, 0.9))
    # The margin keeps rounding errors of a fronto-parallel wall from filling the color range.
    margin = max(0.0, 0.01 * high - (high - low)) / 2
    return low - margin, high + margin


def confidence_colors(scene: Scene) -> tuple[float, float]:
    """Choose the range of gray levels of confidence, the same for the whole clip.

    Args:
        scene: The scene, with known depth somewhere.

    Returns:
        The 2nd and the 98th percentile of confidence.
    """
    low, high = _quantiles(scene.depth_confidence[known_depth(scene)], (0.02, 0.98))
    return low, high


def _quantiles(values: Float[Tensor, " n"], shares: tuple[float, ...]) -> list[float]:
    sample = values[stratified_indices(len(values), MAX_SAMPLES)].float()
    return torch.quantile(sample, torch.tensor(shares)).tolist()
