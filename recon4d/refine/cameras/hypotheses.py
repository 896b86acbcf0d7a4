"""Camera hypotheses: adjusted from several starting points, with and without other intrinsics, and rotation-only.

The starting points are the predicted cameras and those of COLMAP's global mapper, which needs no initial poses. Each is
adjusted three times: with the predicted intrinsics, with another focal length, and with another principal point too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import (
    field_of_view,
    fill_missing_cameras,
    invert,
)
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine.cameras.bundle_adjustment import (
    LOSS_SCALES,
    MIN_TRIANGULATION_ANGLE,
    BundleProblem,
    FreeIntrinsics,
    adjust,
    refine_points,
    reprojection_errors,
    triangulation_angles,
)
from recon4d.refine.cameras.colmap_models import PLAUSIBLE_FIELD_OF_VIEW
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.cameras.rotation_only import rotation_only_cameras
from recon4d.refine.config import RefineConfig
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.tracks.located_tracks import MIN_OBSERVATIONS, LocatedTracks

MAX_RESIDUAL = 0.015
"""Largest residual of an observation that takes part in the next round of adjustment, as a fraction of the longer side;
at least twice the loss scale. Hand-tuned."""
MIN_FREE_FRACTION = 0.3
"""Smallest fraction of points with sufficient parallax for any point to be free. Hand-tuned."""
MIN_SHARED_TRACKS = 8
"""Smallest number of tracks that a frame shares with another one for its camera to be constrained by it. Hand-tuned."""
PRINCIPAL_POINT_LOSS_SCALE = 0.5
"""Largest loss scale, in pixels, of the rounds in which the principal point may change. Hand-tuned."""
MAX_PRINCIPAL_POINT_OFFSET = 0.1
"""Largest distance of the principal point from the image center, as a fraction of the longer side. Hand-tuned."""

StartingPoint = Literal["predicted", "mapper", "mapper with predicted intrinsics"]
"""Initial cameras of an adjustment: the predicted ones, or those of COLMAP's mapper."""


@dataclass(frozen=True)
class CameraHypothesis:
    """Cameras that may be better than the predicted ones."""

    cameras: Cameras
    keeps_intrinsics: bool
    """Whether all frames have the mean of the predicted intrinsics."""


