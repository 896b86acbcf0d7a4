"""Tracks of what moves in synthetic scenes, after refinement: ``python -m benchmarks.dynamic_tracks``.

The scenes are like those of worlds-v1 with another seed. Points that stay where they are in the anchor frame are the
baseline: they have the same error of depth.
"""

from dataclasses import dataclass, replace

import torch
import tyro

from recon4d import reconstruct_and_match, refine_clip
from recon4d.datasets.synthetic.generation import make_scenes, render_scenes
from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.eval.metrics.tracks import track_scores
from recon4d.eval.pairing import pair_with_truth
from recon4d.records import Scene
from recon4d.refine.track_transfer import hold_static_tracks
from recon4d.zoo import find_model


@dataclass(frozen=True)
class Arguments:
    """Score tracks of what moves against points that hold still."""

    clips: int = 12
    """Number of clips."""
    seed: int = 4321
    """Seed of the scenes."""
    model: str = "recon4d_mini"
    """Name of a model of the zoo."""


def main(arguments: Arguments) -> None:
    """Print moving_epe of each clip with moving points, and pooled over all."""
    model, config = find_model(arguments.model, allow_untrained=True), WORLDS_V1["8"].config
    totals, count = [0.0, 0.0], 0
    print(f"moving_epe: {'held still':>12}{'followed':>12}")
    for number in range(arguments.clips):
        sample = render_scenes(make_scenes(config, arguments.seed, [number]), config)[0]
        clip = replace(sample.clip, priors=None)
        refined = refine_clip(clip, *reconstruct_and_match(model, clip))
        scenes = with_static_tracks(refined.scene), refined.scene
        (still, points), (followed, _) = (_moving_epe(scene, sample.scene) for scene in scenes)
        if points:
            print(f"clip {number:<6}{still:12.3f}{followed:12.3f}")
            totals = [totals[0] + still * points, totals[1] + followed * points]
            count += points
    print("all        " + "".join(f"{total / max(count, 1):12.3f}" for total in totals))


def with_static_tracks(scene: Scene) -> Scene:
    """Let all tracks of a scene stay where they are in their anchor frame."""
    static = hold_static_tracks(replace(scene, dynamic=torch.zeros_like(scene.dynamic)))
    return replace(scene, tracks=static.tracks)


def _moving_epe(scene: Scene, truth: Scene) -> tuple[float, int]:
    """Return the mean error of moving points, and their number."""
    score = next(s for s in track_scores(pair_with_truth(scene, truth), truth) if s.metric == "moving_epe")
    return score.value, score.count


if __name__ == "__main__":
    main(tyro.cli(Arguments))
