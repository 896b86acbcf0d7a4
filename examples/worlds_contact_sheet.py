"""An overview of synthetic scenes: first and last frame, depth, motion, and visibility in the last frame.

python examples/worlds_contact_sheet.py --out docs/images/worlds.jpg
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib import colormaps
from torch import Tensor

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.io import write_jpeg

VISIBLE, OCCLUDED, SKY = (torch.tensor(color) / 255 for color in ((90, 190, 120), (200, 60, 60), (25, 25, 25)))


@dataclass(frozen=True)
class Arguments:
    """Draw one row per synthetic scene of a seed."""

    out: Path
    """JPEG file to write."""
    worlds: int = 6
    """Number of scenes."""
    seed: int = 3
    """Seed of the scenes."""


def main(arguments: Arguments) -> None:
    """Render the scenes and write the overview."""
    config = SyntheticConfig(num_frames=8, height=144, width=192)
    rows = []
    for index in range(arguments.worlds):
        sample = render_scenes(make_scenes(config, arguments.seed, [index]), config)[0]
        rows.append(torch.cat(panels(sample), dim=2))
    write_jpeg(arguments.out, (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8), quality=88)
    print(f"{arguments.out}: first frame, last frame, depth, motion, visibility in the last frame")


def panels(sample: Sample) -> list[Tensor]:
    """Return first and last frame, inverse depth and motion of the first frame, and its visibility in the last."""
    first, last = (sample.clip.images[frame] / 255 for frame in (0, -1))
    scene, tracks = sample.scene, sample.scene.tracks
    assert tracks is not None
    known = scene.depth_confidence[0] > 0
    inverse = torch.where(known, 1 / scene.depths[0].clamp(min=1e-3), 0.0)
    motion = (tracks.points[0, -1] - tracks.points[0, 0]).norm(dim=-1).reshape(known.shape)
    is_visible = tracks.visibility[0, -1].reshape(known.shape)[..., None] > 0
    visibility = torch.where(known[..., None], torch.where(is_visible, VISIBLE, OCCLUDED), SKY).permute(2, 0, 1)
    shaded = visibility * (0.4 + 0.6 * first.mean(dim=0))
    return [first, last, colored(inverse / inverse.max()), colored(motion / motion.max().clamp(min=0.5)), shaded]


def colored(values: Tensor) -> Tensor:
    """Map values in [0, 1] to colors (3, height, width)."""
    return torch.from_numpy(colormaps["magma"](values.numpy())[..., :3]).float().permute(2, 0, 1)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
