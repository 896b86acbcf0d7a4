"""Score a method of your own: any function from a Clip to a Scene, beside the trivial answer, on worlds with truth.

    python examples/score_a_method.py --clips 8 --out out/my_method

Put your own function in place of `flat_ground`, which only knows that floors are flat: nothing moves, and whatever is
lower in the picture is nearer. `report.html` in the folder shows every clip and every metric.
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

EYE_HEIGHT, FARTHEST = 1.0, 8.0
"""Of the camera above the floor, and of what is at the horizon or above it, in a unit of our own."""


@dataclass(frozen=True)
class Arguments:
    """Score a function from clips to scenes beside the trivial answer on the worlds of a benchmark."""

    out: Path
    """Folder for predictions, scores and the report; a second run computes only what is missing."""
    clips: int = 8
    """The first so many clips of worlds-v1."""


def flat_ground(clip: Clip) -> Scene:
    """A still, level camera over a floor: with y down, a ray of slope y / z meets the floor at a depth of 1 / slope."""
    scene = static_scene(clip, anchors=())
    height, width = clip.size
    focal, middle = scene.cameras.intrinsics[0, 1, 1], scene.cameras.intrinsics[0, 1, 2]
    slope = (pixel_grid(height, width)[..., 1] - middle) / focal
    depth = (EYE_HEIGHT / slope.clamp(min=1e-6)).clamp(max=FARTHEST)
    scene = replace(scene, depths=depth.expand(clip.num_frames, height, width).contiguous())
    return replace(scene, points=scene.points_from_depth)


class Function(Method):
    """A plain function as a method: `name` is its row in the table, `key` changes when its answers do."""

    def __init__(self, function: Callable[[Clip], Scene], key: str) -> None:
        self.name, self.key = function.__name__, key
        self._function = function

    def scene(self, request: Request) -> Scene:
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
