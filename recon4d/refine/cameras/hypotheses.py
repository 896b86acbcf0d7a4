"""Camera hypotheses: adjusted from several starting points, with and without other intrinsics, and rotation-only.

The starting points are the predicted cameras, those of COLMAP's global mapper, which needs no initial poses, and the
depth reversal of the best cameras. Each is adjusted with the predicted intrinsics, with another focal length, and with
another principal point too. A lens with radial distortion is fitted from the best pinhole cameras.
"""

import math
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
    reprojection_errors,
    triangulation_angles,
)
from recon4d.refine.cameras.colmap_models import PLAUSIBLE_FIELD_OF_VIEW
from recon4d.refine.cameras.depth_reversal import reverse_depth
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.cameras.radial_distortion import NO_DISTORTION, RadialDistortion
from recon4d.refine.cameras.resection import resect_cameras
from recon4d.refine.cameras.rotation_only import rotation_only_cameras
from recon4d.refine.config import RefineConfig
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.tracks.located_tracks import MIN_OBSERVATIONS, LocatedTracks

MAX_RESIDUAL = 0.015
"""Largest residual of an observation that takes part in the next round of adjustment, as a fraction of the longer side;
at least twice the loss scale. Hand-tuned."""
MIN_FREE_FRACTION = 0.3
"""Smallest fraction of points with sufficient parallax for any point to be free. Hand-tuned."""
MIN_ANGLE_OF_FREE_POINT = math.radians(0.1)
"""Smallest triangulation angle of a point that may move, in radians. Hand-tuned."""
MIN_SHARED_TRACKS = 8
"""Smallest number of tracks that a frame shares with another one for its camera to be constrained by it. Hand-tuned."""
FINE_LOSS_SCALES = LOSS_SCALES[1:]
"""Loss scales of the rounds that start from adjusted cameras, in pixels."""
MIN_RELATIVE_INLIER_FRACTION = 0.75
"""Smallest fraction of inliers of a frame, relative to the median frame, whose camera is not estimated anew.
Hand-tuned."""
FIXED, FOCAL_LENGTH = FreeIntrinsics(), FreeIntrinsics(focal_length=True)
"""Choices of free intrinsics of the first adjustment."""
MAX_PRINCIPAL_POINT_OFFSET = 0.1
"""Largest distance of the principal point from the image center, as a fraction of the longer side. Hand-tuned."""
MAX_DISTORTION = 0.5
"""Largest absolute value of the first coefficient of distortion; fisheye lenses have other models. Hand-tuned."""

StartingPoint = Literal["predicted", "mapper", "mapper with predicted intrinsics"]
"""Initial cameras of an adjustment: the predicted ones, or those of COLMAP's mapper."""


@dataclass(frozen=True)
class CameraHypothesis:
    """Cameras that may be better than the predicted ones."""

    cameras: Cameras
    free: FreeIntrinsics
    """Intrinsics that were fitted; if none, all frames have the mean of the predicted intrinsics."""
    is_determined: Bool[Tensor, " time"]
    """Whether tracks determine the camera of each frame. The others keep their predicted pose relative to the nearest
    determined one."""
    distortion: RadialDistortion = NO_DISTORTION
    """Distortion of the lens."""


