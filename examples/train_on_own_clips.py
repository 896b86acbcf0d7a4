"""Train on your own clips, mixed with synthetic scenes, in your own training loop.

    python examples/train_on_own_clips.py my_clips/ --steps 1000 --out mine.safetensors

`my_clips/` holds one npz file for each clip: ``images`` (time, 3, height, width) uint8, ``depths`` (time, height,
width) with 0 for unknown depth, ``world_from_cam`` (time, 4, 4) and ``intrinsics`` (time, 3, 3) in OpenCV axes. Change
`OwnClips` to read another format. `recon4d train` trains on supported data sets, with checkpoints and several GPUs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

import recon4d
from recon4d.datasets import (
    ClipSampling,
    Mixture,
    PreprocessedSource,
    Sample,
    Source,
    ground_truth_scene,
    make_loader,
)
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.models import require_trainable
from recon4d.records import Cameras, Clip
from recon4d.train.objective import (
    Batch,
    TrainModule,
    objective,
    term_names,
)
from recon4d.zoo import find_model


@dataclass(frozen=True)
class Arguments:
    """Train a model on npz files with images, depth and cameras, and on synthetic scenes in equal parts."""

    data: tyro.conf.Positional[Path]
    """Folder of npz files."""
    out: Path
    """Checkpoint to write (.safetensors)."""
    model: str = "recon4d_tiny"
    """Name of the architecture, as listed by `recon4d models`."""
    steps: int = 200
    """Optimizer steps."""
    batch_size: int = 4
    """Clips per step."""
    num_frames: int = 4
    """Frames per clip."""
    size: tuple[int, int] = (96, 128)
    """Height and width to which every clip is cropped and resized, in pixels."""
    learning_rate: float = 5e-4
    """Learning rate of AdamW."""


class OwnClips:
    """A minimal source of samples: `sample` returns the same clip and ground truth for the same seed."""

    def __init__(self, folder: Path, num_frames: int) -> None:
        self.files, self.num_frames = sorted(folder.glob("*.npz")), num_frames
        if not self.files:
            raise UserError(f"{folder} holds no npz files")

    def sample(self, seed: int) -> Sample:
        random = np.random.default_rng(seed)
        stored = np.load(self.files[random.integers(len(self.files))])
        first = random.integers(len(stored["images"]) - self.num_frames + 1)
        arrays = {name: torch.from_numpy(values[first : first + self.num_frames]) for name, values in stored.items()}
        clip = Clip(arrays["images"], torch.arange(self.num_frames) / 10)
        cameras = Cameras(arrays["world_from_cam"], arrays["intrinsics"])
        # These files have no dynamic mask and no tracks, so the terms for motion are computed on other clips only.
        return Sample(clip, ground_truth_scene(cameras, arrays["depths"], is_known=arrays["depths"] > 0))


def main(arguments: Arguments) -> None:
    frames, (height, width) = arguments.num_frames, arguments.size
    synthetic = SyntheticScenes(SyntheticConfig(num_frames=frames, height=height, width=width))
    sources = (Source("own", OwnClips(arguments.data, frames)), Source("synthetic", synthetic))
    source = PreprocessedSource(Mixture(sources, ClipSampling(num_frames=frames)), arguments.size, num_tracks=256)
    batches = make_loader(source, 0, 0, arguments.batch_size, rank=0, world_size=1, num_workers=0)

    model = require_trainable(find_model(arguments.model, allow_untrained=True))
    train_module = TrainModule(model)
    optimizer = torch.optim.AdamW(model.parameters(), arguments.learning_rate)
    for step, sample in zip(range(1, arguments.steps + 1), batches, strict=False):
        totals, counts = train_module(Batch(sample, anchors=sample.scene.tracks.anchors[:, :1]))
        loss, means = objective(totals, counts, train_module.weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step == 1 or step % max(1, arguments.steps // 10) == 0:
            terms = dict(zip(term_names(train_module.weights), means.tolist(), strict=True))
            print(f"step {step:5d}  loss {loss:.3f}  depth {terms['depth']:.3f}  points {terms['points']:.3f}")

    model.trained = True
    recon4d.save_model(model, arguments.out)
    print(f"{arguments.out}: recon4d reconstruct clip.mp4 --model {arguments.out} --out out/")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
