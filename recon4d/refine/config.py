"""Settings of refinement that are worth tuning. Other constants are defined beside the code that uses them."""

from dataclasses import dataclass

from recon4d.errors import UserError

MAP_SIDE = 512
"""Longer side in pixels of the maps that commands write, unless the clip is smaller."""


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `refine_clip` and `refine_scene`.

    Raises:
        UserError: If a value is outside of its range.
    """

    num_tracks: int = 1200
    """Largest number of static tracks to use, fitted and held out together."""
    min_tracks: int = 30
    """Smallest number of static tracks; with fewer, the scene is returned unchanged."""
    held_out_fraction: float = 0.2
    """Fraction of the static tracks that no cameras are fitted to and that decide about acceptance, between 0 and 1."""
    inlier_threshold: float = 0.0016
    """Largest mean reprojection error of an inlier track, as a fraction of the longer side of the maps."""
    refine_intrinsics: bool = True
    """Whether focal length, principal point and radial distortion are estimated. They are not if the priors of a clip
    contain intrinsics for all frames."""
    map_side: int | None = None
    """Longer side of the refined maps, in pixels: stereo and the mask of what moves are computed at this size. Maps are
    never larger than the images, and never smaller than the predicted ones. None keeps the predicted size."""
    seed: int = 0
    """Seed of the selection of tracks, of RANSAC and of COLMAP's mapper; equal seeds give equal results."""

    def __post_init__(self) -> None:
        if not 0 < self.held_out_fraction < 1:
            raise UserError(f"held_out_fraction is {self.held_out_fraction}; it must be between 0 and 1")
        if not 2 <= self.min_tracks <= self.num_tracks:
            raise UserError(
                f"min_tracks is {self.min_tracks} and num_tracks is {self.num_tracks}; expected "
                "2 <= min_tracks <= num_tracks"
            )
        if self.map_side is not None and self.map_side < 1:
            raise UserError(f"map_side is {self.map_side}; it must be at least 1")
        if not self.inlier_threshold > 0:
            raise UserError(f"inlier_threshold is {self.inlier_threshold}; it must be positive")
