"""Which cameras explain tracks best: the network's, adjusted ones, those of COLMAP's mapper, or such that only turn.

Tracks that none of them was fitted to are the judges: each gets the best point that the cameras allow, and the smallest
reprojection error wins. Only where another lens comes with it, or a way through space, must the gain be worth that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from recon4d.records import Cameras, Scene
from recon4d.sfm.candidates import (
    Candidate,
    LocatedTracks,
    RefineConfig,
    candidates,
    starts,
    track_errors,
    turning_candidates,
)


@dataclass(frozen=True)
class Choice:
    """The best cameras that were found; the scene's own where none are better."""

    cameras: Cameras
    errors: Float[Tensor, " track"]
    """Of every judge, in pixels (`track_errors`)."""
    exact_share: float
    """Of the judges, those that the cameras fit exactly."""
    turns: bool = False
    """Whether these cameras only turn."""
    reasons: tuple[str, ...] = ()
    """Why other cameras could not be found."""


def choose_cameras(scene: Scene, fitted: LocatedTracks, judges: LocatedTracks, config: RefineConfig) -> Choice:
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

    def best(self) -> Choice:
        """The best of all cameras that may move, the scene's own among them."""
        choice, reasons = self._choice(self.scene.cameras), []
        for number, start in enumerate(starts(self.config)):
            if number > 1 and choice.exact_share >= self.config.plenty_exact_share:
                break
            found = list(candidates(start, self.scene, self.fitted, self.config))
            reasons += [reason for reason in found if isinstance(reason, str)]
            choice = self._better(choice, (one for one in found if isinstance(one, Candidate)), least_gain=0.0)
        return replace(choice, reasons=tuple(reasons))

    def best_turning(self) -> Choice:
        """The best of those that only turn."""
        with_lens, *others = turning_candidates(self.scene, self.fitted, self.config)
        choice = self._better(self._choice(with_lens.cameras), others, self.config.least_gain)
        return replace(choice, turns=True)

    def _better(self, best: Choice, some: Iterable[Candidate], least_gain: float) -> Choice:
        """The best so far, or a candidate that is better; one with another lens must be by more than chance, and by
        `least_gain` of the error."""
        for candidate in some:
            choice = self._choice(candidate.cameras)
            gain = best.errors - choice.errors
            by_chance = self.config.significance * float(gain.std()) / math.sqrt(len(gain))
            least = 0.0 if candidate.keeps_lens else max(by_chance, least_gain * float(best.errors.mean()))
            if gain.mean() > least:
                best = choice
        return best

    def _choice(self, cameras: Cameras) -> Choice:
        errors = track_errors(cameras, self.judges, self.scene.size)
        is_exact = errors <= self.config.exact_error * max(self.scene.size)
        return Choice(cameras, errors, float(is_exact.double().mean()))
