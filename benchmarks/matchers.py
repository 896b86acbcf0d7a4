"""Accuracy and speed of the matchers: ``python -m benchmarks.matchers --model recon4d_mini``.

On clips of worlds-v1, the cells of frames one, three and seven apart are matched in both directions by every matcher,
with and without the epipolar filter, and compared with their true positions. All matchers get the same features: those
of the model's matching layer, or with `--backbone-file` the patch tokens of a DINO backbone, whose cells are patches.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from recon4d.datasets import Sample
from recon4d.eval import BenchmarkConfig, load_benchmark
from recon4d.inference import processing_size
from recon4d.layers import (
    HoughMatcher,
    Matcher,
    NearestMatcher,
    SinkhornMatcher,
    SoftMatcher,
    TwoViewFilter,
    cell_centers,
)
from recon4d.losses import true_matches
from recon4d.models import Model, require_trainable
from recon4d.models.backbones import DinoBackbone, DinoBackboneConfig
from recon4d.records import Cameras, Scene
from recon4d.zoo import find_model

FRAME_DISTANCES = (1, 3, 7)
"""Numbers of frames between the two frames of a pair."""
MIN_MASS = 0.5
"""Smallest certainty of a match that counts, as for feature tracks of refinement."""
PAIR_CHUNK = 4
"""Number of pairs of frames that are matched at once."""


@dataclass(frozen=True)
class Arguments:
    """Compare the matchers on the same features."""

    model: str = "recon4d_mini"
    """A name of `recon4d models`, or a checkpoint file: the source of features and of predicted cameras."""
    clips: int = 16
    """Number of clips."""
    split: str = "8"
    """Split of worlds-v1."""
    cameras: Literal["true", "predicted"] = "true"
    """Cameras of the epipolar filter."""
    width: float = 1.5
    """Width of the epipolar filter in cells."""
    sinkhorn_iterations: int = 5
    """Number of iterations of Sinkhorn's algorithm."""
    hough_radius: int = 3
    """Largest distance of voting cells, in cells."""
    backbone: str = "vit_small_patch14_reg4_dinov2"
    """Name of the DINO backbone in timm."""
    backbone_file: Path | None = None
    """Weights of the DINO backbone; None uses the features of the model's matching layer."""
    backbone_side: int = 518
    """Images are resized to about the area of a square with this side for the DINO backbone, in pixels."""
    temperature: float = 0.05
    """Temperature of the similarities of the DINO backbone."""
    dustbin_similarity: float = 0.5
    """Similarity of DINO features that equals the dustbin."""


@dataclass(frozen=True)
class Problem:
    """Features of the cells of a clip, with what is known about its frames."""

    features: Tensor
    """Unit features (time, cell, channel)."""
    scale: float
    """Inverse of the temperature."""
    dustbin_logit: Tensor
    """Logit of the dustbin, a scalar."""
    cell_size: float
    """Side of a cell in pixels."""
    cell_grid: tuple[int, int]
    """Number of cell rows and columns."""
    truth: Scene
    """True scene at the size of the maps that the cells cover."""
    two_view: TwoViewFilter
    """Epipolar constraint of the cells."""


@dataclass(frozen=True)
class Row:
    """Figures of one matcher on one clip."""

    errors: Tensor
    """Distance from the true position of each cell with a true match, in pixels."""
    is_inlier: Tensor
    """Whether that distance is less than a cell."""
    is_found: Tensor
    """Whether a cell with a true match is matched."""
    is_false: Tensor
    """Whether a cell without a true match is matched."""
    seconds: float
    """Median time of a pair of frames."""


@torch.inference_mode()
def main(arguments: Arguments) -> None:
    """Run the benchmark and print one row per matcher."""
    model = require_trainable(find_model(arguments.model, allow_untrained=True))
    backbone = _load_backbone(arguments)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    matchers: dict[str, Matcher] = {
        "soft": SoftMatcher(),
        "sinkhorn": SinkhornMatcher(arguments.sinkhorn_iterations),
        "nearest": NearestMatcher(),
        "hough": HoughMatcher(arguments.hough_radius),
    }
    rows: dict[str, list[Row]] = {}
    for name in benchmark.clips:
        problem = _make_problem(model, backbone, benchmark.read(name), arguments)
        for use_filter in (False, True):
            for kind, matcher in matchers.items():
                label = f"{kind}, epipolar" if use_filter else kind
                rows.setdefault(label, []).append(_measure(matcher, problem, use_filter))

    features = f"features of {model.name}" if backbone is None else f"features of {arguments.backbone}"
    print(f"{features}, {arguments.cameras} cameras, the first {len(benchmark.clips)} clips of worlds-v1")
    print("an inlier is within one cell of the truth; pixels are those of the matched maps")
    print(f"{'':20}{'matched':>9}{'median px':>11}{'inliers':>9}{'false':>8}{'ms a pair':>11}")
    for kind, of_kind in rows.items():
        _print(kind, of_kind)


