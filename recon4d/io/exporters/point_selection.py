"""Which pixels of a scene become points in what is taken along, and which of them stand still."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.io.point_cloud import CONFIDENCE_PERCENTILE, NoConfidentPointsError, confident_pixels
from recon4d.records import Scene

MOVING = 0.5
"""From this probability on a pixel counts as moving; where nothing is said (NaN) it counts as still."""


@dataclass(frozen=True)
class PointSelection:
    """What makes a pixel good enough to be a point, and how many there may be.

    `drop` is the per cent of the known pixels that are left out, the least confident first; `min_confidence` leaves out
    what is below it whatever its rank; `max_points` thins what is left, evenly over frames and pixels.
    """

    drop: float = CONFIDENCE_PERCENTILE
    min_confidence: float = 0.0
    max_points: int = 500_000

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 100:
            raise ValueError(f"the share to drop is {self.drop:g} %; wanted 0 to below 100")
        if not self.min_confidence >= 0:
            raise ValueError(f"the least confidence is {self.min_confidence:g}; wanted at least 0")
        if self.max_points < 1:
            raise ValueError(f"max_points is {self.max_points}; wanted at least 1")


def chosen_pixels(scene: Scene, choice: PointSelection) -> Bool[Tensor, "time height width"]:
    """The confident pixels, moving or not. Raises `NoConfidentPointsError` where there is none."""
    chosen = confident_pixels(scene, choice.drop, choice.min_confidence)
    if not chosen.any():
        most = float(scene.depth_confidence.nan_to_num().max())
        raise NoConfidentPointsError(
            "no pixel has a known depth with enough confidence, away from depth edges "
            f"(the greatest confidence is {most:.3g}, asked for was {choice.min_confidence:g})"
        )
    return chosen


def static_pixels(scene: Scene, choice: PointSelection) -> Bool[Tensor, "time height width"]:
    """The confident pixels that do not move. Raises `NoConfidentPointsError` where there is none."""
    still = chosen_pixels(scene, choice) & ~is_dynamic(scene)
    if not still.any():
        raise NoConfidentPointsError("every confident pixel moves: there is no static part")
    return still


def is_dynamic(scene: Scene) -> Bool[Tensor, "*batch time height width"]:
    """Where the scene says that the surface moves; nowhere where it says nothing."""
    return torch.where(torch.isfinite(scene.dynamic), scene.dynamic, torch.zeros_like(scene.dynamic)) > MOVING