@dataclass(frozen=True)
class CameraHypotheses:
    """All camera hypotheses of a scene, computed lazily."""

    scene: Scene
    """The predicted scene."""
    tracks: LocatedTracks
    """The static tracks that cameras are fitted to."""
    config: RefineConfig
    refine_intrinsics: bool
    """Whether there are hypotheses with other intrinsics."""

    def rotation_only(self) -> Iterator[CameraHypothesis]:
        """Fit cameras that only rotate.

        Yields:
            Cameras with the predicted intrinsics, then cameras with another focal length if intrinsics may change.
        """
        is_constrained = constrained_frames(self.tracks.tracks.visibility > 0, MIN_SHARED_TRACKS)
        for refine_focal_length in (False, True) if self.refine_intrinsics else (False,):
            cameras = rotation_only_cameras(
                self.scene.cameras, self.tracks.tracks, self.scene.size, refine_focal_length, LOSS_SCALES
            )
            cameras = _keep_unconstrained_cameras(cameras, self.scene.cameras, is_constrained)
            yield CameraHypothesis(cameras, keeps_intrinsics=not refine_focal_length)

    def starting_points(self) -> tuple[StartingPoint, ...]:
        """List the starting points of the adjustment, in the order in which they should be tried.

        Returns:
            The predicted cameras; then the mapper's cameras with a focal length of its own (unless intrinsics are
            kept); then the mapper's with the predicted intrinsics. A wrong focal length that fits the tracks nearly as
            well as the true one, with other poses, is the mapper's typical error.
        """
        if not self.refine_intrinsics:
            return "predicted", "mapper with predicted intrinsics"
        return "predicted", "mapper", "mapper with predicted intrinsics"

    def adjusted(self, start: StartingPoint) -> tuple[list[CameraHypothesis], list[str]]:
        """Adjust the cameras of a starting point with each choice of free intrinsics.

        Args:
            start: One of `starting_points`.

        Returns:
            The hypotheses that were found, and the reasons why others were not.
        """
        found: list[CameraHypothesis] = []
        reasons: list[str] = []
        try:
            cameras, points = self._predict() if start == "predicted" else self._map(keep_intrinsics=start != "mapper")
        except NoSolution as failure:
            return [], [str(failure)]
        choices: tuple[FreeIntrinsics, ...] = ("none", "focal length", "all") if self.refine_intrinsics else ("none",)
        for intrinsics in choices:
            try:
                adjusted, is_constrained = self._adjust_in_rounds(cameras, points, intrinsics)
            except NoSolution as failure:
                reasons.append(str(failure))
                continue
            adjusted = _keep_unconstrained_cameras(adjusted, self.scene.cameras, is_constrained)
            found.append(CameraHypothesis(adjusted, intrinsics == "none" and start != "mapper"))
        return found, reasons

    def _predict(self) -> tuple[Cameras, Float[Tensor, "track 3"]]:
        """Adjust the predicted poses to points at the predicted depths."""
        points = self.tracks.points(self.scene.cameras)
        is_free = torch.zeros(len(points), dtype=torch.bool)
        problem = BundleProblem(self.scene.cameras, self.tracks.tracks, points, self.scene.size, LOSS_SCALES[0])
        return adjust(problem, is_free).cameras, points

    def _map(self, keep_intrinsics: bool) -> tuple[Cameras, Float[Tensor, "track 3"]]:
        """Run COLMAP's global mapper, and move its world so that the first camera has its predicted pose."""
        predicted, tracks, size = self.scene.cameras, self.tracks, self.scene.size
        mapped = map_tracks(predicted, tracks.tracks, size, self.config.seed, keep_intrinsics)
        if not mapped.world_from_cam.isfinite().all():
            raise NoSolution("COLMAP's mapper could not register all frames")
        if keep_intrinsics:
            mapped = replace(mapped, intrinsics=predicted.intrinsics)
        cameras = mapped.transformed(predicted.world_from_cam[0] @ invert(mapped.world_from_cam[0]))
        problem = BundleProblem(cameras, tracks.tracks, tracks.points(cameras), size, LOSS_SCALES[0])
        return cameras, refine_points(problem)

    def _adjust_in_rounds(
        self, cameras: Cameras, points: Float[Tensor, "track 3"], intrinsics: FreeIntrinsics
    ) -> tuple[Cameras, Bool[Tensor, " time"]]:
        """Adjust with a decreasing loss scale, without the observations that the previous round could not explain.

        Points are free if enough of them have sufficient parallax; the others are then left out, since nothing would
        constrain their depth. With too little parallax overall, for example from a static camera, all points stay at
        the predicted depths and the intrinsics cannot change. The scale is that of the predicted depths.

        Returns the cameras, and which of them are constrained by the remaining tracks.
        """
        tracks, size = self.tracks, self.scene.size
        has_parallax = triangulation_angles(cameras, tracks.tracks, points) >= MIN_TRIANGULATION_ANGLE
        is_free = int(has_parallax.sum()) >= max(self.config.min_tracks, MIN_FREE_FRACTION * len(has_parallax))
        if intrinsics != "none" and not is_free:
            raise NoSolution("too little parallax to determine the intrinsics")
        if is_free:
            tracks, points = tracks.take(has_parallax.nonzero()[:, 0]), points[has_parallax]
        for loss_scale in LOSS_SCALES:
            problem = BundleProblem(cameras, tracks.tracks, points, size, loss_scale)
            may_move_center = loss_scale <= PRINCIPAL_POINT_LOSS_SCALE
            free = "focal length" if intrinsics == "all" and not may_move_center else intrinsics
            adjusted = adjust(problem, torch.full((len(points),), is_free), free)
            errors, is_observed = reprojection_errors(adjusted.cameras, tracks.tracks, adjusted.points)
            is_observed = is_observed & (errors <= max(MAX_RESIDUAL * max(size), 2 * loss_scale))
            is_kept = is_observed.sum(dim=0) >= MIN_OBSERVATIONS
            if int(is_kept.sum()) < self.config.min_tracks // 2:
                raise NoSolution(f"only {int(is_kept.sum())} of {len(points)} tracks fit the adjusted cameras")
            inliers = FeatureTracks(tracks.tracks.pixels, tracks.tracks.visibility * is_observed)
            tracks = replace(tracks, tracks=inliers).take(is_kept.nonzero()[:, 0])
            cameras, points = adjusted.cameras, adjusted.points[is_kept]
        if intrinsics != "none":
            _check_plausible_intrinsics(cameras, size)
        ratio = tracks.depths / tracks.reference_depths(points, cameras)
        origin = cameras.centers[0]
        world_from_cam = cameras.world_from_cam.clone()
        world_from_cam[:, :3, 3] = origin + ratio.median() * (world_from_cam[:, :3, 3] - origin)
        is_constrained = constrained_frames(tracks.tracks.visibility > 0, MIN_SHARED_TRACKS)
        return replace(cameras, world_from_cam=world_from_cam), is_constrained


