"""Alignment of two refined windows, whose cameras are exact: by the cameras and the depth of the shared frames.

The rotation is that between the shared cameras. Two measurements determine the scale: the ratio of the two depths of
each pixel, which does not depend on cameras, and the ratio of the distances between the shared cameras. Each is
weighted by its accuracy, so that frames close to each other take the scale from depth, and frames far apart from both.
The translation then maps the centers of the shared cameras to each other. In contrast to a fit to points, errors of
depth cannot rotate a window.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import nearest_rotation, similarity, transform_points
from recon4d.inference.windows.robust_similarity import robust_mean
from recon4d.inference.windows.window_alignment import (
    MIN_PIXELS,
    AlignmentMethod,
    Pixels,
    TooFewPixelsError,
    WindowAlignment,
    confident_half,
    is_static,
)
from recon4d.records import Scene

CENTER_ERROR = 0.002
"""Smallest assumed error of a refined camera center, as a fraction of depth. Hand-tuned."""
INDEPENDENT_PIXELS = 10
"""Number of pixels of a frame whose errors of depth are independent of each other. Hand-tuned."""
MIN_DEPTH_ERROR = 1e-4
"""Smallest assumed error of the scale from depth, in log scale. Hand-tuned."""


def refined_pixels(scene: Scene, partner: Scene, static_below: float) -> Pixels:
    """Select the more confident half of the pixels that are valid and static in both scenes, or of all if few are.

    Args:
        scene: Scene of the shared frames from one window.
        partner: Scene of the same frames from the partner.
        static_below: Pixels with a dynamic probability of this or more in either scene are excluded if others suffice.

    Returns:
        A mask (time, height, width).

    Raises:
        TooFewPixelsError: If fewer than `MIN_PIXELS` pixels have depth in both scenes.
    """
    static = is_static(scene, static_below) & is_static(partner, static_below)
    for mask in (static, torch.ones_like(static)):
        selected = confident_half(scene, partner, mask)
        if selected.sum() >= MIN_PIXELS:
            return selected
    raise TooFewPixelsError(f"{int(selected.sum())} pixels with depth in both, at least {MIN_PIXELS} are needed")


def fit_cameras(scene: Scene, partner: Scene, selected: Pixels) -> WindowAlignment:
    """Fit the similarity that maps the cameras and the depth of the shared frames to those of the partner.

    Args:
        scene: Scene of the shared frames from one window, with exact cameras.
        partner: Scene of the same frames from the partner.
        selected: Mask (time, height, width) of the pixels to use. Frames without such pixels are ignored.

    Returns:
        The alignment. Its error is that of the points at the selected pixels, as for `fit_points`.
    """
    is_used = selected.any(dim=2).any(dim=1)
    own, target = (one.cameras.world_from_cam[is_used].double() for one in (scene, partner))
    rotation = nearest_rotation((target[:, :3, :3] @ own[:, :3, :3].mT).sum(dim=0))
    centers, target_centers = own[:, :3, 3] @ rotation.T, target[:, :3, 3]
    depth = float(partner.depths[selected].double().median())

    log_scale, precision = _scale_from_depth(scene, partner, selected)
    from_cameras = _scale_from_centers(centers, target_centers, CENTER_ERROR * depth)
    if from_cameras is not None:
        total = precision + from_cameras[1]
        log_scale, precision = (precision * log_scale + from_cameras[1] * from_cameras[0]) / total, total
    scale = torch.tensor(math.exp(log_scale), dtype=torch.double)
    translation = (target_centers - scale * centers).mean(dim=0)
    partner_from_world = similarity(scale, rotation, translation)

    moved = transform_points(partner_from_world, scene.points_from_depth[selected].double())
    distances = (moved - partner.points_from_depth[selected].double()).norm(dim=-1)
    error = float((distances / partner.depths[selected].double()).median())
    return WindowAlignment(partner_from_world, error, float(scene.metres_per_unit))


ALIGN_BY_CAMERAS = AlignmentMethod(refined_pixels, fit_cameras)
"""Similarity from the cameras and the depth of the shared frames: for two refined windows."""


def _scale_from_depth(scene: Scene, partner: Scene, selected: Pixels) -> tuple[float, float]:
    """Return the logarithm of the scale from the ratios of depths, and its precision (inverse variance)."""
    ratios = (partner.depths[selected].double() / scene.depths[selected].double()).log()
    log_scale = robust_mean(ratios)
    num_frames = int(selected.any(dim=2).any(dim=1).sum())
    deviation = float((ratios - log_scale).abs().median())
    return log_scale, 1 / max(deviation / math.sqrt(INDEPENDENT_PIXELS * num_frames), MIN_DEPTH_ERROR) ** 2


def _scale_from_centers(
    centers: Float[Tensor, "time 3"], target: Float[Tensor, "time 3"], min_error: float
) -> tuple[float, float] | None:
    """Return the logarithm of the scale from camera centers, and its precision; None if they do not determine it."""
    centers, target = (values - values.mean(dim=0) for values in (centers, target))
    square, product = float(centers.square().sum()), float((centers * target).sum())
    if not (product > 0 and float(target.norm()) > min_error):
        return None
    scale = product / square
    degrees_of_freedom = max(1, 3 * len(centers) - 4)
    residual = float((target - scale * centers).square().sum() / degrees_of_freedom) ** 0.5
    return math.log(scale), scale**2 * square / max(residual, min_error) ** 2
