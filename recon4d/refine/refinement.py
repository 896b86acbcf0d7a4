"""The result of refinement: a scene, whether it was refined, and the errors before and after."""

import math
from dataclasses import dataclass

from recon4d.records import Calibration, Scene
from recon4d.refine.depth.multiview_consistency import VERIFIED_CONFIDENCE


@dataclass(frozen=True)
class Refinement:
    """A refined scene, or the unchanged scene with the reason why it was not refined."""

    scene: Scene
    """The refined scene; the given one if the refinement was not accepted."""
    is_accepted: bool
    """Whether the scene was refined."""
    error_before: float
    """Mean reprojection error of the held-out tracks before refinement, in pixels, with the error of each observation
    clipped to 1; NaN if it was not measured."""
    error_after: float
    """The same error after refinement."""
    num_tracks: int
    """Number of tracks that cameras or depth were fitted to."""
    reason: str = ""
    """Why the scene was not refined; empty if it was."""
    depth_error_before: float = math.nan
    """Mean absolute difference of log depth to the held-out points before refinement; NaN if it was not measured
    because nothing determines depth."""
    depth_error_after: float = math.nan
    """The same difference after refinement."""
    verified_share: float = 0.0
    """Fraction of all pixels whose depth is verified in several images."""
    verified_error: float = math.nan
    """Median absolute difference of log depth to the held-out points at verified pixels; NaN if none are verified."""
    is_depth_only: bool = False
    """Whether the cameras were given and only depth is refined."""
    is_rotation_only: bool = False
    """Whether the cameras only rotate. They then determine no depth, and the focal length only roughly."""

    def __str__(self) -> str:
        if not self.is_accepted:
            return f"{'depth is' if self.is_depth_only else 'cameras are'} as predicted: {self.reason}"
        refined = (
            f"cameras refined on {self.num_tracks} tracks: held-out error {self.error_before:.2f} to "
            f"{self.error_after:.2f} pixels"
        )
        refined += ", rotation only, which determines no depth" if self.is_rotation_only else ""
        cameras = "cameras are as given" if self.is_depth_only else refined
        is_better = self.depth_error_after < self.depth_error_before
        depth = f", depth error {self.depth_error_before:.0%} to {self.depth_error_after:.0%}" if is_better else ""
        verified = f", depth verified at {self.verified_share:.0%} of all pixels" if self.verified_share else ""
        return f"{cameras}{depth}{verified}"

    def calibration(self, of_model: Calibration | None) -> Calibration | None:
        """Extend the calibration of a model by the confidence of verified pixels.

        Args:
            of_model: The calibration of the model that predicted the scene, if it is calibrated.

        Returns:
            The calibration of the refined scene's confidences; `of_model` itself if no pixels are verified.
        """
        if of_model is None or not self.verified_share:
            return of_model
        return of_model.extended(
            VERIFIED_CONFIDENCE, self.verified_error, "verified pixels: held-out corners of this clip"
        )