def build_hypotheses(
    scene: Scene,
    tracks: LocatedTracks,
    config: RefineConfig,
    refine_intrinsics: bool = True,
    focal_ratio: float | None = None,
) -> CameraHypotheses:
    """Prepare the camera hypotheses of a scene.

    Args:
        scene: The predicted scene.
        tracks: The static tracks that cameras are fitted to.
        config: `min_tracks` and `seed` are used.
        refine_intrinsics: Whether intrinsics may change.
        focal_ratio: Ratio of the horizontal to the vertical focal length, in pixels of the scene's maps. The predicted
            focal lengths are changed to this ratio with their geometric mean unchanged. None keeps them.

    Returns:
        The hypotheses, which are computed lazily.
    """
    if focal_ratio is not None and refine_intrinsics:
        intrinsics = scene.cameras.intrinsics.clone()
        vertical = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1] / focal_ratio).sqrt()
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal_ratio * vertical, vertical
        scene = scene.with_cameras(replace(scene.cameras, intrinsics=intrinsics))
    return CameraHypotheses(scene, tracks, config, refine_intrinsics)


def constrained_frames(is_observed: Bool[Tensor, "time track"], min_shared: int) -> Bool[Tensor, " time"]:
    """Find the largest group of frames that are connected by shared tracks.

    Args:
        is_observed: Whether each frame observes each track.
        min_shared: Smallest number of shared tracks that connects two frames.

    Returns:
        Whether each frame belongs to the largest connected component.
    """
    is_linked = is_observed.double() @ is_observed.double().T >= min_shared
    is_linked = is_linked | torch.eye(len(is_observed), dtype=torch.bool)
    for _ in range(len(is_observed).bit_length()):
        is_linked = (is_linked.double() @ is_linked.double()) > 0  # doubles the length of the paths
    return is_linked[is_linked.sum(dim=1).argmax()]


def _check_plausible_intrinsics(cameras: Cameras, size: tuple[int, int]) -> None:
    """Raise `NoSolution` if the field of view or the principal point is implausible."""
    angle = float(field_of_view(cameras.intrinsics, *size).amax().rad2deg())
    if not PLAUSIBLE_FIELD_OF_VIEW[0] <= angle <= PLAUSIBLE_FIELD_OF_VIEW[1]:
        raise NoSolution(f"a field of view of {angle:.0f} degrees is implausible")
    height, width = size
    offset = float((cameras.intrinsics[:, :2, 2] - torch.tensor([width / 2, height / 2])).norm(dim=-1).amax())
    if offset > MAX_PRINCIPAL_POINT_OFFSET * max(size):
        raise NoSolution(f"a principal point {offset:.0f} pixels from the image center is implausible")


def _keep_unconstrained_cameras(cameras: Cameras, predicted: Cameras, is_constrained: Bool[Tensor, " time"]) -> Cameras:
    """Keep unconstrained cameras where they were predicted relative to the nearest constrained ones.

    The pose of the first camera does not change.
    """
    if is_constrained.all():
        return cameras
    old = predicted.world_from_cam.to(cameras.world_from_cam)
    filled = replace(cameras, world_from_cam=fill_missing_cameras(old, cameras.world_from_cam, is_constrained))
    return filled.transformed(old[0] @ invert(filled.world_from_cam[0]))
