"""Which cameras explain tracks best: the network's, adjusted ones, those of COLMAP's mapper, or such that only turn.

Of each the likelihood is taken of all tracks, each with the best point that the cameras allow. Where another lens comes
with it, it must be more than chance gives, and a way through space must be worth having. Tracks that no cameras were
fitted to are the judges: what is answered must be better on them, too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from recon4d.records import Cameras, Scene
from recon4d.refine.cameras.hypotheses import (
    CameraHypothesis,
    LocatedTracks,
    RefineConfig,
    hypotheses,
    rotation_only_hypotheses,
    starts,
)
from recon4d.refine.cameras.scoring import negative_log_likelihoods, track_errors


@dataclass(frozen=True)
class CameraSelection:
    """The best cameras that were found; the scene's own where none are better."""

    cameras: Cameras
    errors: Float[Tensor, " judge"]
    """Of every judge, in pixels (`track_errors`)."""
    exact_share: float
    """Of the judges, those that the cameras fit exactly."""
    misfits: Float[Tensor, " fitted"]
    """Of every fitted track (`track_misfits`)."""
    turns: bool = False
    """Whether these cameras only turn."""
    reasons: tuple[str, ...] = ()
    """Why other cameras could not be found."""


def select_cameras(scene: Scene, fitted: LocatedTracks, judges: LocatedTracks, config: RefineConfig) -> CameraSelection:
    """The cameras that fit the judges best, or those that only turn, where these fit nearly as many of them exactly.

    A camera that moves before something flat, or far away, looks much like one that turns with a longer lens, and has
    a way through space and a depth for each track to explain the rest with; the simpler explanation is taken.
    """
    search = _Search(scene, fitted, judges, config)
    turning = search.best_turning()
    if turning.exact_share >= config.turning_share:  # nothing can fit so many more
        return turning
    moving = search.best()
    return turning if turning.exact_share >= config.turning_share * moving.exact_share else moving


@dataclass(frozen=True)
class _Search:
    scene: Scene
    fitted: LocatedTracks
    judges: LocatedTracks
    config: RefineConfig

    def best(self) -> CameraSelection:
        """The best of all cameras that may move, the scene's own among them."""
        choice, reasons = self._choice(self.scene.cameras), []
        for number, start in enumerate(starts(self.config)):
            if number > 1 and choice.exact_share >= self.config.plenty_exact_share:
                break
            found = list(hypotheses(start, self.scene, self.fitted, self.config))
            reasons += [reason for reason in found if isinstance(reason, str)]
            choice = self._better(choice, (one for one in found if isinstance(one, CameraHypothesis)), least_gain=0.0)
        return replace(choice, reasons=tuple(reasons))

    def best_turning(self) -> CameraSelection:
        """The best of those that only turn."""
        with_lens, *others = rotation_only_hypotheses(self.scene, self.fitted, self.config)
        choice = self._better(self._choice(with_lens.cameras), others, self.config.least_gain)
        return replace(choice, is_rotation_only=True)

    def _better(self, best: CameraSelection, some: Iterable[CameraHypothesis], least_gain: float) -> CameraSelection:
        """The best so far, or a candidate that is likelier; one with another lens must be by more than chance, and by
        `least_gain`."""
        for candidate in some:
            choice = self._choice(candidate.cameras)
            gain = best.misfits - choice.misfits
            by_chance = self.config.significance * float(gain.std()) / math.sqrt(len(gain))
            if gain.mean() > (0.0 if candidate.keeps_lens else max(by_chance, least_gain)):
                best = choice
        return best

    def _choice(self, cameras: Cameras) -> CameraSelection:
        errors = track_errors(cameras, self.judges, self.scene.size)
        is_exact = errors <= self.config.exact_error * max(self.scene.size)
        misfits = negative_log_likelihoods(cameras, self.fitted, self.scene.size, self.config)
        return CameraSelection(cameras, errors, float(is_exact.double().mean()), misfits)
