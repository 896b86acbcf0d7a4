"""Lengths in meters where the truth knows how long its unit is, and a note where it does not."""

import math
from dataclasses import replace

from recon4d.eval.metrics.score import Score
from recon4d.records import Scene

UNKNOWN_UNIT = "in the truth's unit, which is not known in meters"


def meters_of(truth: Scene) -> float | None:
    """How many meters long the scene's unit is; None where that is not known."""
    meters = float(truth.metres_per_unit)
    return meters if math.isfinite(meters) and meters > 0 else None


def unit_of(truth: Scene) -> tuple[float, str]:
    """Meters in the truth's unit and an empty note; 1 and a note that says so where they are not known."""
    meters = meters_of(truth)
    return (1.0, UNKNOWN_UNIT) if meters is None else (meters, "")


def length_score(score: Score, truth: Scene) -> Score:
    """A score whose value is a length in the truth's unit, in meters; as it is, with a note, where that is unknown."""
    meters, note = unit_of(truth)
    notes = "; ".join(filter(None, (score.note, note)))
    return replace(score, value=score.value * meters, note=notes)