def _load_backbone(arguments: Arguments) -> DinoBackbone | None:
    if arguments.backbone_file is None:
        return None
    backbone = DinoBackbone(DinoBackboneConfig(arguments.backbone))
    backbone.load_pretrained(arguments.backbone_file)
    return backbone.eval()


def _make_problem(model: Model, backbone: DinoBackbone | None, sample: Sample, arguments: Arguments) -> Problem:
    """Compute the features of a clip and the epipolar constraint of its frames."""
    size = processing_size(sample.clip.size, model.config.processing_size, model.patch_size)
    clip = sample.clip.resized(*size)
    outputs = model.outputs(clip.images[None], clip.times[None], anchors=())
    matching = model.matching
    assert matching is not None, f"{model.name} has no matching layer"
    assert outputs.cell_features is not None
    cell_size, features = matching.cell_size, outputs.cell_features[0]
    scale, dustbin_logit = float(torch.exp(-matching.log_temperature)), matching.no_match
    scene = outputs.scene
    if backbone is not None:
        cell_size = backbone.patch_size
        # Ground truth is defined for images whose sides have an even number of cells.
        size = processing_size(sample.clip.size, arguments.backbone_side, 2 * cell_size)
        images = sample.clip.resized(*size).images.float() / 255
        tokens = torch.cat([backbone(image).tokens for image in images.split(1)])
        features = F.normalize(tokens, dim=-1)
        scale, dustbin_logit = (
            1 / arguments.temperature,
            torch.tensor(arguments.dustbin_similarity / arguments.temperature),
        )
        scene = scene.resized(*size)
    truth = Scene.stack([sample.scene.resized(*size)])
    cell_grid = (round(size[0] / cell_size), round(size[1] / cell_size))
    cameras: Cameras = truth.cameras if arguments.cameras == "true" else scene.cameras
    is_dynamic = (scene.dynamic > 0.5).float()
    unconstrained = F.adaptive_max_pool2d(is_dynamic, cell_grid).flatten(2) > 0
    width = arguments.width * cell_size
    two_view = TwoViewFilter.from_cameras(cameras, width, unconstrained=unconstrained)
    return Problem(features, scale, dustbin_logit, cell_size, cell_grid, truth, two_view)


def _pairs(num_frames: int) -> Tensor:
    """Return query and target frames (2, pair) in both directions."""
    forward = [(frame, frame + gap) for gap in FRAME_DISTANCES for frame in range(num_frames - gap)]
    return torch.tensor(forward + [pair[::-1] for pair in forward]).T


def _measure(matcher: Matcher, problem: Problem, use_filter: bool) -> Row:
    queries, targets = _pairs(len(problem.features))
    true = true_matches(problem.truth, queries[None], targets[None], problem.cell_size)
    centers = cell_centers((problem.cell_grid[0] // 2, problem.cell_grid[1] // 2), problem.cell_size, problem.features)
    parts, seconds = [], []
    for query, target in zip(queries.split(PAIR_CHUNK), targets.split(PAIR_CHUNK), strict=True):
        start = time.perf_counter()
        allowed = problem.two_view.allowed(query, target, centers) if use_filter else None
        scaled = problem.scale * problem.features[query]
        parts.append(matcher(scaled, problem.features[target], problem.dustbin_logit, problem.cell_grid, allowed))
        seconds.append((time.perf_counter() - start) / len(query))
    positions = torch.cat([part.positions for part in parts]) * problem.cell_size
    is_matched = torch.cat([part.mass for part in parts]) >= MIN_MASS
    has_match, is_unmatched = true.has_match[0], true.is_unmatched[0]
    errors = (positions - true.positions[0]).norm(dim=-1)[has_match]
    return Row(
        errors, errors < problem.cell_size, is_matched[has_match], is_matched[is_unmatched], statistics.median(seconds)
    )


def _print(name: str, rows: list[Row]) -> None:
    """Print the figures of a matcher over the cells of all clips."""
    is_found, is_false = torch.cat([row.is_found for row in rows]), torch.cat([row.is_false for row in rows])
    found = torch.cat([row.errors for row in rows])[is_found]
    inliers = float(torch.cat([row.is_inlier for row in rows])[is_found].float().mean())
    milliseconds = 1000 * statistics.median(row.seconds for row in rows)
    print(
        f"{name:20}{float(is_found.float().mean()):9.1%}{float(found.median()):11.2f}{inliers:9.1%}"
        f"{float(is_false.float().mean()):8.1%}{milliseconds:11.1f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
