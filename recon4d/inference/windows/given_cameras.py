"""Placement of windows by given cameras: poses come from the given cameras, and only the scales are estimated.

Two measurements determine the scales. Frames that two windows share have the same depth, which relates the scales of
the two windows. The distances between a window's cameras must equal the given distances, which relates its scale to the
given unit. Both errors are assumed to be equal when measured in multiples of depth. A window's own cameras therefore
have the weight (longest given distance / median depth)^2, at most 1, relative to weight 1 of the shared frames. A
window whose cameras hardly move takes its scale from its neighbors.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import invert, similarity, similarity_scale
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.pose_graph import optimize_scales
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.io.long_clips import LongClip
from recon4d.records import Scene

MIN_CAMERA_MOTION = 1e-3
"""Smallest distance between cameras that determines a scale, as a fraction of the median depth. Hand-tuned."""


def given_cameras(long_clip: LongClip) -> Float[Tensor, "time 4 4"] | None:
    """Return the given cameras of a clip relative to the first one.

    Args:
        long_clip: The clip, possibly with cameras in its priors.

    Returns:
        Camera-to-world transforms (time, 4, 4) in float64, in the frame of the first camera; None if none is given.

    Raises:
        UserError: If cameras are given for some frames only.
    """
    if long_clip.priors is None:
        return None
    world_from_cam = long_clip.priors.world_from_cam.double()
    count = int(world_from_cam.isfinite().all(dim=(1, 2)).sum())
    if count == 0:
        return None
    if count < long_clip.num_frames:
        raise UserError(
            f"cameras are given for {count} of {long_clip.num_frames} frames; windows need the cameras of all frames "
            "or of none: leave out the other frames, or the cameras"
        )
    given = invert(world_from_cam[0]) @ world_from_cam
    given[0] = torch.eye(4)
    return given


def place_by_cameras(
    windows: Sequence[Window],
    alignments: Sequence[WindowAlignment],
    load_scene: Callable[[int], Scene],
    given: Float[Tensor, "time 4 4"],
) -> Float[Tensor, "window 4 4"]:
    """Place every window by the given cameras, in their unit. Its first camera is exactly the given one.

    Warns if the cameras move too little in every window to determine the unit. The unit is then that of the first
    window.

    Args:
        windows: The windows of the clip.
        alignments: The alignment of each window with its partner.
        load_scene: Returns the reconstruction of the window with the given number.
        given: Camera-to-world transforms of all frames in float64.

    Returns:
        Similarity transforms (window, 4, 4) in float64 from each window's own world to the world of the given cameras.
    """
    log_scales, weights, window_from_cam = [], [], []
    for window in windows:
        scene = load_scene(window.number)
        scale, motion = _scale_from_cameras(scene, given[list(window.frames)])
        log_scales.append(math.log(scale) if motion > 0 else 0.0)
        weights.append(min(motion, 1.0) ** 2)
        window_from_cam.append(scene.cameras.world_from_cam[0].double())
    if max(weights) == 0:
        warnings.warn(
            "the given cameras hardly move in any window and do not determine the scale; the unit is that of the first "
            "window",
            stacklevel=2,
        )
        weights[0] = 1.0
    edges = [
        (window.partner, window.number, float(similarity_scale(alignment.partner_from_world).log()))
        for window, alignment in zip(windows, alignments, strict=True)
        if window.partner is not None
    ]
    scales = optimize_scales(edges, torch.tensor(log_scales).double(), torch.tensor(weights).double()).exp()
    identities, zeros = torch.eye(3).double().expand(len(scales), 3, 3), torch.zeros(len(scales), 3).double()
    first_cameras = given[[window.frames[0] for window in windows]]
    return first_cameras @ similarity(scales, identities, zeros) @ invert(torch.stack(window_from_cam))


def _scale_from_cameras(scene: Scene, given: Float[Tensor, "time 4 4"]) -> tuple[float, float]:
    """Return the scale from a window's unit to the given unit, and the longest given distance divided by depth.

    The second value is 0 if the given or the predicted cameras do not move; the scale is then meaningless.
    """
    scale = scene.cameras.robust_scale_to(given[:, :3, 3])
    depths = scene.depths[scene.depth_confidence > 0]
    if not math.isfinite(scale) or not len(depths):
        return 1.0, 0.0
    motion = float(torch.pdist(given[:, :3, 3]).max() / (scale * depths.median()))
    return scale, motion if motion > MIN_CAMERA_MOTION else 0.0
