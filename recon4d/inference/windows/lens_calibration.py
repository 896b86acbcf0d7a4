"""Calibration of the lens of a long clip, before its windows are refined: all windows then share exact intrinsics.

Refinement determines the intrinsics of a window together with its cameras, so that replacing them afterwards, by a
median over windows, would make the cameras wrong. A few windows, evenly distributed over the clip, are therefore
refined first. The more parallax they have, the more accurate are their focal lengths. The window with the median focal
length, weighted by parallax, determines intrinsics and distortion, and these are then given for all windows.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices, resized_intrinsics
from recon4d.inference.windows.frame_reader import read_clip_of_frames
from recon4d.inference.windows.layout import Window
from recon4d.io.cameras.lenses import brown_lens
from recon4d.io.long_clips import LongClip
from recon4d.io.undistortion import undistort_long_clip
from recon4d.records import Clip, Priors
from recon4d.refine import Refinement

MAX_PROBES = 5
"""Largest number of windows that are refined to calibrate the lens. Hand-tuned."""
WINDOWS_PER_PROBE = 4
"""Number of windows for each of which one is refined to calibrate the lens, but at least two are. Hand-tuned."""
MIN_PARALLAX = 0.1
"""Parallax in degrees of a window whose cameras only rotate, in the weighted median. Hand-tuned."""
FOCAL_DRIFT = 1.2
"""Ratio of the focal lengths of two windows above which a zoom is suspected and a warning is given. Hand-tuned."""


@dataclass(frozen=True)
class LensCalibration:
    """The lens that all frames of a clip share."""

    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the clip; NaN if no window determines them."""
    distortion: Float[Tensor, "5"]
    """Distortion k1, k2, p1, p2, k3 (OpenCV) of the clip's images; 0 if there is none."""

    @property
    def is_known(self) -> bool:
        """Whether the intrinsics are known."""
        return bool(self.intrinsics.isfinite().all())

    def __str__(self) -> str:
        if not self.is_known:
            return "unknown, because none of the windows tried could be refined"
        distortion = ", ".join(f"{value:.3f}" for value in self.distortion[:2].tolist())
        removed = f", radial distortion {distortion} removed" if self.has_distortion else ""
        return f"focal length {float(self.intrinsics[0, 0]):.0f} pixels{removed}"

    @property
    def has_distortion(self) -> bool:
        """Whether the images of the clip are distorted."""
        return bool((self.distortion != 0).any())


UNKNOWN_LENS = LensCalibration(torch.full((3, 3), torch.nan), torch.zeros(5))
"""A lens that no window determines."""


def calibrate_lens(
    refine_window: Callable[[Clip], Refinement], long_clip: LongClip, windows: Sequence[Window]
) -> LensCalibration:
    """Determine the lens of a clip by refining some of its windows.

    Args:
        refine_window: Reconstructs and refines the clip of a window.
        long_clip: The clip, without given intrinsics.
        windows: All windows of the clip.

    Returns:
        The lens; unknown if no window can be refined.
    """
    count = min(len(windows), MAX_PROBES, max(2, len(windows) // WINDOWS_PER_PROBE))
    found = []
    for number in evenly_spaced_indices(len(windows), count).tolist():
        clip = read_clip_of_frames(long_clip, windows[number].frames)
        refinement = refine_window(clip)
        if refinement.is_accepted:
            found.append((_lens_of(refinement, long_clip.size), max(_parallax(refinement), MIN_PARALLAX)))
    if not found:
        return UNKNOWN_LENS
    focals = [float(lens.intrinsics[0, 0]) for lens, _ in found]
    if max(focals) > FOCAL_DRIFT * min(focals):
        warnings.warn(
            f"the focal lengths of windows range from {min(focals):.0f} to {max(focals):.0f} pixels, and one of them "
            "is used for all frames; if the clip has a zoom, use lens='each'",
            stacklevel=2,
        )
    return _weighted_median(found)


def with_lens(long_clip: LongClip, lens: LensCalibration) -> LongClip:
    """Give all frames of a clip the intrinsics of a lens, and remove its distortion as the frames are read.

    Args:
        long_clip: The clip.
        lens: A known lens.

    Returns:
        The clip with intrinsics as priors.
    """
    priors = Priors.unknown(long_clip.num_frames) if long_clip.priors is None else long_clip.priors
    intrinsics = lens.intrinsics.to(priors.intrinsics).expand(long_clip.num_frames, 3, 3).clone()
    long_clip = replace(long_clip, priors=replace(priors, intrinsics=intrinsics))
    if not lens.has_distortion:
        return long_clip
    return undistort_long_clip(long_clip, (brown_lens(lens.distortion),) * long_clip.num_frames)


def _lens_of(refinement: Refinement, size: tuple[int, int]) -> LensCalibration:
    scene = refinement.scene
    intrinsics = resized_intrinsics(scene.cameras.intrinsics[:1].double(), scene.size, size)[0]
    distortion = torch.zeros(5) if scene.distortion is None else scene.distortion
    return LensCalibration(intrinsics, distortion.double())


def _parallax(refinement: Refinement) -> float:
    is_known = math.isfinite(refinement.parallax) and not refinement.is_rotation_only
    return refinement.parallax if is_known else 0.0


def _weighted_median(found: Sequence[tuple[LensCalibration, float]]) -> LensCalibration:
    """Return the lens with the weighted median of the focal lengths."""
    ordered = sorted(found, key=lambda one: float(one[0].intrinsics[0, 0]))
    half, total = sum(weight for _, weight in ordered) / 2, 0.0
    for lens, weight in ordered:
        total += weight
        if total >= half:
            return lens
    raise AssertionError("weights are positive")
