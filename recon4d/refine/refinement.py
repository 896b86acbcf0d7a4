"""The result of refinement: a scene, whether it was refined, and the errors before and after."""

import math
from dataclasses import dataclass, replace

from recon4d.geometry import rotation_angle
from recon4d.records import Calibration, Clip, RefinementSummary, Scene
from recon4d.refine.depth.multiview_consistency import VERIFIED_CONFIDENCE

MIN_ROTATION = 0.1
"""Smallest rotation in degrees that is told as one. Hand-tuned."""


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
    clip: Clip | None = None
    """The clip with the images that the scene is of: without lens distortion if the refinement found any, otherwise
    the given clip. None if the cameras were refined without images."""
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
    static_fraction: float = math.nan
    """Fraction of all corner tracks that agree with a static scene. Cameras are fitted to these and judged by them; NaN
    if it was not measured."""
    inlier_fraction_before: float = math.nan
    """Fraction of the held-out tracks that the predicted cameras explain; NaN if it was not measured."""
    inlier_fraction: float = math.nan
    """Fraction of the held-out tracks that the refined cameras explain (`RefineConfig.inlier_threshold`)."""
    parallax: float = math.nan
    """Median triangulation angle of the tracks, in degrees; NaN if it was not measured."""
    unknown_frames: tuple[int, ...] = ()
    """Frames whose cameras no tracks determine. They keep their predicted pose relative to the nearest other camera,
    and their depth has confidence 0."""
    dynamic_reason: str = ""
    """Why the mask of what moves is the predicted one; empty if the pictures decided."""
    rig_report: str = ""
    """What of a rig was fixed, and how far free cameras differ from it, in a line for the user; "" without a rig."""

    def __str__(self) -> str:
        if not self.is_accepted:
            return f"{'depth is' if self.is_depth_only else 'cameras are'} as predicted: {self.reason}"
        cameras = "cameras are as given" if self.is_depth_only else self._describe_cameras()
        is_better = self.depth_error_after < self.depth_error_before
        depth = f", depth error {self.depth_error_before:.0%} to {self.depth_error_after:.0%}" if is_better else ""
        verified = f", depth verified at {self.verified_share:.0%} of all pixels" if self.verified_share else ""
        dynamic = f", what moves is as predicted: {self.dynamic_reason}" if self.dynamic_reason else ""
        return f"{cameras}{depth}{verified}{dynamic}"

    def _describe_cameras(self) -> str:
        parts = [
            f"cameras refined: they explain {self.inlier_fraction:.0%} of the held-out corners "
            f"({self.inlier_fraction_before:.0%} before)"
        ]
        if self.is_rotation_only:
            parts.append(f"the camera {self._motion}, which determines no depth")
        else:
            parts.append(f"parallax {self.parallax:.1f} degrees")
        if self.scene.distortion is not None:
            k1, k2 = self.scene.distortion[:2].tolist()
            parts.append(f"radial distortion {k1:.3f}, {k2:.3f} removed")
        if self.unknown_frames:
            numbers = ", ".join(map(str, self.unknown_frames))
            parts.append(f"the cameras of frames {numbers} are unknown")
        return ", ".join(parts)

    @property
    def _motion(self) -> str:
        rotation = self.scene.cameras.world_from_cam[:, :3, :3]
        angles = rotation_angle(rotation[:1].mT @ rotation).rad2deg()
        return "only rotates" if float(angles.max()) >= MIN_ROTATION else "does not move"

    def after(self, first: "Refinement") -> "Refinement":
        """Combine with an earlier refinement, whose result this one refined again.

        Args:
            first: The earlier refinement.

        Returns:
            This refinement with the errors before the first one, if that was accepted.
        """
        if not first.is_accepted:
            return self
        return replace(
            self,
            error_before=first.error_before,
            inlier_fraction_before=first.inlier_fraction_before,
            depth_error_before=first.depth_error_before,
        )

    @property
    def summary(self) -> RefinementSummary:
        """What was refined and how far to trust it, as numbers to store with the scene."""
        return RefinementSummary(
            is_accepted=self.is_accepted,
            reason=self.reason,
            is_depth_only=self.is_depth_only,
            is_rotation_only=self.is_rotation_only,
            num_tracks=self.num_tracks,
            static_fraction=_or_none(self.static_fraction),
            inlier_fraction_before=_or_none(self.inlier_fraction_before),
            inlier_fraction=_or_none(self.inlier_fraction),
            error_before=_or_none(self.error_before),
            error_after=_or_none(self.error_after),
            parallax=_or_none(self.parallax),
            depth_error_before=_or_none(self.depth_error_before),
            depth_error_after=_or_none(self.depth_error_after),
            verified_fraction=self.verified_share,
            verified_error=_or_none(self.verified_error),
            unknown_frames=self.unknown_frames,
            dynamic_reason=self.dynamic_reason,
        )

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


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
