"""How the learning rate changes over a training: pure functions of the step, so that resuming needs no state."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant rate, and a linear way down over the last share of the training.

    Steps may be fractional: a training that is given minutes rather than steps asks at its share of `total_steps`.
    """

    warmup_steps: int
    """Steps until the full rate is reached; 0 for none. Step 0 already moves, at 1 / `warmup_steps` of the rate."""
    total_steps: int
    decay_share: float = 0.32
    """The share of `total_steps`, at the end, over which the rate falls; 0 for a constant rate."""
    final: float = 0.0
    """The multiplier at `total_steps` and after."""

    def __post_init__(self) -> None:
        if self.total_steps < 1 or not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"a schedule has {self.warmup_steps} warm-up steps of {self.total_steps} steps;"
                " wanted 0 or more of 1 or more, and no more than all"
            )
        if not (0 <= self.decay_share <= 1 and 0 <= self.final <= 1):
            raise ValueError(
                f"a schedule has a decay share of {self.decay_share} and ends at {self.final}; wanted both from 0 to 1"
            )

    def multiplier(self, step: float) -> float:
        """What the learning rates are multiplied by at `step`, counted from 0: warm-up, constant, linear decay."""
        decay_steps = self.decay_share * self.total_steps
        left = max(0.0, self.total_steps - step)
        remaining = min(1.0, left / decay_steps) if decay_steps else 1.0
        return _warm_up(self, step) * _between(self.final, remaining)


def cosine_multiplier(schedule: Schedule, step: float) -> float:
    """Warm-up, then half a cosine from 1 to `schedule.final` (Loshchilov & Hutter 2017); `decay_share` has no part."""
    cosine_steps = max(1, schedule.total_steps - schedule.warmup_steps)
    done = min(1.0, max(0.0, step - schedule.warmup_steps) / cosine_steps)
    return _warm_up(schedule, step) * _between(schedule.final, 0.5 * (1 + math.cos(math.pi * done)))


def _warm_up(schedule: Schedule, step: float) -> float:
    return min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0


def _between(final: float, remaining: float) -> float:
    """From 1 where all remains to `final` where nothing does."""
    return final + (1 - final) * remaining
