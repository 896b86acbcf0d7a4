"""`recon4d info`: what a reconstruction holds and what of it to distrust, in words, each from what was measured."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from recon4d.inference import ExpectedErrors, ExpectedOfScene, SceneFacts
    from recon4d.io import SceneInfo

STILL_SPAN = 0.01
"""A camera whose centers span less than this share of the median depth stands still."""
LITTLE_AGREEMENT = 0.5
NEAR_LIMIT = 1.01
"""A field of view within this factor of the network's least or greatest one is at that limit."""
FOCAL_DRIFT = 1.2
"""Fields of view that differ by more than this factor between frames hint at a zoom, or at guessing."""
LITTLE_KNOWN = 0.1
MUCH_FAR_OFF = 0.5
"""A scene of which a greater share is expected to be far off is not to be trusted."""


@dataclass(frozen=True)
class InfoCommand:
    """Say in words what a scene.npz holds, and what of it to distrust."""

    scene: tyro.conf.Positional[Path]
    """A scene.npz, or the folder that holds one."""

    def run(self) -> None:
        from recon4d.inference import expected_of_scene, measure_scene
        from recon4d.io import read_results

        results = read_results(self.scene)
        info, facts = results.info, measure_scene(results.scene, results.times)
        expected = None if info.calibration is None else expected_of_scene(results.scene, info.calibration)
        for line in (*describe(facts, info), *explain_confidence(expected, info)):
            print(line)
        doubts = distrust(facts, info, expected)
        print("nothing measured here gives reason for doubt" if not doubts else "to distrust:")
        for doubt in doubts:
            print(f"  - {doubt}")


def describe(facts: "SceneFacts", info: "SceneInfo") -> list[str]:
    """What there is, a line for each matter."""
    (height, width), (original_height, original_width) = facts.size, info.original_size
    when = "without times" if math.isnan(facts.seconds) else f"over {facts.seconds:.2f} s"
    horizontal, vertical = facts.fields_of_view
    lines = [
        f"model: {info.model}, {'trained' if info.trained else 'never trained'} (recon4d {info.version})",
        f"frames: {facts.num_frames}, {when}; maps of {width} x {height} pixels, "
        f"pictures of {original_width} x {original_height}",
        f"field of view: {horizontal:.1f} degrees across, {vertical:.1f} down",
        f"path of the camera: {_length(facts.path_length, facts)} long, "
        f"turning by up to {facts.turn:.1f} degrees between two frames",
    ]
    if math.isnan(facts.median_depth):
        return [*lines, "depth: known nowhere"]
    low, middle, high = facts.confidence_quartiles
    lines += [
        f"depth: known for {100 * facts.known_share:.1f} % of the pixels, "
        f"{_length(facts.median_depth, facts)} in the median",
        f"confidence of depth: {low:.3g}, {middle:.3g}, {high:.3g} (quartiles)",
        "moving: nothing says what moves"
        if math.isnan(facts.moving_share)
        else f"moving: {100 * facts.moving_share:.1f} % of the pixels",
    ]
    if not math.isnan(facts.agreeing_share):
        lines.append(
            f"point maps: at {100 * facts.agreeing_share:.0f} % of the pixels within 5 % of what depth and camera say"
        )
    lines.append(f"tracks: {facts.num_tracks}" if facts.num_tracks else "tracks: none")
    return lines


def explain_confidence(expected: "ExpectedOfScene | None", info: "SceneInfo") -> list[str]:
    """What the confidences of the scene mean, where its model is calibrated; that they only rank, where it is not."""
    if expected is None or info.calibration is None:
        return ["meaning of confidence: it only ranks the pixels of this clip (the model is not calibrated)"]
    lines = [
        f"meaning of confidence: as on {info.calibration.measured_on}; errors are shares of depth, after one scale for "
        "the clip"
    ]
    for name, errors in (("depth", expected.depth), ("points", expected.points), ("tracks", expected.tracks)):
        if errors is not None:
            lines.append(f"  {name}: {_expectation(errors)}")
    return lines


def _expectation(errors: "ExpectedErrors") -> str:
    from recon4d.inference.scene_statistics import BEST_SHARE, FAR_OFF

    return (
        f"half are expected to be within {_percent(errors.of_half)}, half of the most confident "
        f"{_percent(BEST_SHARE)} within {_percent(errors.of_best)}; {_percent(errors.far_off_share)} to be wrong by "
        f"more than {_percent(FAR_OFF)}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def distrust(facts: "SceneFacts", info: "SceneInfo", expected: "ExpectedOfScene | None" = None) -> list[str]:
    """What to distrust, and by which measured fact; nothing where nothing speaks."""
    from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE

    least, greatest = (math.degrees(angle) for angle in FIELD_OF_VIEW_RANGE)
    doubts = []
    if not info.trained:
        doubts.append("everything: the model was never trained, its numbers mean nothing")
    if expected is not None and expected.depth is not None and expected.depth.far_off_share > MUCH_FAR_OFF:
        doubts.append(
            f"depth: {_percent(expected.depth.far_off_share)} of the pixels are expected to be far from the truth, as "
            "the model itself says"
        )
    if facts.num_frames == 1:
        doubts.append("depth: there is a single frame, so that nothing is seen twice")
    elif facts.span < STILL_SPAN:
        doubts.append(
            f"depth and path: the camera hardly moves (its centers span {100 * facts.span:.2f} % of the median depth), "
            "so that nothing shows parallax"
        )
    if facts.agreeing_share < LITTLE_AGREEMENT:
        doubts.append(
            f"points: point maps and depth agree at {100 * facts.agreeing_share:.0f} % of the pixels only; they differ "
            f"by {100 * facts.disagreement:.0f} % of the depth in the median"
        )
    if facts.least_field_of_view < least * NEAR_LIMIT:
        doubts.append(f"focal length: a field of view of {facts.least_field_of_view:.1f} degrees is the least there is")
    if facts.greatest_field_of_view * NEAR_LIMIT > greatest:
        doubts.append(
            f"focal length: a field of view of {facts.greatest_field_of_view:.1f} degrees is the greatest there is"
        )
    if facts.focal_drift > FOCAL_DRIFT:
        doubts.append(
            f"focal length: the field of view differs by a factor of {facts.focal_drift:.2f} between frames, "
            "which is a zoom or a guess"
        )
    if facts.known_share < LITTLE_KNOWN:
        doubts.append(f"depth: it is known for {100 * facts.known_share:.1f} % of the pixels only")
    elif facts.confidence_quartiles[0] == facts.confidence_quartiles[2]:
        doubts.append("confidence: it is the same for half of the pixels or more, and does not tell them apart")
    return doubts


def _length(units: float, facts: "SceneFacts") -> str:
    """A length in units, and in meters where the scene knows them."""
    if math.isnan(facts.metres_per_unit):
        return f"{units:.3g} units (of unknown length)"
    return f"{units:.3g} units ({units * facts.metres_per_unit:.3g} m)"
