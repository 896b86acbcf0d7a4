"""Loops that confirm each other, or that the path of the camera confirms: the others are not used.

Two loops are consistent if the cycle closes that leads through both and, between them, along short parts of the path,
where drift is small (pairwise consistency maximization; Mangelson et al. 2018). The consistent set with the most
inliers is used. A single loop has no other that confirms it: it must not move the windows farther than drift does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, rotation_angle, similarity_scale
from recon4d.inference.windows.pose_graph import Edge


@dataclass(frozen=True)
class Tolerance:
    """Difference of two similarities that counts as none."""

    degrees: float
    """Angle in degrees."""
    log_scale: float
    """Difference of the logarithm of scale."""
    translation: float
    """Translation as a fraction of a length of the scene."""

    def times(self, factor: float) -> "Tolerance":
        """Multiply the tolerance.

        Args:
            factor: The factor.

        Returns:
            The larger or smaller tolerance.
        """
        return Tolerance(self.degrees * factor, self.log_scale * factor, self.translation * factor)


@dataclass(frozen=True)
class Loop:
    """A measured loop."""

    edge: Edge
    """The similarity between the early and the late window."""
    num_inliers: int
    """Number of places in a frame that agree with it."""


STEP_DRIFT = Tolerance(degrees=2.0, log_scale=0.1, translation=0.1)
"""Drift from one window to the next between two loops; it grows with the square root of their number. Hand-tuned."""
LARGEST_DRIFT = Tolerance(degrees=4.0, log_scale=0.15, translation=0.2)
"""Largest drift from one window to the next that a single loop may correct; it grows likewise. Hand-tuned."""


def differs(b_from_a: Float[Tensor, "4 4"], other: Float[Tensor, "4 4"], length: float, tolerance: Tolerance) -> bool:
    """Check whether two similarities differ.

    Args:
        b_from_a: A similarity.
        other: Another similarity between the same frames.
        length: Length in the unit of b to which translations are compared.
        tolerance: Largest difference that counts as none.

    Returns:
        Whether their difference exceeds the tolerance.
    """
    scale = similarity_scale(b_from_a) / similarity_scale(other)
    turn = (b_from_a[:3, :3] / similarity_scale(b_from_a)).T @ (other[:3, :3] / similarity_scale(other))
    return bool(
        rotation_angle(turn).rad2deg() > tolerance.degrees
        or scale.log().abs() > tolerance.log_scale
        or (b_from_a[:3, 3] - other[:3, 3]).norm() > tolerance.translation * length
    )


def consistent_loops(
    loops: Sequence[Loop], world_from_window: Float[Tensor, "window 4 4"], length: float
) -> list[Loop]:
    """Select the loops that can be trusted.

    Args:
        loops: Measured loops.
        world_from_window: Placement of all windows by their chain, in float64.
        length: A typical depth, in the unit of the world.

    Returns:
        The largest consistent set; empty if nothing confirms any loop.
    """
    ordered = sorted(loops, key=lambda loop: (-loop.num_inliers, loop.edge.a, loop.edge.b))
    best: list[Loop] = []
    for first in ordered:
        group = [first]
        for other in ordered:
            if other is not first and all(_agree(other, member, world_from_window, length) for member in group):
                group.append(other)
        if sum(loop.num_inliers for loop in group) > sum(loop.num_inliers for loop in best):
            best = group
    if len(best) == 1:
        return [loop for loop in ordered if _is_plausible(loop, world_from_window, length)][:1]
    return best


def _agree(one: Loop, other: Loop, world_from_window: Float[Tensor, "window 4 4"], length: float) -> bool:
    """Check whether the cycle through two loops closes."""
    a, b = one.edge.a, one.edge.b
    early = invert(world_from_window[a]) @ world_from_window[other.edge.a]
    late = invert(world_from_window[other.edge.b]) @ world_from_window[b]
    predicted = early @ other.edge.a_from_b @ late
    steps = abs(other.edge.a - a) + abs(other.edge.b - b)
    own_length = length / float(similarity_scale(world_from_window[a]))
    return not differs(one.edge.a_from_b, predicted, own_length, STEP_DRIFT.times(math.sqrt(1 + steps)))


def _is_plausible(loop: Loop, world_from_window: Float[Tensor, "window 4 4"], length: float) -> bool:
    """Check whether drift may be as large as a loop says."""
    a, b = loop.edge.a, loop.edge.b
    by_path = invert(world_from_window[a]) @ world_from_window[b]
    own_length = length / float(similarity_scale(world_from_window[a]))
    return not differs(loop.edge.a_from_b, by_path, own_length, LARGEST_DRIFT.times(math.sqrt(b - a)))
