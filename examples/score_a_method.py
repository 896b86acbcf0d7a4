"""Score a method of your own: any function from a Clip to a Scene, compared with the static baseline.

    python examples/score_a_method.py --clips 8 --out out/my_method

Replace `flat_ground` by your own function. It assumes a static scene over a flat ground: pixels lower in the image are
nearer. `report.html` in the output folder shows every clip and every metric.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from recon4d.eval import (
    BenchmarkConfig,
    Method,
    MethodConfig,
    Request,
    evaluate,
    headline_table,
    load_benchmark,
    make_method,
    write_report,
)
from recon4d.eval.baselines.static import static_scene
from recon4d.geometry import pixel_grid
from recon4d.records import Clip, Scene

CAMERA_HEIGHT = 1.0
"""Height of the camera above the ground, which defines the unit of the scene."""
MAX_DEPTH = 8.0
"""Depth at and above the horizon, in the same unit."""


@dataclass(frozen=True)
class Arguments:
    """Score a function from clips to scenes on a benchmark of synthetic scenes, next to the static baseline."""

    out: Path
    """Folder for predictions, scores and the report; a second run computes only what is missing."""
    clips: int = 8
    """Number of clips of worlds-v1, from the first one on."""


def flat_ground(clip: Clip) -> Scene:
    """Assume a static, level camera above the ground: a ray of slope y / z (y down) hits it at depth height / slope."""
    scene = static_scene(clip, anchors=())
    height, width = clip.size
    focal, middle = scene.cameras.intrinsics[0, 1, 1], scene.cameras.intrinsics[0, 1, 2]
    slope = (pixel_grid(height, width)[..., 1] - middle) / focal
    depth = (CAMERA_HEIGHT / slope.clamp(min=1e-6)).clamp(max=MAX_DEPTH)
    scene = replace(scene, depths=depth.expand(clip.num_frames, height, width).contiguous())
    return replace(scene, points=scene.points_from_depth)


class Function(Method):
    """A method that calls a function: change `key` whenever the function changes, to discard stored predictions."""

    def __init__(self, function: Callable[[Clip], Scene], key: str) -> None:
        self.name, self.key = function.__name__, key
        self._function = function

    def predict_scene(self, request: Request) -> Scene:
        return self._function(request.clip)


def main(arguments: Arguments) -> None:
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(clips=arguments.clips))
    methods = [Function(flat_ground, key="1"), make_method("static", MethodConfig())]
    evaluation = evaluate(benchmark, methods, arguments.out)
    write_report(arguments.out, evaluation, settings=(("clips", str(arguments.clips)),))
    print(headline_table(evaluation))
    print(f"{arguments.out}: report.html, report.json, report.csv, clips.csv")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
