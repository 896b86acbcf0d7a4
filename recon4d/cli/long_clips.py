"""`recon4d reconstruct --window` and `--anchored`: clips of any length, streamed to a folder that outlives a stop."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from recon4d.inference import ReconstructConfig
    from recon4d.io import SceneInfo
    from recon4d.io.long_clips import LongClip
    from recon4d.models import Model
    from recon4d.records import Clip, Scene


@dataclass(frozen=True)
class LongConfig:
    """Clips of any length, in parts of bounded memory. All frames are taken, at --fps where it is given."""

    window: int = 0
    """Frames of one pass; 0 takes the whole clip in one."""
    overlap: int = 4
    """Frames that a window shares with the one before."""
    static_below: float = 0.5
    """Pixels whose probability to move is below this join windows; above 1 all pixels do."""
    loops: bool = False
    """Look for places that are seen again, and spread the drift."""
    lens: Literal["auto", "one", "each"] = "auto"
    """one: the intrinsics of all frames are the median over windows. each: those that its window answered. auto: one
    for frames that have times, as those of a video."""
    anchored: bool = False
    """Take every frame with the first alone, instead of windows."""
    tracks: int = 0
    """Follow every so many-th pixel of the first frame, along both axes, through all windows: 1 follows all of them."""

    def __post_init__(self) -> None:
        if self.tracks and self.anchored:
            raise ValueError("--anchored follows every pixel of the first frame by itself; leave --tracks out")
        if self.tracks and not self.window:
            raise ValueError("--tracks follows pixels from window to window; give --window too")

    @property
    def is_wanted(self) -> bool:
        return self.window > 0 or self.anchored


def describe_long_known(long_clip: "LongClip") -> str:
    """What is known of a long clip beforehand, in one line."""
    from recon4d.cli.formatting import describe_known

    known = long_clip.priors
    masks = "masks, read frame by frame"
    if known is None or not (known.intrinsics.isfinite().any() or known.world_from_cam.isfinite().any()):
        return f"known: {masks}"
    return describe_known(known) + (f", {masks}" if long_clip.ignore is not None else "")


def reconstruct_long(
    model: "Model", long_clip: "LongClip", out: Path, info: "SceneInfo", config: "ReconstructConfig", long: LongConfig
) -> str:
    """Write every frame of the clip to the folder `out`, and answer in a line what was done.

    The same call goes on where one was stopped.
    """
    from dataclasses import replace

    from recon4d.inference import reconstruct
    from recon4d.inference.windows import (
        AnchorConfig,
        LoopConfig,
        WindowConfig,
        reconstruct_anchored,
        reconstruct_windows,
    )

    # Tracks are those of the clip's first frame, the anchor of all; or of each window's, to be put together.
    config = replace(config, anchors=(0,) if long.anchored or long.tracks else (), progress=False)

    def reconstruct_clip(clip: "Clip") -> "Scene":
        return reconstruct(model, clip, config)

    started, progress = time.perf_counter(), sys.stderr.isatty()
    if long.anchored:
        index = reconstruct_anchored(reconstruct_clip, long_clip, out, info, AnchorConfig(lens=long.lens), progress)
    else:
        loops = LoopConfig() if long.loops else None
        windows = WindowConfig(long.window, long.overlap, long.static_below, loops, long.lens, long.tracks)
        index = reconstruct_windows(reconstruct_clip, long_clip, out, info, windows, progress)
    seconds = time.perf_counter() - started
    (height, width), error = index.size, 100 * float(index.errors.nanmedian())
    what = (
        f"{long_clip.num_frames} frames of {width} x {height} pixels, with pictures, in frames/; cameras in index.npz"
    )
    return f"{out}: {what}, {seconds:.1f} s; parts agree within {error:.1f} % of the depth (median)"
