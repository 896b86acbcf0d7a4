"""Conversion of lengths to meters if the metric scale of the ground truth is known."""

import math
from dataclasses import replace

from recon4d.eval.metrics.score import Score
from recon4d.records import Scene

UNKNOWN_UNIT = "in the truth's unit, which is not known in meters"
"""Note of lengths that cannot be converted to meters."""


def meters_of(truth: Scene) -> float | None:
    """Return the length of the scene's unit.

    Args:
        truth: A scene without batch axes.

    Returns:
        Meters per unit; None if `metres_per_unit` is not a positive finite number.
    """
    meters = float(truth.metres_per_unit)
    return meters if math.isfinite(meters) and meters > 0 else None


def unit_of(truth: Scene) -> tuple[float, str]:
    """Return the factor that converts lengths to meters, and a note if it is unknown.

    Args:
        truth: A scene without batch axes.

    Returns:
        Meters per unit and an empty note; 1 and `UNKNOWN_UNIT` if the length of the unit is unknown.
    """
    meters = meters_of(truth)
    return (1.0, UNKNOWN_UNIT) if meters is None else (meters, "")


def length_score(score: Score, truth: Scene) -> Score:
    """Convert a length score to meters.

    Args:
        score: Score whose value is a length in the unit of the truth.
        truth: Scene that defines the unit.

    Returns:
        The score in meters. If the length of the unit is unknown, the value is unchanged and the note says so.
    """
    meters, note = unit_of(truth)
    notes = "; ".join(filter(None, (score.note, note)))
    return replace(score, value=score.value * meters, note=notes)
