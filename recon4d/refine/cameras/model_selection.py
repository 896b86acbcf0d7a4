"""Selection of the cameras that explain the tracks best, among the predicted ones and all hypotheses.

Hypotheses are compared by the likelihood of the fitted tracks after re-triangulation. Those with other intrinsics must
win by a statistically significant margin. Held-out tracks, which no cameras are fitted to, decide between cameras that
move and cameras that only rotate.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from recon4d.records import Cameras
from recon4d.refine.cameras.hypotheses import CameraHypotheses, CameraHypothesis
from recon4d.refine.cameras.scoring import negative_log_likelihoods, track_errors
from recon4d.refine.tracks.located_tracks import LocatedTracks

SUFFICIENT_INLIER_FRACTION = 0.9
"""Fraction of inliers among the held-out tracks at which no further starting points are tried. Hand-tuned."""
NUM_FIRST_STARTS = 2
"""Number of starting points that are always tried."""
ROTATION_ONLY_FRACTION = 0.85
"""Rotation-only cameras are selected if they have at least this fraction of the held-out inliers of the best cameras:
translation, and a depth for each track, explain noise too. Hand-tuned."""
SIGNIFICANCE = 2.0
"""Smallest gain in log-likelihood that justifies other intrinsics, in standard errors: a camera that hardly moves does
not determine them. Hand-tuned."""
MIN_GAIN = 0.05
"""Smallest mean gain in log-likelihood that justifies another focal length of cameras that only rotate: under small
rotations, lens distortion has more influence on it than the true value. Hand-tuned."""


@dataclass(frozen=True)
class CameraSelection:
    """The selected cameras and their scores."""

    cameras: Cameras
    """The predicted cameras of the hypotheses themselves if none are better."""
    errors: Float[Tensor, " held_out"]
    """Mean reprojection error of each held-out track, in pixels (`track_errors`)."""
    inlier_fraction: float
    """Fraction of inliers among the held-out tracks."""
    negative_log_likelihoods: Float[Tensor, " fitted"]
    """Negative log-likelihood of each fitted track (`negative_log_likelihoods`)."""
    is_rotation_only: bool = False
    """Whether these cameras only rotate."""
    failures: tuple[str, ...] = ()
    """Reasons why other hypotheses could not be computed."""


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

    Raises:
        NoSolution: If tracks cannot be triangulated.
    """
    selector = _Selector(hypotheses, held_out, inlier_threshold)
    rotation_only = selector.best_rotation_only()
    if rotation_only.inlier_fraction >= ROTATION_ONLY_FRACTION:  # no cameras can fit sufficiently more
        return rotation_only
    general = selector.best_general()
    is_simpler_model_enough = rotation_only.inlier_fraction >= ROTATION_ONLY_FRACTION * general.inlier_fraction
    return rotation_only if is_simpler_model_enough else general


@dataclass(frozen=True)
class _Selector:
    hypotheses: CameraHypotheses
    held_out: LocatedTracks
    inlier_threshold: float

    def best_general(self) -> CameraSelection:
        """Select among the predicted cameras and all adjusted ones."""
        best, failures = self._score(self.hypotheses.scene.cameras), []
        for number, start in enumerate(self.hypotheses.starting_points()):
            if number >= NUM_FIRST_STARTS and best.inlier_fraction >= SUFFICIENT_INLIER_FRACTION:
                break
            found, reasons = self.hypotheses.adjusted(start)
            failures += reasons
            best = self._better(best, found, min_gain=0.0)
        return replace(best, failures=tuple(failures))

    def best_rotation_only(self) -> CameraSelection:
        """Select among the cameras that only rotate."""
        first, *others = self.hypotheses.rotation_only()
        best = self._better(self._score(first.cameras), others, MIN_GAIN)
        return replace(best, is_rotation_only=True)

    def _better(
        self, best: CameraSelection, hypotheses: Iterable[CameraHypothesis], min_gain: float
    ) -> CameraSelection:
        """Replace `best` by each hypothesis that is likelier; by a significant margin if its intrinsics differ."""
        for hypothesis in hypotheses:
            selection = self._score(hypothesis.cameras)
            gain = best.negative_log_likelihoods - selection.negative_log_likelihoods
            by_chance = SIGNIFICANCE * float(gain.std()) / math.sqrt(len(gain))
            if gain.mean() > (0.0 if hypothesis.keeps_intrinsics else max(by_chance, min_gain)):
                best = selection
        return best

    def _score(self, cameras: Cameras) -> CameraSelection:
        size = self.hypotheses.scene.size
        errors = track_errors(cameras, self.held_out, size)
        is_inlier = errors <= self.inlier_threshold * max(size)
        costs = negative_log_likelihoods(cameras, self.hypotheses.tracks, size)
        return CameraSelection(cameras, errors, float(is_inlier.double().mean()), costs)
