"""`recon4d render`: synthetic scenes written in the layout of a data set, for training and evaluation."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.datasets import Sample

KUBRIC_FRAMES_PER_SECOND = 12
"""Frame rate of Kubric's MOVi data sets."""

Layout = Literal["point-odyssey", "dynamic-replica", "kubric"]


@dataclass(frozen=True)
class RenderCommand:
    """Render synthetic scenes with exact ground truth, in the layout of a data set."""

    out: Path
    """Folder of the data set; it must be new or empty."""
    format: Layout = "point-odyssey"
    """Data set whose layout is used."""
    clips: int = 4
    """Number of scenes."""
    num_frames: int = 24
    """Frames of each scene, at most 256."""
    size: tuple[int, int] = (192, 256)
    """Height and width in pixels."""
    tracks: int = 1024
    """Number of points tracked from the first frame (the layout of Kubric has no tracks)."""
    seed: int = 0
    """Random seed of the scenes."""
    split: str = "train"
    """Split to write, if the layout has splits."""

    @property
    def interrupted(self) -> str:
        """The line to print after an interrupt."""
        if not self.out.exists():
            return "interrupted, nothing was written"
        return f"interrupted; {self.out} holds an incomplete data set, delete it before running the command again"

    def run(self) -> None:
        """Render the scenes.

        Raises:
            UserError: If an option is out of range or the output folder cannot be written.
        """
        from tqdm import tqdm

        from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
        from recon4d.io import check_output_folder

        minima = (("--clips", self.clips, 1), ("--tracks", self.tracks, 0), ("--seed", self.seed, 0))
        for option, value, minimum in minima:
            if value < minimum:
                raise UserError(f"{option} is {value}; it must be at least {minimum}")
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
            sample_tracks,
            write_dynamic_replica,
            write_kubric,
            write_point_odyssey,
        )

        if self.format == "kubric":
            # The layout has a single frame rate, synthetic scenes have irregular times: only their order is kept.
            times = torch.arange(self.num_frames) / KUBRIC_FRAMES_PER_SECOND
            write_kubric(self.out, name, replace(sample, clip=replace(sample.clip, times=times)))
            return
        write = write_point_odyssey if self.format == "point-odyssey" else write_dynamic_replica
        write(self.out, self.split, name, sample_tracks(sample, self.tracks, np.random.default_rng(self.seed)))