@dataclass(frozen=True)
class _AdjustmentState:
    """Cameras and points between two rounds of adjustment, with the observations that they explain."""

    cameras: Cameras
    points: Float[Tensor, "track 3"]
    tracks: LocatedTracks
    is_free: bool
    """Whether the points may move. Otherwise, too few have parallax, and all stay at the predicted depths."""
    distortion: RadialDistortion = NO_DISTORTION


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
    find_distortion: bool
    """Whether there are hypotheses with radial distortion."""

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
            yield CameraHypothesis(cameras, FreeIntrinsics(refine_focal_length), is_constrained)

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
        try:
            cameras, points = self._predict() if start == "predicted" else self._map(keep_intrinsics=start != "mapper")
        except NoSolution as failure:
            return [], [str(failure)]
        return self._adjust_from(cameras, points, has_predicted_intrinsics=start != "mapper")

    def readjusted(
        self, hypothesis: CameraHypothesis, free: FreeIntrinsics, loss_scales: tuple[float, ...] = FINE_LOSS_SCALES
    ) -> CameraHypothesis:
        """Adjust cameras once more, with all tracks re-triangulated from these cameras.

        The first adjustment of bad initial cameras loses tracks that are consistent with the final ones.

        Args:
            hypothesis: Adjusted cameras.
            free: Intrinsics that may change.
            loss_scales: Loss scales of the rounds, in pixels.

        Returns:
            The new cameras.

        Raises:
            NoSolution: If the cameras cannot be adjusted, or if the intrinsics are implausible.
        """
        points = self._triangulate(hypothesis)
        state = replace(self._initial_state(hypothesis.cameras, points), distortion=hypothesis.distortion)
        return self._finish(self._rounds(state, loss_scales, free), free)

    def resected(self, hypothesis: CameraHypothesis) -> CameraHypothesis | None:
        """Estimate the cameras of frames that fit much worse than the others anew, from the points of the others.

        Bundle adjustment leaves the camera of a frame in a local minimum if its initial pose is far off.

        Args:
            hypothesis: Adjusted cameras.

        Returns:
            The cameras after another adjustment; None if all frames fit about equally well, or if no new camera is
            found.

        Raises:
            NoSolution: If the new cameras cannot be adjusted.
        """
        cameras = hypothesis.cameras
        points = self._triangulate(hypothesis)
        errors, is_observed = reprojection_errors(cameras, self.tracks.tracks, points, hypothesis.distortion)
        is_inlier = is_observed & (errors <= 2 * self.config.inlier_threshold * max(self.scene.size))
        fractions = is_inlier.sum(dim=1) / is_observed.sum(dim=1).clamp(min=1)
        fits = fractions >= MIN_RELATIVE_INLIER_FRACTION * fractions.median()
        if fits.all():
            return None
        resected, is_found = resect_cameras(
            cameras, fits, self.tracks.tracks, points, self.scene.size, hypothesis.distortion
        )
        if not (is_found & ~fits).any():
            return None
        resected = resected.transformed(cameras.world_from_cam[0] @ invert(resected.world_from_cam[0]))
        return self.readjusted(replace(hypothesis, cameras=resected), hypothesis.free)

    def depth_reversed(self, hypothesis: CameraHypothesis) -> tuple[list[CameraHypothesis], list[str]]:
        """Adjust the depth reversal of cameras, which looks the same if there is little perspective.

        Args:
            hypothesis: Pinhole cameras.

        Returns:
            The hypotheses that were found, and the reasons why others were not.
        """
        cameras, points = reverse_depth(hypothesis.cameras, self._triangulate(hypothesis))
        return self._adjust_from(cameras, points, not hypothesis.free.focal_length)

    def _triangulate(self, hypothesis: CameraHypothesis) -> Float[Tensor, "track 3"]:
        cameras, tracks = hypothesis.cameras, self.tracks
        return refine_points(cameras, tracks.tracks, tracks.points(cameras), distortion=hypothesis.distortion)

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
        return cameras, refine_points(cameras, tracks.tracks, tracks.points(cameras), LOSS_SCALES[0])

    def _adjust_from(
        self, cameras: Cameras, points: Float[Tensor, "track 3"], has_predicted_intrinsics: bool
    ) -> tuple[list[CameraHypothesis], list[str]]:
        """Adjust with the predicted intrinsics, if the cameras have them, and with a free focal length."""
        choices = [FIXED] if has_predicted_intrinsics else []
        choices += [FOCAL_LENGTH] if self.refine_intrinsics else []
        found: list[CameraHypothesis] = []
        reasons: list[str] = []
        state = self._initial_state(cameras, points)
        for free in choices:
            try:
                found.append(self._finish(self._rounds(state, LOSS_SCALES, free), free))
            except NoSolution as failure:
                reasons.append(str(failure))
        return found, reasons

    def _initial_state(self, cameras: Cameras, points: Float[Tensor, "track 3"]) -> _AdjustmentState:
        """Decide which points are free.

        Points are free if enough of them have sufficient parallax. Those with hardly any are then left out: they are
        so far away that their depth is no longer a parameter that an adjustment can find. With too little parallax
        overall, for example from a static camera, all points stay at the predicted depths and the intrinsics cannot
        change.
        """
        angles = triangulation_angles(cameras, self.tracks.tracks, points)
        has_parallax = angles >= MIN_TRIANGULATION_ANGLE
        is_free = int(has_parallax.sum()) >= max(self.config.min_tracks, MIN_FREE_FRACTION * len(has_parallax))
        if not is_free:
            return _AdjustmentState(cameras, points, self.tracks, False)
        is_near = angles >= MIN_ANGLE_OF_FREE_POINT
        return _AdjustmentState(cameras, points[is_near], self.tracks.take(is_near.nonzero()[:, 0]), True)

    def _rounds(
        self, state: _AdjustmentState, loss_scales: tuple[float, ...], free: FreeIntrinsics
    ) -> _AdjustmentState:
        """Adjust with a decreasing loss scale, without the observations that the previous round could not explain."""
        if free.focal_length and not state.is_free:
            raise NoSolution("too little parallax to determine the intrinsics")
        for loss_scale in loss_scales:
            state = self._round(state, loss_scale, free)
        return state

    def _round(self, state: _AdjustmentState, loss_scale: float, free: FreeIntrinsics) -> _AdjustmentState:
        tracks, size = state.tracks, self.scene.size
        problem = BundleProblem(state.cameras, tracks.tracks, state.points, size, loss_scale, state.distortion)
        adjusted = adjust(problem, torch.full((len(state.points),), state.is_free), free)
        errors, is_observed = reprojection_errors(adjusted.cameras, tracks.tracks, adjusted.points, adjusted.distortion)
        is_observed = is_observed & (errors <= max(MAX_RESIDUAL * max(size), 2 * loss_scale))
        is_kept = is_observed.sum(dim=0) >= MIN_OBSERVATIONS
        if int(is_kept.sum()) < self.config.min_tracks // 2:
            raise NoSolution(f"only {int(is_kept.sum())} of {len(is_kept)} tracks fit the adjusted cameras")
        inliers = FeatureTracks(tracks.tracks.pixels, tracks.tracks.visibility * is_observed)
        tracks = replace(tracks, tracks=inliers).take(is_kept.nonzero()[:, 0])
        return _AdjustmentState(adjusted.cameras, adjusted.points[is_kept], tracks, state.is_free, adjusted.distortion)

    def _finish(self, state: _AdjustmentState, free: FreeIntrinsics) -> CameraHypothesis:
        """Check the intrinsics, bring the cameras to the scale of the predicted depths, and place lost frames."""
        cameras, tracks, size = state.cameras, state.tracks, self.scene.size
        if free.focal_length:
            _check_plausible_intrinsics(cameras, state.distortion, size)
        ratio = tracks.depths / tracks.reference_depths(state.points, cameras)
        origin = cameras.centers[0]
        world_from_cam = cameras.world_from_cam.clone()
        world_from_cam[:, :3, 3] = origin + ratio.median() * (world_from_cam[:, :3, 3] - origin)
        cameras = replace(cameras, world_from_cam=world_from_cam)
        is_determined = constrained_frames(tracks.tracks.visibility > 0, MIN_SHARED_TRACKS)
        if not is_determined.all():
            points = self.tracks.points(cameras)
            cameras, is_determined = resect_cameras(
                cameras, is_determined, self.tracks.tracks, points, size, state.distortion
            )
        cameras = _keep_unconstrained_cameras(cameras, self.scene.cameras, is_determined)
        return CameraHypothesis(cameras, free, is_determined, state.distortion)


