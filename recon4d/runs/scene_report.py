"""What a reconstruction contains, in words, and the problems that its statistics indicate."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.runs.formatting import percent
from recon4d.runs.refinement_info import (
    describe_refinement,
    describe_windows,
    find_refinement_problems,
    find_window_problems,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from recon4d.inference import ExpectedErrors, ExpectedSceneErrors, SceneStatistics
    from recon4d.io import SceneInfo
    from recon4d.records import Cameras, RefinementSummary

MIN_BASELINE = 0.01
"""Camera centers closer together than this fraction of the median depth show no parallax. Hand-tuned."""
MIN_AGREEMENT = 0.5
"""Smallest fraction of pixels where point map and depth agree without a warning. Hand-tuned."""
FIELD_OF_VIEW_MARGIN = 1.01
"""A field of view within this factor of the network's smallest or largest one counts as being at that limit."""
MAX_FIELD_OF_VIEW_RATIO = 1.2
"""Largest ratio between fields of view of two frames without a warning. Hand-tuned."""
MIN_VALID_SHARE = 0.1
"""Smallest fraction of pixels with depth without a warning. Hand-tuned."""
MAX_OUTLIER_SHARE = 0.5
"""Largest expected fraction of pixels with a large depth error without a warning. Hand-tuned."""


@dataclass(frozen=True)
class Measured:
    """What is known about a scene."""

    statistics: "SceneStatistics"
    expected: "ExpectedSceneErrors | None"
    """Errors that the calibration predicts; None without a calibration."""
    info: "SceneInfo"
    cameras: "Cameras"
    """Cameras with intrinsics in pixels of the original pictures."""
    distortion: "Float[Tensor, '5'] | None"
    """Lens distortion that was removed; None if none was."""
    refinements: "tuple[RefinementSummary | None, ...]" = ()
    """How each window of a long clip was refined; empty if it was not tried."""


def measure(path: Path) -> Measured:
    """Measure a scene, or a long clip frame by frame.

    Args:
        path: A scene.npz, or the folder that contains one.

    Returns:
        The measurements.

    Raises:
        UserError: If the scene cannot be read.
    """
    from recon4d.inference import expected_scene_errors, measure_long, measure_scene
    from recon4d.io import read_results
    from recon4d.io.long_archive import INDEX_FILE_NAME, iter_frames, load_index

    if path.is_dir() and (path / INDEX_FILE_NAME).is_file():
        index = load_index(path)
        cameras = index.cameras.resized(index.size, index.info.original_size)
        measured = measure_long(index, iter_frames(path))
        return Measured(*measured, index.info, cameras, index.distortion, index.refinements)
    results = read_results(path)
    statistics, calibration = measure_scene(results.scene, results.times), results.info.calibration
    expected = None if calibration is None else expected_scene_errors(results.scene, calibration)
    cameras = results.original_cameras()
    return Measured(statistics, expected, results.info, cameras, results.scene.distortion)


def describe_scene(measured: Measured) -> list[str]:
    """Describe a scene, its refinement and its confidences.

    Args:
        measured: Measurements of the scene.

    Returns:
        The lines.
    """
    info = measured.info
    return [
        *describe_statistics(measured.statistics, info),
        *(describe_windows(measured.refinements) or describe_refinement(info.refinement, measured.distortion)),
        *explain_confidence(measured.expected, info),
    ]


def find_all_problems(measured: Measured) -> list[str]:
    """Find the problems of a scene: of its statistics, its intrinsics and its refinement.

    Args:
        measured: Measurements of the scene.

    Returns:
        One line for each problem, which names the affected quantity and the measured value.
    """
    info = measured.info
    return [
        *find_problems(measured.statistics, info, measured.expected),
        *find_intrinsics_problems(measured.cameras, info),
        *find_refinement_problems(info.refinement),
        *find_window_problems(measured.refinements),
    ]


def describe_statistics(statistics: "SceneStatistics", info: "SceneInfo") -> list[str]:
    """Describe the content of a scene.

    Args:
        statistics: Statistics of the scene.
        info: How the scene was made.

    Returns:
        One line for each topic, such as "tracks: 10".
    """
    (height, width), (original_height, original_width) = statistics.size, info.original_size
    duration = "without times" if math.isnan(statistics.seconds) else f"over {statistics.seconds:.2f} s"
    horizontal, vertical = statistics.fields_of_view
    lines = [
        f"model: {info.model}, {'trained' if info.trained else 'never trained'} (recon4d {info.version})",
        f"frames: {statistics.num_frames}, {duration}; maps of {width} x {height} pixels, "
        f"pictures of {original_width} x {original_height}",
        *([f"selection: {info.source.selection}"] if info.source is not None and info.source.selection else []),
        *([f"assumed, not predicted: {' and '.join(info.assumptions)}"] if info.assumptions else []),
        *info.camera_report,
        f"field of view: {horizontal:.1f} degrees horizontal, {vertical:.1f} vertical",
        f"camera path: {_length(statistics.path_length, statistics)} long, "
        f"rotation of up to {statistics.max_rotation:.1f} degrees between two frames",
    ]
    if math.isnan(statistics.median_depth):
        return [*lines, "depth: unknown at every pixel"]
    low, middle, high = statistics.confidence_quartiles
    lines += [
        f"depth: known at {100 * statistics.valid_share:.1f} % of the pixels, "
        f"median {_length(statistics.median_depth, statistics)}",
        f"depth confidence: quartiles {low:.3g}, {middle:.3g}, {high:.3g}",
        "dynamic: unknown"
        if math.isnan(statistics.dynamic_share)
        else f"dynamic: {100 * statistics.dynamic_share:.1f} % of the pixels",
    ]
    if not math.isnan(statistics.agreement_share):
        lines.append(
            f"point maps: within 5 % of depth and cameras at {100 * statistics.agreement_share:.0f} % of the pixels"
        )
    lines.append(f"tracks: {statistics.num_tracks}" if statistics.num_tracks else "tracks: none")
    return lines


