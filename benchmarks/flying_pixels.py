"""Share of flying pixels that exports exclude: ``python -m benchmarks.flying_pixels --scenes 5``.

The true depth of synthetic scenes is reduced to the size of a network's maps, blurred, and enlarged again along the
edges of the pictures. A pixel is flying if its depth is between those of the true surfaces around it and further than
2.5 % from all of them. Printed are the share of flying pixels in the maps, the share of them that is left after
exclusion, and the share of all other pixels that is lost, for neighbors only (`is_depth_edge`) and for `flying_pixels`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.geometry import is_depth_edge
from recon4d.io.flying_pixels import flying_pixels
from recon4d.refine.depth.upsampling import upsample_scene

SIZE, SMALL_SIZE = (384, 512), (168, 224)
"""Height and width of the written maps, and of the network's maps."""
BLURS = (0.0, 0.6, 1.0)
"""Standard deviations of the blur, in pixels of the network's maps."""
WINDOW = 4
"""Largest distance of a true surface from a pixel, in rows and columns of the written maps."""
MIN_CONTRAST, MAX_ERROR = 0.1, 0.025
"""Smallest contrast of the true depths around a flying pixel, and largest relative error of a pixel on a surface."""


@dataclass(frozen=True)
class Arguments:
    """Measure the exclusion of flying pixels."""

    scenes: int = 5
    """Number of synthetic scenes."""


def main(arguments: Arguments) -> None:
    """Print one row for each blur and method."""
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"neighbors": is_depth_edge, "flying": flying_pixels}
    counts = {(blur, name): torch.zeros(4) for blur in BLURS for name in methods}
    for blur, truth, depths in _examples(arguments.scenes):
        is_flying = _is_flying(truth, depths)
        for name, method in methods.items():
            excluded = method(depths, torch.ones_like(is_flying))
            kept_flying, lost_good = is_flying & ~excluded, excluded & ~is_flying
            counts[blur, name] += torch.stack([x.sum() for x in (is_flying, kept_flying, lost_good, ~is_flying)])
    print(f"{'blur':>6}{'method':>12}{'flying':>10}{'left':>10}{'good lost':>12}")
    for (blur, name), (flying, left, lost, good) in counts.items():
        shares = (float(100 * part / whole) for part, whole in ((flying, flying + good), (left, flying), (lost, good)))
        print(f"{blur:6.1f}{name:>12}{next(shares):9.2f}%{next(shares):9.1f}%{next(shares):11.2f}%")


def _examples(num_scenes: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield the blur, true depth, and depth after reduction, blur and enlargement."""
    config = SyntheticConfig(num_frames=1, height=SIZE[0], width=SIZE[1], attempts=1)
    for number in range(num_scenes):
        sample = render_scenes(make_scenes(config, number, [number]), config)[0]
        known = sample.scene.depth_confidence > 0
        depths = torch.where(known, sample.scene.depths, sample.scene.depths[known].max())
        truth = replace(sample.scene, tracks=None, depths=depths, depth_confidence=torch.ones_like(depths))
        logs = F.interpolate(depths[None].log(), SMALL_SIZE, mode="area")[0]
        for blur in BLURS:
            small = replace(truth.resized(*SMALL_SIZE), depths=_blurred(logs, blur).exp())
            yield blur, depths, upsample_scene(small, sample.clip, SIZE).depths


def _blurred(maps: Tensor, deviation: float) -> Tensor:
    if deviation == 0:
        return maps
    radius = int(3 * deviation + 1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1.0) / deviation) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    padded = F.pad(maps[:, None], [radius] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(-1, -2))[:, 0]


def _is_flying(truth: Tensor, depths: Tensor) -> Tensor:
    farthest, nearest = (sign * F.max_pool2d(sign * truth, 2 * WINDOW + 1, 1, WINDOW) for sign in (1, -1))
    padded = F.pad(truth[None], [WINDOW] * 4, mode="replicate")[0]
    around = padded.unfold(-2, 2 * WINDOW + 1, 1).unfold(-2, 2 * WINDOW + 1, 1)
    errors = (depths[..., None, None] / around - 1).abs().amin(dim=(-1, -2))
    is_between = (depths > nearest) & (depths < farthest) & (farthest > (1 + MIN_CONTRAST) * nearest)
    return is_between & (errors > MAX_ERROR)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