def build_hypotheses(
    scene: Scene,
    tracks: LocatedTracks,
    config: RefineConfig,
    refine_intrinsics: bool = True,
    focal_ratio: float | None = None,
    find_distortion: bool = True,
) -> CameraHypotheses:
    """Prepare the camera hypotheses of a scene.

    Args:
        scene: The predicted scene. If distortion was already removed from its images, no other one is looked for.
        tracks: The static tracks that cameras are fitted to.
        config: `min_tracks` and `seed` are used.
        refine_intrinsics: Whether intrinsics may change.
        focal_ratio: Ratio of the horizontal to the vertical focal length, in pixels of the scene's maps. The predicted
            focal lengths are changed to this ratio with their geometric mean unchanged. None keeps them.
        find_distortion: Whether there are hypotheses with radial distortion.

    Returns:
        The hypotheses, which are computed lazily.
    """
    if focal_ratio is not None and refine_intrinsics:
        intrinsics = scene.cameras.intrinsics.clone()
        vertical = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1] / focal_ratio).sqrt()
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal_ratio * vertical, vertical
        scene = scene.with_cameras(replace(scene.cameras, intrinsics=intrinsics))
    find_distortion = find_distortion and refine_intrinsics and scene.distortion is None
    return CameraHypotheses(scene, tracks, config, refine_intrinsics, find_distortion)


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


def _check_plausible_intrinsics(cameras: Cameras, distortion: RadialDistortion, size: tuple[int, int]) -> None:
    """Raise `NoSolution` if the field of view, the principal point or the distortion is implausible."""
    angle = float(field_of_view(cameras.intrinsics, *size).amax().rad2deg())
    if not PLAUSIBLE_FIELD_OF_VIEW[0] <= angle <= PLAUSIBLE_FIELD_OF_VIEW[1]:
        raise NoSolution(f"a field of view of {angle:.0f} degrees is implausible")
    height, width = size
    offset = float((cameras.intrinsics[:, :2, 2] - torch.tensor([width / 2, height / 2])).norm(dim=-1).amax())
    if offset > MAX_PRINCIPAL_POINT_OFFSET * max(size):
        raise NoSolution(f"a principal point {offset:.0f} pixels from the image center is implausible")
    if abs(distortion.k1) > MAX_DISTORTION or not distortion.is_invertible(size, cameras.intrinsics[0]):
        raise NoSolution(f"a radial distortion of {distortion.k1:.2f}, {distortion.k2:.2f} is implausible")


def _keep_unconstrained_cameras(cameras: Cameras, predicted: Cameras, is_constrained: Bool[Tensor, " time"]) -> Cameras:
    """Keep unconstrained cameras where they were predicted relative to the nearest constrained ones.

    The pose of the first camera does not change.
    """
    if is_constrained.all():
        return cameras
    old = predicted.world_from_cam.to(cameras.world_from_cam)
    filled = replace(cameras, world_from_cam=fill_missing_cameras(old, cameras.world_from_cam, is_constrained))
    return filled.transformed(old[0] @ invert(filled.world_from_cam[0]))
