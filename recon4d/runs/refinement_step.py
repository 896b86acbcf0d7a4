"""Refinement of one reconstruction: whether it is possible, the step itself, and the line that tells the result."""

import math
import time
from typing import TYPE_CHECKING, Literal

from recon4d.errors import UserError, one_line
from recon4d.runs.stages import Stages

if TYPE_CHECKING:
    from recon4d.records import Clip, FeatureTracks, Scene
    from recon4d.refine import Refinement

RefineMode = Literal["auto", "on", "off"]
"""Whether to refine: whenever it is possible, in any case, or not at all."""
MAX_STEREO_SIDE = 1024
"""Largest longer side in pixels at which depth is computed; larger maps are enlarged from it. Hand-tuned."""
ANCHORED_REASON = "refinement needs more frames than the pairs of --anchored"
"""Why clips that are reconstructed in pairs are not refined."""


def check_refinement(clip: "Clip", mode: RefineMode) -> str | None:
    """Check before the pass whether a clip can be refined.

    Args:
        clip: The clip with its priors.
        mode: Whether to refine.

    Returns:
        The reason why it is not refined; None if it is, or if no refinement is requested.

    Raises:
        UserError: If it cannot be refined and `mode` is "on".
    """
    if mode == "off":
        return None
    from recon4d.refine import has_camera_priors, load_pycolmap

    try:
        load_pycolmap()
        has_camera_priors(clip)
    except UserError as error:
        if mode == "on":
            raise
        return one_line(error)
    return "refinement needs at least 2 frames" if clip.num_frames < 2 else None


def refine(
    clip: "Clip",
    scene: "Scene",
    matches: "FeatureTracks",
    mode: RefineMode,
    progress: Stages,
    map_side: int | None = None,
) -> "Refinement":
    """Refine cameras and depth, and print the result in one line.

    Args:
        clip: The clip.
        scene: The prediction.
        matches: Matches in pixels of its maps.
        mode: Whether to refine; "auto" keeps the prediction if it cannot be refined.
        progress: Receives the stages.
        map_side: Longer side of the refined maps in pixels; None for the size of the prediction.

    Returns:
        The refinement.

    Raises:
        UserError: If the scene cannot be refined and `mode` is "on".
    """
    from recon4d.refine import RefineConfig, refine_clip

    config = RefineConfig(map_side=None if map_side is None else min(map_side, MAX_STEREO_SIDE))
    started = time.perf_counter()
    try:
        refinement = refine_clip(clip, scene, matches, config, on_stage=progress.start)
    except UserError as error:
        if mode == "on":
            raise
        return keep_prediction(clip, scene, one_line(error), progress)
    progress.print(f"{refinement} ({time.perf_counter() - started:.1f} s)")
    if refinement.rig_report:
        progress.print(refinement.rig_report)
    return refinement


def keep_prediction(clip: "Clip", scene: "Scene", reason: str, progress: Stages) -> "Refinement":
    """Keep a prediction that cannot be refined, and print the reason in one line.

    Args:
        clip: The clip.
        scene: The prediction.
        reason: Why it is not refined.
        progress: The line to replace.

    Returns:
        The refinement that was not accepted.
    """
    from recon4d.refine import Refinement

    refinement = Refinement(scene, False, math.nan, math.nan, 0, clip, reason)
    progress.print(str(refinement))
    return refinement
