"""The settings of refinement that are worth tuning; constants of single steps stand beside the code that uses them."""

from dataclasses import dataclass

DYNAMIC_THRESHOLD = 0.5
"""Dynamic probability up to which a pixel counts as static. Networks are calibrated to this threshold."""


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `refine_clip` and `refine_scene`."""

    num_tracks: int = 1200
    """Largest number of static tracks to use, fitted and held out together."""
    min_tracks: int = 30
    """Smallest number of static tracks; with fewer, the scene is returned unchanged."""
    held_out_fraction: float = 0.2
    """Fraction of the static tracks that no cameras are fitted to and that decide about acceptance, between 0 and 1."""
    exact_error: float = 0.0016
    """Largest mean reprojection error of a track that counts as fitted exactly, as a fraction of the longer side."""
    min_exact_fraction: float = 0.75
    """Smallest fraction of held-out tracks that accepted cameras fit exactly; 0 accepts any improvement."""
    refine_intrinsics: bool = True
    """Whether focal length and principal point may change. They never change where a clip's priors contain them."""
    seed: int = 0
    """Seed of the selection of tracks, of RANSAC and of COLMAP's mapper; equal seeds give equal results."""
