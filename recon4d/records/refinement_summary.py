"""Summary of a refinement: what was refined, and how far to trust it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RefinementSummary:
    """Plain numbers about a refinement, stored with its scene. None marks what was not measured."""

    is_accepted: bool
    """Whether the scene was refined. If not, it is as the network predicted it."""
    reason: str
    """Why the scene was not refined; empty if it was."""
    is_depth_only: bool
    """Whether the cameras were given and only depth was refined."""
    is_rotation_only: bool
    """Whether the cameras only rotate, which determines no depth."""
    num_tracks: int
    """Number of corner tracks that cameras or depth were fitted to."""
    inlier_fraction_before: float | None
    """Fraction of the held-out corner tracks that the predicted cameras explain."""
    inlier_fraction: float | None
    """Fraction of the held-out corner tracks that the refined cameras explain."""
    error_before: float | None
    """Mean reprojection error of the held-out tracks under the predicted cameras, in pixels of the maps, each clipped
    to 1."""
    error_after: float | None
    """The same error under the refined cameras."""
    parallax: float | None
    """Median triangulation angle of the tracks, in degrees."""
    depth_error_before: float | None
    """Mean absolute difference of log depth to the held-out points before refinement."""
    depth_error_after: float | None
    """The same difference after refinement."""
    verified_fraction: float
    """Fraction of all pixels whose depth is verified in several images."""
    verified_error: float | None
    """Median absolute difference of log depth to the held-out points at verified pixels."""
    unknown_frames: tuple[int, ...] = ()
    """Frames whose cameras no tracks determine."""
    static_fraction: float | None = None
    """Fraction of all corner tracks that agree with a static scene; cameras are not fitted to the others."""
    dynamic_reason: str = ""
    """Why the mask of what moves is as predicted; empty if the pictures decided."""
