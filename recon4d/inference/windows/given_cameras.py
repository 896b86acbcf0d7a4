"""Placement of windows by given cameras: poses come from the given cameras, and only the scales are estimated.

Cameras may be given for some frames only. A window then follows its first given camera, and a window without any
follows its partner by their alignment.

Two measurements determine the scales. Frames that two windows share have the same depth, which relates the scales of
the two windows. The distances between a window's cameras must equal the given distances, which relates its scale to the
given unit. Both errors are assumed to be equal when measured in multiples of depth. A window's own cameras therefore
have the weight (longest given distance / median depth)^2, at most 1, relative to weight 1 of the shared frames. A
window whose cameras hardly move takes its scale from its neighbors. If that is so for all windows, for example because
each has a single given camera, the distances between the given cameras of different windows determine the scale.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, robust_path_scale, similarity, similarity_scale
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.pose_graph import optimize_scales
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.io.long_clips import LongClip
from recon4d.records import Scene

MIN_CAMERA_MOTION = 1e-3
"""Smallest distance between cameras that determines a scale, as a fraction of the median depth. Hand-tuned."""


def given_cameras(long_clip: LongClip) -> Float[Tensor, "time 4 4"] | None:
    """Return the given cameras of a clip relative to the first given one.

    Args:
        long_clip: The clip, possibly with cameras in its priors.

    Returns:
        Camera-to-world transforms (time, 4, 4) in float64, in the frame of the first given camera; NaN for frames
        without one. None if none is given.
    """
    if long_clip.priors is None:
        return None
    world_from_cam = long_clip.priors.world_from_cam.double()
    is_given = world_from_cam.isfinite().all(dim=(1, 2))
    if not is_given.any():
        return None
    first = int(is_given.nonzero()[0, 0])
    given = invert(world_from_cam[first]) @ world_from_cam
    given[first] = torch.eye(4)
    given[~is_given] = torch.nan
    return given


def place_by_cameras(
    windows: Sequence[Window],
    alignments: Sequence[WindowAlignment],
    load_scene: Callable[[int], Scene],
    given: Float[Tensor, "time 4 4"],
) -> Float[Tensor, "window 4 4"]:
    """Place every window by the given cameras, in their unit. Its first given camera is exactly the given one.

    Warns if the cameras move too little in every window to determine the unit. The unit is then that of the first
    window.

    Args:
        windows: The windows of the clip.
        alignments: The alignment of each window with its partner.
        load_scene: Returns the reconstruction of the window with the given number.
        given: Camera-to-world transforms of all frames in float64; NaN for frames without, but not for all.

    Returns:
        Similarity transforms (window, 4, 4) in float64 from each window's own world to the world of the given cameras.
    """
    log_scales, weights, anchors = [], [], []
    for window in windows:
        scene, own = load_scene(window.number), given[list(window.frames)]
        is_given = own.isfinite().all(dim=(1, 2))
        scale, motion = _scale_from_cameras(scene, own, is_given)
        log_scales.append(math.log(scale) if motion > 0 else 0.0)
        weights.append(min(motion, 1.0) ** 2)
        anchors.append(_first_given(scene, own, is_given))
    if max(weights) == 0 and (scale := _scale_from_chain(windows, alignments, anchors)) is not None:
        log_scales[0], weights[0] = math.log(scale), 1.0
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
    scaling = similarity(scales, identities, zeros)
    placed = [
        None if anchor is None else anchor[0] @ scaling[number] @ invert(anchor[1])
        for number, anchor in enumerate(anchors)
    ]
    return torch.stack(_place_others(windows, alignments, placed))


def _first_given(scene: Scene, given: Tensor, is_given: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the first given camera of a window, and the same camera in the window's own world; None without any."""
    if not is_given.any():
        return None
    position = int(is_given.nonzero()[0, 0])
    return given[position], scene.cameras.world_from_cam[position].double()


def _scale_from_chain(
    windows: Sequence[Window],
    alignments: Sequence[WindowAlignment],
    anchors: Sequence[tuple[Tensor, Tensor] | None],
) -> float | None:
    """Return the scale of the first window by the given cameras of different windows; None if they do not move."""
    placed: list[Tensor | None] = [None] * len(windows)
    placed[0] = torch.eye(4).double()
    chain = _place_others(windows, alignments, placed)
    pairs = [(start @ anchor[1], anchor[0]) for start, anchor in zip(chain, anchors, strict=True) if anchor is not None]
    predicted, given = (torch.stack(poses)[:, :3, 3] for poses in zip(*pairs, strict=True))
    scale = robust_path_scale(predicted, given)
    return scale if math.isfinite(scale) and scale > 0 else None


def _place_others(
    windows: Sequence[Window], alignments: Sequence[WindowAlignment], placed: list[Tensor | None]
) -> list[Tensor]:
    """Place windows without a given camera by their alignments with their neighbors, forward and then backward."""
    links = [
        (window.partner, window.number, alignment.partner_from_world)
        for window, alignment in zip(windows, alignments, strict=True)
        if window.partner is not None
    ]
    for partner, number, partner_from_world in links:
        start = placed[partner]
        if placed[number] is None and start is not None:
            placed[number] = start @ partner_from_world
    for partner, number, partner_from_world in reversed(links):
        start = placed[number]
        if placed[partner] is None and start is not None:
            placed[partner] = start @ invert(partner_from_world)
    for partner, number, partner_from_world in links:  # those whose partner was placed backward
        start = placed[partner]
        if placed[number] is None and start is not None:
            placed[number] = start @ partner_from_world
    assert all(pose is not None for pose in placed)  # all windows are linked
    return [pose for pose in placed if pose is not None]


def _scale_from_cameras(
    scene: Scene, given: Float[Tensor, "time 4 4"], is_given: Bool[Tensor, " time"]
) -> tuple[float, float]:
    """Return the scale from a window's unit to the given unit, and the longest given distance divided by depth.

    The second value is 0 if the given or the predicted cameras do not move, or if fewer than two are given; the scale
    is then meaningless.
    """
    if int(is_given.sum()) < 2:
        return 1.0, 0.0
    positions = is_given.nonzero()[:, 0].tolist()
    given = given[positions]
    scale = scene.cameras.frames(positions).robust_scale_to(given[:, :3, 3])
    depths = scene.depths[scene.depth_confidence > 0]
    if not math.isfinite(scale) or not len(depths):
        return 1.0, 0.0
    motion = float(torch.pdist(given[:, :3, 3]).max() / (scale * depths.median()))
    return scale, motion if motion > MIN_CAMERA_MOTION else 0.0
