"""The depth steps of the pipeline; each change of depth is kept only if it agrees with held-out points."""

from dataclasses import replace

import torch

from recon4d.geometry import pixel_indices
from recon4d.refine.depth.alignment import (
    PointDepths,
    depth_errors,
    fit_depth_alignment,
    median_ratio,
    scale_depth,
)
from recon4d.refine.depth.multiview_consistency import VerifiedDepth
from recon4d.refine.depth.plane_sweep import StereoConfig
from recon4d.refine.depth.triangulation import SparseDepths
from recon4d.refine.refinement import Refinement

MAX_DEPTH_ERROR = 0.5
"""Largest mean difference of log depth between maps and held-out points; if it is larger, something else is wrong and
depth stays unchanged. Hand-tuned."""
STEREO_ALLOWANCE = 0.02
"""Largest increase of the difference of log depth to held-out points by stereo. Aligned depth passes through
neighboring points; corners often lie at the border of a surface, where a pixel may show either side. Hand-tuned."""
MIN_ERROR = 1e-3
"""Lower bound of the reported error of verified depth, in log depth: the accuracy of the points themselves."""


def align_depth(refinement: Refinement, points: SparseDepths | None) -> Refinement:
    """Align depth to the fitted points, if it then agrees better with the held-out points.

    Args:
        refinement: An accepted refinement.
        points: Points triangulated with its cameras; None if nothing determines depth.

    Returns:
        The refinement with aligned or unchanged depth, and with both depth errors if there are points.
    """
    if points is None:
        return refinement
    scene = refinement.scene
    before = float(depth_errors(scene.depths, points.held_out).mean())
    unchanged = replace(refinement, depth_error_before=before, depth_error_after=before)
    if before > MAX_DEPTH_ERROR:
        return unchanged
    aligned = scale_depth(scene, fit_depth_alignment(scene.depths, points.fitted))
    after = float(depth_errors(aligned.depths, points.held_out).mean())
    return replace(unchanged, scene=aligned, depth_error_after=after) if after < before else unchanged


def align_scale_and_depth(refinement: Refinement, points: SparseDepths) -> Refinement:
    """Bring depth to the scale of given cameras by one factor, then align it as `align_depth` does.

    Args:
        refinement: A refinement whose cameras have a scale of their own.
        points: Points triangulated with these cameras.

    Returns:
        The accepted refinement; its `depth_error_before` is the error before scaling.
    """
    scene = refinement.scene
    before = float(depth_errors(scene.depths, points.held_out).mean())
    ratio = torch.full_like(scene.depths, median_ratio(scene.depths, points.fitted))
    aligned = align_depth(replace(refinement, scene=scale_depth(scene, ratio), is_accepted=True, reason=""), points)
    return replace(aligned, depth_error_before=before)


def is_depth_plausible(refinement: Refinement) -> bool:
    """Check whether the depth of a scene agrees with the held-out points well enough to start stereo from.

    Args:
        refinement: The refinement after `align_depth`.

    Returns:
        Whether the depth error was measured and is at most `MAX_DEPTH_ERROR`.
    """
    return refinement.depth_error_after <= MAX_DEPTH_ERROR


def verify_depth(refinement: Refinement, dense: VerifiedDepth, held_out: PointDepths) -> Refinement:
    """Accept depth from stereo unless it contradicts the held-out points.

    Args:
        refinement: The refinement before stereo.
        dense: Its scene with depth from stereo.
        held_out: Held-out points.

    Returns:
        The refinement with depth from stereo and the errors measured, or unchanged.
    """
    after = float(depth_errors(dense.scene.depths, held_out).mean())
    if after > refinement.depth_error_after + STEREO_ALLOWANCE:
        return refinement
    return replace(
        refinement,
        scene=dense.scene,
        depth_error_after=after,
        verified_share=float(dense.verified.float().mean()),
        verified_error=_verified_error(dense, held_out),
    )


def _verified_error(dense: VerifiedDepth, points: PointDepths) -> float:
    """Compute the median error at verified pixels; the tolerance of stereo if there are no points on them."""
    row, column = pixel_indices(points.pixels, dense.scene.size)
    is_verified = points.is_valid & dense.verified[torch.arange(len(row))[:, None], row, column]
    if not is_verified.any():
        return StereoConfig.max_relative_difference
    errors = depth_errors(dense.scene.depths, replace(points, is_valid=is_verified))
    return float(errors.median().clamp(min=MIN_ERROR))