def explain_confidence(expected: "ExpectedSceneErrors | None", info: "SceneInfo") -> list[str]:
    """Explain what the confidences of a scene mean.

    Args:
        expected: Errors that the calibration predicts; None without a calibration.
        info: How the scene was made.

    Returns:
        A line on the calibration, then the expected errors of each field that is calibrated.
    """
    if expected is None or info.calibration is None:
        return ["confidence: only ranks the pixels of this clip (the model is not calibrated)"]
    lines = [
        f"confidence: calibrated on {info.calibration.measured_on}; errors are relative to depth, after alignment by "
        "one scale per clip"
    ]
    for name, errors in (("depth", expected.depth), ("points", expected.points), ("tracks", expected.tracks)):
        if errors is not None:
            lines.append(f"  {name}: {_describe_errors(errors)}")
    return lines


def _describe_errors(errors: "ExpectedErrors") -> str:
    from recon4d.inference.scene_statistics import MOST_CONFIDENT_SHARE, OUTLIER_THRESHOLD

    return (
        f"expected median error {percent(errors.median)}, {percent(errors.median_of_most_confident)} for the most "
        f"confident {percent(MOST_CONFIDENT_SHARE)}; expected to exceed {percent(OUTLIER_THRESHOLD)} at "
        f"{percent(errors.outlier_share)}"
    )


def find_problems(
    statistics: "SceneStatistics", info: "SceneInfo", expected: "ExpectedSceneErrors | None" = None
) -> list[str]:
    """Find problems of a scene that its statistics indicate.

    Args:
        statistics: Statistics of the scene.
        info: How the scene was made.
        expected: Errors that the calibration predicts; None without a calibration.

    Returns:
        One line for each problem, which names the affected quantity and the measured value.
    """
    from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE

    smallest, largest = (math.degrees(angle) for angle in FIELD_OF_VIEW_RANGE)
    problems = []
    if not info.trained:
        problems.append("everything: the model was never trained, its output is meaningless")
    if expected is not None and expected.depth is not None and expected.depth.outlier_share > MAX_OUTLIER_SHARE:
        problems.append(
            f"depth: the calibration predicts large errors at {percent(expected.depth.outlier_share)} of the pixels"
        )
    if statistics.num_frames == 1:
        problems.append("depth: a single frame has no parallax")
    elif statistics.relative_baseline < MIN_BASELINE and not _is_rotation_only(info):
        problems.append(
            "depth and camera path: the camera hardly moves, so there is no parallax (camera centers are at most "
            f"{100 * statistics.relative_baseline:.2f} % of the median depth apart)"
        )
    if statistics.agreement_share < MIN_AGREEMENT:
        problems.append(
            f"points: point maps and depth agree at only {100 * statistics.agreement_share:.0f} % of the pixels; the "
            f"median difference is {100 * statistics.median_disagreement:.0f} % of the depth"
        )
    if statistics.min_field_of_view < smallest * FIELD_OF_VIEW_MARGIN:
        problems.append(
            f"focal length: a field of view of {statistics.min_field_of_view:.1f} degrees is the smallest possible one"
        )
    if statistics.max_field_of_view * FIELD_OF_VIEW_MARGIN > largest:
        problems.append(
            f"focal length: a field of view of {statistics.max_field_of_view:.1f} degrees is the largest possible one"
        )
    if statistics.field_of_view_ratio > MAX_FIELD_OF_VIEW_RATIO:
        problems.append(
            f"focal length: the field of view changes by a factor of {statistics.field_of_view_ratio:.2f} between "
            "frames; the clip has a zoom, or the prediction is wrong"
        )
    if statistics.valid_share < MIN_VALID_SHARE:
        problems.append(f"depth: it is known at only {100 * statistics.valid_share:.1f} % of the pixels")
    elif statistics.confidence_quartiles[0] == statistics.confidence_quartiles[2]:
        problems.append("confidence: at least half of the pixels have the same confidence, so it does not rank them")
    return problems


def find_intrinsics_problems(cameras: "Cameras", info: "SceneInfo") -> list[str]:
    """Find intrinsics that can hardly belong to the pictures.

    Args:
        cameras: Cameras with intrinsics in pixels of the original pictures.
        info: How the scene was made.

    Returns:
        A line if a principal point lies outside of its picture.
    """
    from recon4d.io.cameras.camera_file import describe_center

    problem = describe_center(cameras.intrinsics, info.original_size)
    return [] if problem is None else [f"intrinsics: {problem}"]


def _is_rotation_only(info: "SceneInfo") -> bool:
    """Check whether refinement has found that there is no parallax, which is a problem of its own."""
    return info.refinement is not None and info.refinement.is_accepted and info.refinement.is_rotation_only


def _length(units: float, statistics: "SceneStatistics") -> str:
    """Format a length in units of the scene, and in meters if the scale is known."""
    if math.isnan(statistics.metres_per_unit):
        return f"{units:.3g} units (of unknown length)"
    return f"{units:.3g} units ({units * statistics.metres_per_unit:.3g} m)"
