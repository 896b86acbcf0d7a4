"""`recon4d render`: synthetic worlds written in the layout of a data set, to train and test with."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from recon4d.datasets import Sample

KUBRIC_FRAMES_PER_SECOND = 12

Layout = Literal["point-odyssey", "dynamic-replica", "kubric"]


@dataclass(frozen=True)
class RenderCommand:
    """Render synthetic worlds with exact truth, in the layout of a data set."""

    out: Path
    """Folder of the data set; it must be new or empty."""
    format: Layout = "point-odyssey"
    """Whose layout to write."""
    clips: int = 4
    """How many worlds."""
    num_frames: int = 24
    """Frames of each, up to 32."""
    size: tuple[int, int] = (192, 256)
    """Height and width in pixels."""
    tracks: int = 1024
    """Points of the first frame that are followed (Kubric's layout has none)."""
    seed: int = 0
    """Another seed, other worlds."""
    split: str = "train"
    """Split to write, where the layout has some."""

    def run(self) -> None:
        from tqdm import tqdm

        from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
        from recon4d.io import check_output_folder

        if self.clips < 1:
            raise ValueError(f"clips = {self.clips}; wanted at least 1")
        config = SyntheticConfig(num_frames=self.num_frames, height=self.size[0], width=self.size[1])
        check_output_folder(self.out, overwrite=False)
        for number in tqdm(range(self.clips), desc="rendering", unit="clip", disable=not sys.stderr.isatty()):
            sample = render_scenes(make_scenes(config, self.seed, [number]), config)[0]
            self._write(f"world_{self.seed}_{number:04d}", sample)
        print(f"{self.out}: {self.clips} clips of {self.num_frames} frames in the layout of {self.format}")

    def _write(self, name: str, sample: "Sample") -> None:
        import numpy as np
        import torch

        from recon4d.datasets import (
            choose_tracks,
            write_dynamic_replica,
            write_kubric,
            write_point_odyssey,
        )

        if self.format == "kubric":
            # The layout has one frame rate; worlds are filmed unevenly, and only the order of frames matters.
            evenly = torch.arange(self.num_frames) / KUBRIC_FRAMES_PER_SECOND
            write_kubric(self.out, name, replace(sample, clip=replace(sample.clip, times=evenly)))
            return
        write = write_point_odyssey if self.format == "point-odyssey" else write_dynamic_replica
        write(self.out, self.split, name, choose_tracks(sample, self.tracks, np.random.default_rng(self.seed)))
