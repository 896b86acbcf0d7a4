"""Learning rate schedule as a pure function of the step, so that resuming a run needs no state."""

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

    def __post_init__(self) -> None:
        if self.total_steps < 1 or not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"a schedule has {self.warmup_steps} warm-up steps and {self.total_steps} steps in total;"
                " wanted at least 1 step, and from 0 to all steps of warm-up"
            )
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"a schedule has a decay share of {self.decay_share}; wanted a value from 0 to 1")

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
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * remaining
