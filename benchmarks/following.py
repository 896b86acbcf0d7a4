"""How near matches come to where points truly are: ``python -m benchmarks.following --model recon4d_mini``.

Clips of worlds-v1. Where what stands still truly is, in pixels of the network's own maps, against the network's matches
of certain cells and against the corners that are followed from them, for frames one, three and seven apart.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from recon4d.eval import BenchmarkConfig, load_benchmark
from recon4d.geometry import project, transform_points
from recon4d.inference import ReconstructConfig, reconstruct_and_match
from recon4d.records import FeatureTracks, Scene
from recon4d.refine import track_corners
from recon4d.zoo import create_model, load_model

APART = (1, 3, 7)


@dataclass(frozen=True)
class Arguments:
    """Measure matches and followed corners on the same clips."""

    model: str = "recon4d_mini"
    """A name of `recon4d models`, or a checkpoint file."""
    clips: int = 16
    split: str = "8"


def main(arguments: Arguments) -> None:
    is_file = Path(arguments.model).is_file()
    model = load_model(arguments.model) if is_file else create_model(arguments.model)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    errors: dict[tuple[str, int], list[Tensor]] = {}
    for name in benchmark.clips:
        sample = benchmark.read(name)
        scene, matches = reconstruct_and_match(model, sample.clip, ReconstructConfig(anchors=()))
        truth = sample.scene.resized(*scene.size)
        for way, tracks in (("matches", matches), ("corners", track_corners(sample.clip, scene, matches))):
            for apart in APART:
                errors.setdefault((way, apart), []).append(_errors(tracks, truth, apart))

    print(f"{model.name}, the first {len(benchmark.clips)} clips of worlds-v1, split {arguments.split}")
    print(f"{'':10}{'frames apart':>14}{'found':>10}{'median px':>12}{'within 1 px':>14}")
    for (way, apart), of_clips in errors.items():
        of_all = torch.cat(of_clips)
        within = float((of_all < 1).float().mean())
        print(f"{way:10}{apart:>14}{len(of_all):>10}{float(of_all.median()):>12.2f}{within:>14.0%}")


def _errors(tracks: FeatureTracks, truth: Scene, apart: int) -> Tensor:
    """Pixels between where tracks of still things are and should be, in every two frames so far apart that see them.

    What a track is of, the first of the two says.
    """
    height, width = truth.size
    found = []
    for frame in range(truth.num_frames - apart):
        other = frame + apart
        both = (tracks.visibility[frame] > 0) & (tracks.visibility[other] > 0)
        pixels = tracks.pixels[frame, both]
        column, row = pixels[:, 0].long().clamp(0, width - 1), pixels[:, 1].long().clamp(0, height - 1)
        still = (truth.dynamic[frame, row, column] <= 0.5) & (truth.point_confidence[frame, row, column] > 0)
        # The surface at the pixel's center; what is seen beside it moves along.
        points = truth.points[frame, row, column]
        there = project(transform_points(truth.cameras.cam_from_world[other], points), truth.cameras.intrinsics[other])
        beside = pixels - torch.stack([column, row], dim=-1) - 0.5
        found.append((tracks.pixels[other, both] - beside - there).norm(dim=-1)[still])
    return torch.cat(found)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
