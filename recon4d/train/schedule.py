"""Learning rate schedules as pure functions of the step, so that resuming a run needs no state."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant rate, then a linear decay.

    Steps may be fractional: a training that is limited by time passes its fraction of `total_steps`.
    """

    warmup_steps: int
    """Steps until the full rate is reached; 0 for no warm-up. Step 0 has 1 / `warmup_steps` of the rate."""
    total_steps: int
    """Number of steps, at least 1."""
    decay_share: float = 0.32
    """Fraction of `total_steps`, at the end, over which the rate falls; 0 for a constant rate."""
    final: float = 0.0
    """Multiplier at `total_steps` and after, from 0 to 1."""

    def __post_init__(self) -> None:
        if self.total_steps < 1 or not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"a schedule has {self.warmup_steps} warm-up steps and {self.total_steps} steps in total;"
                " wanted at least 1 step, and from 0 to all steps of warm-up"
            )
        if not (0 <= self.decay_share <= 1 and 0 <= self.final <= 1):
            raise ValueError(
                f"a schedule has a decay share of {self.decay_share} and ends at {self.final}; wanted both from 0 to 1"
            )

    def multiplier(self, step: float) -> float:
        """Compute the factor on the learning rates.

        Args:
            step: Number of the step, counted from 0.

        Returns:
            The factor, from 0 to 1.
        """
        decay_steps = self.decay_share * self.total_steps
        remaining_steps = max(0.0, self.total_steps - step)
        remaining = min(1.0, remaining_steps / decay_steps) if decay_steps else 1.0
        return _warmup_multiplier(self, step) * _decay_multiplier(self.final, remaining)


def cosine_multiplier(schedule: Schedule, step: float) -> float:
    """Compute the factor on the learning rates for a cosine decay (Loshchilov & Hutter 2017).

    Args:
        schedule: Warm-up, number of steps and final multiplier; its `decay_share` is ignored.
        step: Number of the step, counted from 0.

    Returns:
        The factor: linear warm-up, then half a cosine from 1 to `schedule.final`.
    """
    cosine_steps = max(1, schedule.total_steps - schedule.warmup_steps)
    done = min(1.0, max(0.0, step - schedule.warmup_steps) / cosine_steps)
    return _warmup_multiplier(schedule, step) * _decay_multiplier(schedule.final, 0.5 * (1 + math.cos(math.pi * done)))


def _warmup_multiplier(schedule: Schedule, step: float) -> float:
    return min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0


def _decay_multiplier(final: float, remaining: float) -> float:
    """Interpolate between `final` (nothing remains of the decay) and 1 (all of it remains)."""
    return final + (1 - final) * remaining
