"""Windows of a clip whose cameras are given: each stands where its cameras do, and only its scale has to be found.

Two things tell a scale. Frames that two windows share have one depth, which ties the scales of the two together. And a
window's own cameras have to lie as far apart as the given ones, which ties it to the given unit. Errors of both are
taken to be alike when they are counted in depths: then the given distances of a window weigh the square of what they
are of its depth, beside 1 for the shared frames, and a window whose cameras hardly move takes the scale of others.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, similarity, similarity_scale
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.pose_graph import optimize_scales
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.io.long_clips import LongClip
from recon4d.records import Scene

LEAST_MOTION = 1e-3
"""Of the median depth: cameras that move less than this tell no scale."""


def given_cameras(long_clip: LongClip) -> Float[Tensor, "time 4 4"] | None:
    """The cameras that are known of a clip, in the world of the first, in float64; None where none is.

    Raises ``ValueError`` where they are known for some frames only.
    """
    if long_clip.priors is None:
        return None
    world_from_cam = long_clip.priors.world_from_cam.double()
    count = int(world_from_cam.isfinite().all(dim=(1, 2)).sum())
    if count == 0:
        return None
    if count < long_clip.num_frames:
        raise ValueError(
            f"cameras are known for {count} of {long_clip.num_frames} frames; windows can stand where their cameras do "
            "only if all are known: leave the other frames out, or the cameras"
        )
    given = invert(world_from_cam[0]) @ world_from_cam
    given[0] = torch.eye(4)
    return given


def place_by_cameras(
    windows: Sequence[Window],
    joints: Sequence[WindowAlignment],
    load_answer: Callable[[int], Scene],
    given: Float[Tensor, "time 4 4"],
) -> Float[Tensor, "window 4 4"]:
    """Every window in the world of the given cameras and in their unit: its first camera exactly where it is given.

    Warns where no window's cameras move enough to tell the unit, which is then the first window's own.
    """
    told, weights, window_from_cam = [], [], []
    for window in windows:
        scene = load_answer(window.number)
        scale, motion = _told_scale(scene, given[list(window.frames)])
        told.append(math.log(scale) if motion > 0 else 0.0)
        weights.append(min(motion, 1.0) ** 2)
        window_from_cam.append(scene.cameras.world_from_cam[0].double())
    if max(weights) == 0:
        warnings.warn("the cameras hardly move in any window, so the given ones do not fix the scale", stacklevel=2)
        weights[0] = 1.0
    edges = [
        (window.partner, window.number, float(similarity_scale(joint.partner_from_world).log()))
        for window, joint in zip(windows, joints, strict=True)
        if window.partner is not None
    ]
    scales = optimize_scales(edges, torch.tensor(told).double(), torch.tensor(weights).double()).exp()
    identities, zeros = torch.eye(3).double().expand(len(scales), 3, 3), torch.zeros(len(scales), 3).double()
    firsts = given[[window.frames[0] for window in windows]]
    return firsts @ similarity(scales, identities, zeros) @ invert(torch.stack(window_from_cam))


def _told_scale(scene: Scene, given: Float[Tensor, "time 4 4"]) -> tuple[float, float]:
    """The scale from a window's unit to the given one, and the longest given distance as a share of the depth.

    The share is 0 where given or found cameras stand still, and the scale then means nothing.
    """
    scale = scene.cameras.scale_to(given[:, :3, 3])
    known = scene.depths[scene.depth_confidence > 0]
    if not math.isfinite(scale) or not len(known):
        return 1.0, 0.0
    motion = float(torch.pdist(given[:, :3, 3]).max() / (scale * known.median()))
    return scale, motion if motion > LEAST_MOTION else 0.0
