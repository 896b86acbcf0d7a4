"""Selection of the cameras that explain the tracks best, among the predicted ones and all hypotheses.

Hypotheses are compared by the likelihood of the fitted tracks after re-triangulation. Those with other intrinsics must
win by a statistically significant margin. Held-out tracks, which no cameras are fitted to, decide between cameras that
move and cameras that only rotate.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import Cameras
from recon4d.refine.cameras.bundle_adjustment import (
    LOSS_SCALES,
    MIN_TRIANGULATION_ANGLE,
    FreeIntrinsics,
    triangulation_angles,
)
from recon4d.refine.cameras.hypotheses import FINE_LOSS_SCALES, CameraHypotheses, CameraHypothesis
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.cameras.scoring import score_tracks
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.tracks.located_tracks import LocatedTracks

SUFFICIENT_INLIER_FRACTION = 0.9
"""Fraction of inliers among the held-out tracks at which cameras are not adjusted again. Hand-tuned."""
SUFFICIENT_INLIER_FRACTIONS = (1.0, 0.9, 0.75)
"""Fractions of inliers at which the first, second and third starting point are not tried. Hand-tuned."""
FINAL_LOSS_SCALES = LOSS_SCALES[-2:]
"""Loss scales of the rounds that only change intrinsics, in pixels."""
MAX_READJUSTMENTS = 3
"""Largest number of times that cameras are adjusted again. Hand-tuned."""
MIN_READJUSTMENT_GAIN = 0.01
"""Smallest gain in mean log-likelihood after which cameras are adjusted once more. Hand-tuned."""
ROTATION_ONLY_FRACTION = 0.85
"""Rotation-only cameras are selected if they have at least this fraction of the held-out inliers of the best cameras:
translation, and a depth for each track, explain noise too. Hand-tuned."""
SIGNIFICANCE = 2.0
"""Smallest gain in log-likelihood that justifies other intrinsics or cameras, in standard errors: a camera that hardly
moves does not determine them. Hand-tuned."""
MIN_ROTATION_ONLY_GAIN = 0.05
"""Smallest mean gain in log-likelihood that justifies another focal length of cameras that only rotate: under small
rotations, lens distortion has more influence on it than the true value. Hand-tuned."""
MIN_PRINCIPAL_POINT_GAIN = 0.03
"""Smallest relative gain in mean log-likelihood that justifies another principal point. Hand-tuned."""
MIN_DISTORTION_CENTER_GAIN = 0.01
"""The same for a lens with radial distortion, whose center the principal point is too. Hand-tuned."""
MIN_DISTORTION_GAIN = 0.06
"""Smallest relative gain in mean log-likelihood that justifies radial distortion: with little parallax, it explains
noise. Hand-tuned."""
MIN_REVERSED_INLIER_FRACTION = 0.3
"""Smallest fraction of inliers of cameras whose depth reversal is tried. Hand-tuned."""
MAX_COST_RATIO = 1.6
"""Largest ratio of the costs of the best cameras of both orders for other intrinsics of both to be tried.
Hand-tuned."""
MIN_DEPTH_CORRELATION = 0.0
"""Smallest correlation between the depths of points and the predicted ones that counts as the same order of near and
far. Hand-tuned."""
DISORDER_PENALTY = 0.15
"""Relative increase of the negative log-likelihood by which cameras with another order of near and far than the
predicted one must be better: a mirror image fits nearly as well as the truth if there is little perspective.
Hand-tuned."""


@dataclass(frozen=True)
class CameraSelection:
    """The selected cameras and their scores."""

    hypothesis: CameraHypothesis
    """The selected hypothesis; that of the predicted cameras if none are better."""
    errors: Float[Tensor, " held_out"]
    """Mean reprojection error of each held-out track, in pixels (`TrackScores.errors`)."""
    inlier_fraction: float
    """Fraction of inliers among the held-out tracks."""
    costs: Float[Tensor, " fitted"]
    """Negative log-likelihood of each fitted track (`TrackScores.costs`)."""
    held_out_costs: Float[Tensor, " held_out"]
    """Negative log-likelihood of each held-out track."""
    points: Float[Tensor, "fitted 3"]
    """Triangulated points of the fitted tracks in world coordinates."""
    is_ordered: bool
    """Whether the depths of points have the predicted order of near and far."""
    is_rotation_only: bool = False
    """Whether these cameras only rotate."""
    failures: tuple[str, ...] = ()
    """Reasons why other hypotheses could not be computed."""

    @property
    def cost(self) -> float:
        """Mean negative log-likelihood, increased if near and far are interchanged."""
        mean = float(self.costs.mean())
        return mean if self.is_ordered else mean * (1 + DISORDER_PENALTY)

    @property
    def cameras(self) -> Cameras:
        """The selected cameras; the predicted ones of the hypotheses themselves if none are better."""
        return self.hypothesis.cameras

    @property
    def distortion(self) -> RadialDistortion:
        """Distortion of the lens."""
        return self.hypothesis.distortion

    @property
    def is_determined(self) -> Bool[Tensor, " time"]:
        """Whether tracks determine the camera of each frame."""
        return self.hypothesis.is_determined


def select_model(hypotheses: CameraHypotheses, held_out: LocatedTracks, inlier_threshold: float) -> CameraSelection:
    """Select the best cameras; those that only rotate if they are nearly as good.

    A camera that moves in front of a plane or of distant objects looks much like a rotating one with a longer focal
    length, and has a translation and a depth for each track to fit noise with. The simpler model is preferred.

    Args:
        hypotheses: The hypotheses, with the predicted scene and the fitted tracks.
        held_out: Tracks that no hypothesis is fitted to.
        inlier_threshold: Largest mean reprojection error of an inlier track, as a fraction of the longer side.

    Returns:
        The selected cameras.
    """
    selector = _Selector(hypotheses, held_out, inlier_threshold)
    rotation_only = selector.best_rotation_only()
    if rotation_only.inlier_fraction >= ROTATION_ONLY_FRACTION:  # no cameras can fit sufficiently more
        return rotation_only
    general = selector.best_general()
    is_simpler_model_enough = rotation_only.inlier_fraction >= ROTATION_ONLY_FRACTION * general.inlier_fraction
    return rotation_only if is_simpler_model_enough else general


def predicted_selection(
    hypotheses: CameraHypotheses, held_out: LocatedTracks, inlier_threshold: float
) -> CameraSelection:
    """Score the predicted cameras.

    Args:
        hypotheses: The hypotheses, with the predicted scene and the fitted tracks.
        held_out: Tracks that no hypothesis is fitted to.
        inlier_threshold: Largest mean reprojection error of an inlier track, as a fraction of the longer side.

    Returns:
        The predicted cameras and their scores.
    """
    return _Selector(hypotheses, held_out, inlier_threshold).predicted()


def depth_correlation(cameras: Cameras, tracks: LocatedTracks, points: Float[Tensor, "track 3"]) -> float:
    """Compute the correlation between the log depths of triangulated points and the predicted ones.

    Args:
        cameras: Cameras of all frames.
        tracks: Tracks with predicted depths.
        points: Triangulated points of the tracks in world coordinates.

    Returns:
        Pearson correlation in [-1, 1]; negative if near and far are interchanged; 1 if no point has parallax.
    """
    depths = tracks.reference_depths(points, cameras)
    has_depth = (depths > 0) & (triangulation_angles(cameras, tracks.tracks, points) >= MIN_TRIANGULATION_ANGLE)
    if int(has_depth.sum()) < 2:
        return 1.0
    return float(torch.corrcoef(torch.stack([depths[has_depth], tracks.depths[has_depth].double()]).log())[0, 1])


@dataclass(frozen=True)
class _Selector:
    hypotheses: CameraHypotheses
    held_out: LocatedTracks
    inlier_threshold: float

    def predicted(self) -> CameraSelection:
        """Score the predicted cameras."""
        cameras = self.hypotheses.scene.cameras
        is_determined = torch.ones(len(cameras.intrinsics), dtype=torch.bool)
        return self._score(CameraHypothesis(cameras, FreeIntrinsics(), is_determined))

    def best_general(self) -> CameraSelection:
        """Select among the predicted cameras and all adjusted ones."""
        predicted, failures = self.predicted(), []
        best, finalists = predicted, []
        for start, sufficient in zip(self.hypotheses.starting_points(), SUFFICIENT_INLIER_FRACTIONS, strict=False):
            if best.inlier_fraction >= sufficient:
                break
            found, reasons = self.hypotheses.adjusted(start)
            failures += reasons
            selection = self._better(best, map(self._score, found))
            if selection is not best:
                finalists += self._with_depth_reversal(self._resected(self._readjusted(selection)))
                best = min(finalists, key=lambda finalist: finalist.cost)
        if finalists and not best.is_ordered:
            finalists += self._with_depth_reversal(best)
        if finalists and self.hypotheses.refine_intrinsics:
            finalists = [self._with_other_intrinsics(finalist) for finalist in _best_of_each_order(finalists)]
        best = min([predicted, *finalists], key=lambda finalist: finalist.cost)
        return replace(best, failures=tuple(failures))

    def best_rotation_only(self) -> CameraSelection:
        """Select among the cameras that only rotate."""
        first, *others = map(self._score, self.hypotheses.rotation_only())
        return replace(self._better(first, others, MIN_ROTATION_ONLY_GAIN), is_rotation_only=True)

    def _readjusted(self, best: CameraSelection) -> CameraSelection:
        """Adjust cameras again while they become likelier."""
        for _ in range(MAX_READJUSTMENTS):
            if best.inlier_fraction >= SUFFICIENT_INLIER_FRACTION:
                return best
            again = self._readjust(best, best.hypothesis.free, FINE_LOSS_SCALES)
            if again is None or again.cost >= best.cost:
                return best
            gain, best = best.cost - again.cost, again
            if gain < MIN_READJUSTMENT_GAIN:
                return best
        return best

    def _resected(self, best: CameraSelection) -> CameraSelection:
        """Replace the cameras of frames that fit badly, if the result is likelier."""
        for _ in range(MAX_READJUSTMENTS):
            try:
                resected = self.hypotheses.resected(best.hypothesis)
            except NoSolution:
                return best
            if resected is None or (selection := self._score(resected)).cost >= best.cost:
                return best
            best = self._readjusted(selection)
        return best

    def _with_depth_reversal(self, best: CameraSelection) -> list[CameraSelection]:
        """Add the depth reversal of cameras that fit badly or contradict the predicted order of near and far."""
        if best.inlier_fraction < MIN_REVERSED_INLIER_FRACTION:
            return [best]
        if best.is_ordered and best.inlier_fraction >= SUFFICIENT_INLIER_FRACTION:
            return [best]
        found, _ = self.hypotheses.depth_reversed(best.hypothesis)
        return [best, *(self._readjusted(self._score(hypothesis)) for hypothesis in found)]

    def _with_other_intrinsics(self, best: CameraSelection) -> CameraSelection:
        """Try another focal length, principal point and radial distortion, one after the other.

        The principal point is tried again with a distorted lens, because distortion hides it from the first trial.
        """
        choices: tuple[tuple[Callable[[FreeIntrinsics], FreeIntrinsics], float], ...] = (
            (lambda free: replace(free, focal_length=True), 0.0),
            (lambda free: replace(free, focal_length=True, principal_point=True), MIN_PRINCIPAL_POINT_GAIN),
            (lambda free: replace(free, focal_length=True, num_coefficients=1), MIN_DISTORTION_GAIN),
            (lambda free: replace(free, focal_length=True, num_coefficients=2), MIN_DISTORTION_GAIN),
            (
                lambda free: replace(free, principal_point=free.principal_point or free.num_coefficients > 0),
                MIN_DISTORTION_CENTER_GAIN,
            ),
        )
        for choose, min_gain in choices:
            free = choose(best.hypothesis.free)
            if free == best.hypothesis.free or (free.num_coefficients and not self.hypotheses.find_distortion):
                continue
            found = self._readjust(best, free, FINAL_LOSS_SCALES)
            best = self._better(best, [] if found is None else [found], min_gain * best.cost)
        return best

    def _readjust(
        self, best: CameraSelection, free: FreeIntrinsics, loss_scales: tuple[float, ...]
    ) -> CameraSelection | None:
        try:
            return self._score(self.hypotheses.readjusted(best.hypothesis, free, loss_scales))
        except NoSolution:
            return None

    def _better(
        self, best: CameraSelection, others: Iterable[CameraSelection], min_gain: float = 0.0
    ) -> CameraSelection:
        """Replace `best` by each selection that is likelier; by a significant margin if intrinsics were fitted."""
        for selection in others:
            gains = best.costs - selection.costs
            needed = max(chance_gain(gains), min_gain) if selection.hypothesis.free.focal_length else 0.0
            if best.cost - selection.cost > needed:
                best = selection
        return best

    def _score(self, hypothesis: CameraHypothesis) -> CameraSelection:
        size, cameras, tracks = self.hypotheses.scene.size, hypothesis.cameras, self.hypotheses.tracks
        fitted = score_tracks(cameras, tracks, size, hypothesis.distortion)
        held_out = score_tracks(cameras, self.held_out, size, hypothesis.distortion)
        is_inlier = held_out.errors <= self.inlier_threshold * max(size)
        return CameraSelection(
            hypothesis=hypothesis,
            errors=held_out.errors,
            inlier_fraction=float(is_inlier.double().mean()),
            costs=fitted.costs,
            held_out_costs=held_out.costs,
            points=fitted.points,
            is_ordered=depth_correlation(cameras, tracks, fitted.points) >= MIN_DEPTH_CORRELATION,
        )


def _best_of_each_order(finalists: list[CameraSelection]) -> list[CameraSelection]:
    """Select the likeliest cameras with and without the predicted order of near and far, if both are likely."""
    by_order = ([f for f in finalists if f.is_ordered is is_ordered] for is_ordered in (True, False))
    best = [min(group, key=lambda finalist: finalist.cost) for group in by_order if group]
    limit = MAX_COST_RATIO * min(finalist.cost for finalist in best)
    return [finalist for finalist in best if finalist.cost <= limit]


def chance_gain(gains: Float[Tensor, " track"]) -> float:
    """Compute the mean gain in log-likelihood that may be due to chance.

    Args:
        gains: Gain of each track.

    Returns:
        `SIGNIFICANCE` standard errors of the mean.
    """
    return SIGNIFICANCE * float(gains.std()) / math.sqrt(len(gains))
