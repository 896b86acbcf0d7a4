"""Length of a scene's unit in meters from measured positions: GPS, or a known distance between two cameras."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import fit_similarity, similarity_scale, transform_points
from recon4d.io.frame_pairing import bare_name
from recon4d.io.gps import GpsPositions
from recon4d.records import Clip, Rig, Scene

MIN_POSITIONS = 3
"""Smallest number of positions that determine a similarity."""
MAX_RELATIVE_ERROR = 0.25
"""Largest expected relative error of the scale. Hand-tuned."""
MAX_RESIDUAL = 4.0
"""Largest median difference between cameras and positions, in standard errors of a position. Hand-tuned."""
NUM_DRAWS = 300
"""Number of random triples of positions from which the fit starts. Hand-tuned: one without outliers is among them even
if half of the positions are wrong."""
NUM_STEPS = 20
"""Steps of iteratively reweighted fits. Hand-tuned."""


@dataclass(frozen=True)
class GpsFit:
    """Metric scale of a scene from GPS positions."""

    metres_per_unit: float
    """Length of the unit in meters."""
    num_positions: int
    """Number of frames with a position."""
    span: float
    """Largest distance between two positions in meters."""
    residual: float
    """Median distance between positions and fitted cameras in meters."""
    relative_error: float
    """Expected standard error of the scale, as a fraction."""

    def __str__(self) -> str:
        return (
            f"GPS: the unit is {self.metres_per_unit:.3g} m long (+- {100 * self.relative_error:.0f} %), from "
            f"{self.num_positions} positions within {self.span:.3g} m, which differ by {self.residual:.2g} m (median)"
        )


def check_gps(gps: GpsPositions) -> float:
    """Check that positions can determine a scale.

    Args:
        gps: Measured positions.

    Returns:
        The expected standard error of the scale, as a fraction.

    Raises:
        UserError: If there are too few positions, or if they lie too close together compared to their error.
    """
    positions = gps.positions[gps.positions.isfinite().all(dim=1)]
    if len(positions) < MIN_POSITIONS:
        raise UserError(f"{len(positions)} frames have a GPS position; wanted at least {MIN_POSITIONS}")
    span = float(torch.pdist(positions).max())
    spread = float((positions - positions.mean(dim=0)).square().sum().sqrt())
    relative_error = gps.error / max(spread, 1e-9)
    if span <= gps.error or relative_error > MAX_RELATIVE_ERROR:
        raise UserError(
            f"the GPS positions lie within {span:.3g} m and have an error of {gps.error:.3g} m, which does not "
            "determine the scale; wanted more pictures, or pictures farther apart"
        )
    return relative_error


def fit_gps_scale(scene: Scene, gps: GpsPositions, seed: int = 0) -> GpsFit:
    """Fit a similarity from cameras to GPS positions, robustly, and return its scale.

    The fit starts from the triple of positions with the smallest median residual (least median of squares, Rousseeuw
    1984), and continues with the weights of the Cauchy loss at the scale of the GPS error.

    Args:
        scene: A single scene.
        gps: Measured positions of its frames.
        seed: Seed of the triples.

    Returns:
        The scale and how well both agree.

    Raises:
        UserError: If there are too few positions or cameras, if positions lie too close together compared to their
            error, or if they contradict the cameras.
    """
    centers = scene.cameras.centers.double()
    is_known = gps.positions.isfinite().all(dim=1) & centers.isfinite().all(dim=1)
    centers, positions = centers[is_known], gps.positions[is_known]
    relative_error = check_gps(GpsPositions(positions, gps.error))
    if not float(torch.pdist(centers).max()) > 0:
        raise UserError("all cameras are at one place, so that GPS positions do not determine the scale")
    world = _robust_similarity(centers, positions, gps.error, seed)
    residual = float(_residuals(world, centers, positions).median())
    scale = float(similarity_scale(world))
    if residual > MAX_RESIDUAL * gps.error or not scale > 0:
        raise UserError(
            f"the cameras contradict the GPS positions: they differ by {residual:.3g} m (median), and the positions "
            f"have an error of {gps.error:.3g} m"
        )
    return GpsFit(scale, len(positions), float(torch.pdist(positions).max()), residual, relative_error)


def baseline_scale(scene: Scene, clip: Clip, first: str, second: str, meters: float) -> float:
    """Compute the length of the unit from the distance between two pictures or two cameras of a rig.

    Args:
        scene: A single scene.
        clip: Its clip.
        first: Name of a picture, with or without folders and suffix, or of a camera of the rig; or a frame number.
        second: The other one.
        meters: Distance between both in meters, above 0. Of cameras of a rig, the median distance counts.

    Returns:
        Length of the unit in meters.

    Raises:
        UserError: If a name fits no frame or several, if both are at one place, or if `meters` is not above 0.
    """
    pairs = find_baseline(clip, first, second)
    scales = sorted(scene.cameras.metres_per_unit(*pair, meters) for pair in pairs)
    return scales[len(scales) // 2]


def find_baseline(clip: Clip, first: str, second: str) -> list[tuple[int, int]]:
    """Find the frames between which a distance is known.

    Args:
        clip: The clip.
        first: As for `baseline_scale`.
        second: The other one.

    Returns:
        Pairs of frames: one, or those of two cameras of a rig at all moments.

    Raises:
        UserError: If a name fits no frame or several, or both are the same.
    """
    if first == second:
        raise UserError(f"the baseline is from {first} to itself; wanted two pictures or two cameras of a rig")
    if clip.rig is not None and {first, second} <= set(clip.rig.names):
        return _pairs_of_cameras(clip.rig, first, second)
    return [(_frame_called(clip, first), _frame_called(clip, second))]


def with_metric_unit(scene: Scene, metres_per_unit: float) -> Scene:
    """Set the length of the unit.

    Args:
        scene: The scene.
        metres_per_unit: Length in meters.

    Returns:
        The same scene with this length.
    """
    return replace(scene, metres_per_unit=torch.full_like(scene.metres_per_unit, metres_per_unit))


def _robust_similarity(
    centers: Float64[Tensor, "n 3"], positions: Float64[Tensor, "n 3"], error: float, seed: int
) -> Float64[Tensor, "4 4"]:
    generator = np.random.default_rng(seed)
    best, smallest = fit_similarity(centers, positions), math.inf
    for _ in range(NUM_DRAWS):
        drawn = torch.from_numpy(generator.choice(len(centers), MIN_POSITIONS, replace=False))
        found = fit_similarity(centers[drawn], positions[drawn])
        median = float(_residuals(found, centers, positions).median())
        if median < smallest:
            best, smallest = found, median
    for _ in range(NUM_STEPS):
        weights = 1 / (1 + (_residuals(best, centers, positions) / error).square())
        best = fit_similarity(centers, positions, weights)
    return best


def _residuals(world: Tensor, centers: Tensor, positions: Tensor) -> Float64[Tensor, " n"]:
    return (transform_points(world, centers) - positions).norm(dim=-1)


def _pairs_of_cameras(rig: Rig, first: str, second: str) -> list[tuple[int, int]]:
    """Frames of two cameras at the same moments."""
    frame_of = {key: frame for frame, key in enumerate(zip(rig.cameras, rig.moments, strict=True))}
    one, other = rig.names.index(first), rig.names.index(second)
    pairs = [
        (frame_of[one, moment], frame_of[other, moment])
        for moment in sorted(set(rig.moments))
        if (one, moment) in frame_of and (other, moment) in frame_of
    ]
    if not pairs:
        raise UserError(f"the cameras {first} and {second} of the rig have no pictures of the same moment")
    return pairs


def _frame_called(clip: Clip, name: str) -> int:
    names = () if clip.source is None else clip.source.names
    fits: Bool[Tensor, " time"] = torch.tensor(
        [name in (one, bare_name(one), one.rpartition(".")[0]) for one in names], dtype=torch.bool
    )
    if int(fits.sum()) > 1:
        raise UserError(f"the baseline is to {name}, and {int(fits.sum())} frames have this name; give its folder too")
    if fits.any():
        return int(fits.nonzero()[0, 0])
    if name.isdecimal() and int(name) < clip.num_frames:
        return int(name)
    shown = ", ".join(names[:3])
    raise UserError(
        f"the baseline is to {name}, and no frame has this name; wanted a name such as {shown or 'a frame number'}, or "
        f"a frame number from 0 to {clip.num_frames - 1}"
    )
