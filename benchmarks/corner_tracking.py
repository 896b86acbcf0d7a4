"""Accuracy of matches and corner tracks: ``python -m benchmarks.corner_tracking --model recon4d_mini``.

On clips of worlds-v1, the network's confident matches and the corners tracked from them are compared with the true
pixels of static points, for frames one, three and seven apart, in pixels of the network's maps. With ``--opencv``, the
same corners are also searched by OpenCV's pyramidal Lucas-Kanade, which estimates a translation only.
"""

from dataclasses import dataclass
from unittest.mock import patch

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor

from recon4d.eval import BenchmarkConfig, load_benchmark
from recon4d.geometry import project, transform_points
from recon4d.inference import ReconstructConfig, reconstruct_and_match
from recon4d.records import FeatureTracks, Scene
from recon4d.refine import track_corners
from recon4d.refine.tracks import corner_tracking
from recon4d.refine.tracks.lucas_kanade import Placement, ncc
from recon4d.zoo import find_model

FRAME_DISTANCES = (1, 3, 7)
"""Numbers of frames between the compared frames."""
WINDOW = (15, 15)
"""Window of OpenCV's search in pixels, that of the finest level of `track_corners`."""
MAX_RETURN_ERROR = 0.5
"""Largest distance in pixels from the start after OpenCV's search there and back."""


@dataclass(frozen=True)
class Arguments:
    """Measure the accuracy of matches and corner tracks on the same clips."""

    model: str = "recon4d_mini"
    """A name of `recon4d models`, or a checkpoint file."""
    clips: int = 16
    """Number of clips."""
    split: str = "8"
    """Split of worlds-v1."""
    opencv: bool = False
    """Also search the corners by OpenCV."""


def main(arguments: Arguments) -> None:
    """Run the benchmark and print one row per kind of track and distance."""
    model = find_model(arguments.model, allow_untrained=True)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    errors: dict[tuple[str, int], list[Tensor]] = {}
    for name in benchmark.clips:
        sample = benchmark.read(name)
        scene, matches = reconstruct_and_match(model, sample.clip, ReconstructConfig(anchors=()))
        truth = sample.scene.resized(*scene.size)
        kinds = {"matches": matches, "corners": track_corners(sample.clip, scene, matches)}
        if arguments.opencv:
            with patch.object(corner_tracking._CornerTracker, "_align", _align_by_opencv):
                kinds["opencv"] = track_corners(sample.clip, scene, matches)
        for kind, tracks in kinds.items():
            for distance in FRAME_DISTANCES:
                errors.setdefault((kind, distance), []).append(_errors(tracks, truth, distance))

    print(f"{model.name}, the first {len(benchmark.clips)} clips of worlds-v1, split {arguments.split}")
    print(f"{'':10}{'frames apart':>14}{'found':>10}{'median px':>12}{'within 1 px':>14}")
    for (kind, distance), clip_errors in errors.items():
        all_errors = torch.cat(clip_errors)
        within = float((all_errors < 1).float().mean())
        print(f"{kind:10}{distance:>14}{len(all_errors):>10}{float(all_errors.median()):>12.2f}{within:>14.0%}")


def _align_by_opencv(
    tracker: "corner_tracking._CornerTracker", corners: Tensor, targets: Tensor, start: Placement, num_levels: int
) -> tuple[Placement, Tensor]:
    """Replace `_CornerTracker._align`: search from the first appearance, accepted by the same correlation."""
    images = (tracker._images[0] * 255).round().to(torch.uint8).numpy()
    sources, first = tracker._corners.frames[corners], tracker._corners.pixels[corners]
    centers, is_found = start.centers.clone(), torch.zeros(len(corners), dtype=torch.bool)
    options = {"winSize": WINDOW, "maxLevel": num_levels - 1, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    for source, target in torch.stack([sources, targets], dim=1).unique(dim=0).tolist():
        places = ((sources == source) & (targets == target)).nonzero()[:, 0]
        # OpenCV's first pixel has its center at (0, 0).
        own, guided = ((pixels[places] - 0.5).float().numpy() for pixels in (first, start.centers))
        there, found, _ = cv2.calcOpticalFlowPyrLK(images[source], images[target], own, guided.copy(), **options)
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(images[target], images[source], there, own.copy(), **options)
        returns = np.linalg.norm(back - own, axis=1) < MAX_RETURN_ERROR
        is_found[places] = torch.from_numpy((found[:, 0] == 1) & (found_back[:, 0] == 1) & returns)
        centers[places] = torch.from_numpy(there).to(centers) + 0.5
    placement = Placement.upright(torch.where(is_found[:, None], centers, start.centers))
    correlation = ncc(tracker._templates[0].take(corners), tracker._images[0], targets, placement)
    return placement, is_found & (correlation >= tracker._config.min_ncc)


def _errors(tracks: FeatureTracks, truth: Scene, distance: int) -> Tensor:
    """Compute the distance between tracked and true pixels in every two frames that both observe a static point.

    The first of the two frames determines the point of a track.
    """
    height, width = truth.size
    errors = []
    for frame in range(truth.num_frames - distance):
        other = frame + distance
        in_both = (tracks.visibility[frame] > 0) & (tracks.visibility[other] > 0)
        pixels = tracks.pixels[frame, in_both]
        column, row = pixels[:, 0].long().clamp(0, width - 1), pixels[:, 1].long().clamp(0, height - 1)
        is_static = (truth.dynamic[frame, row, column] <= 0.5) & (truth.point_confidence[frame, row, column] > 0)
        # The true point of the pixel's center; the offset from the center is assumed to stay the same.
        points = truth.points[frame, row, column]
        expected = project(
            transform_points(truth.cameras.cam_from_world[other], points), truth.cameras.intrinsics[other]
        )
        offset = pixels - torch.stack([column, row], dim=-1) - 0.5
        errors.append((tracks.pixels[other, in_both] - offset - expected).norm(dim=-1)[is_static])
    return torch.cat(errors)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
