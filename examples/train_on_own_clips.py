"""Train on clips of your own, mixed with synthetic worlds, in a loop of your own.

    python examples/train_on_own_clips.py my_clips/ --steps 1000 --out mine.safetensors

`my_clips/` holds npz files, one a clip: ``images`` (time, 3, height, width) uint8, ``depths`` (time, height, width),
0 where unknown, ``world_from_cam`` (time, 4, 4) and ``intrinsics`` (time, 3, 3) in OpenCV axes. Change `OwnClips` to
read whatever you have; `recon4d train` does the same for data sets it knows, with checkpoints and several GPUs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

import recon4d
from recon4d.datasets import (
    ClipChoice,
    Mixture,
    Prepared,
    Sample,
    Source,
    ground_truth_scene,
    make_loader,
)
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.records import Cameras, Clip
from recon4d.train.objective import (
    Batch,
    TrainModule,
    objective,
    terms_of,
)


@dataclass(frozen=True)
class Arguments:
    """Train a model on npz files with pictures, depth and cameras, and on synthetic worlds in equal parts."""

    data: tyro.conf.Positional[Path]
    """Folder of npz files."""
    out: Path
    """The checkpoint to write (.safetensors)."""
    model: str = "recon4d_tiny"
    steps: int = 200
    batch_size: int = 4
    num_frames: int = 4
    size: tuple[int, int] = (96, 128)
    """Height and width that every clip is cropped and resized to."""
    learning_rate: float = 5e-4


class OwnClips:
    """All it takes to be a source of samples: the same clip and truth for the same seed."""

    def __init__(self, folder: Path, num_frames: int) -> None:
        self.files, self.num_frames = sorted(folder.glob("*.npz")), num_frames
        if not self.files:
            raise ValueError(f"{folder} holds no npz files")

    def sample(self, seed: int) -> Sample:
        random = np.random.default_rng(seed)
        stored = np.load(self.files[random.integers(len(self.files))])
        first = random.integers(len(stored["images"]) - self.num_frames + 1)
        taken = {name: torch.from_numpy(values[first : first + self.num_frames]) for name, values in stored.items()}
        clip = Clip(taken["images"], torch.arange(self.num_frames) / 10)
        cameras = Cameras(taken["world_from_cam"], taken["intrinsics"])
        # Nothing says what moves here, and no point is followed: those terms of the objective count other clips alone.
        return Sample(clip, ground_truth_scene(cameras, taken["depths"], known=taken["depths"] > 0))


def main(arguments: Arguments) -> None:
    frames, (height, width) = arguments.num_frames, arguments.size
    worlds = SyntheticScenes(SyntheticConfig(num_frames=frames, height=height, width=width))
    parts = (Source("own", OwnClips(arguments.data, frames)), Source("worlds", worlds))
    source = Prepared(Mixture(parts, ClipChoice(num_frames=frames)), arguments.size, num_tracks=256)
    batches = make_loader(source, 0, 0, arguments.batch_size, rank=0, world_size=1, workers=0)

    model = recon4d.create_model(arguments.model)
    trainee = TrainModule(model)
    optimizer = torch.optim.AdamW(model.parameters(), arguments.learning_rate)
    for step, sample in zip(range(1, arguments.steps + 1), batches, strict=False):
        totals, counts = trainee(Batch(sample, asked=sample.scene.tracks.anchors[:, :1]))
        loss, means = objective(totals, counts, trainee.weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step == 1 or step % max(1, arguments.steps // 10) == 0:
            named = dict(zip(terms_of(trainee.weights), means.tolist(), strict=True))
            print(f"step {step:5d}  loss {loss:.3f}  depth {named['depth']:.3f}  points {named['points']:.3f}")

    model.trained = True
    recon4d.save_model(model, arguments.out)
    print(f"{arguments.out}: recon4d reconstruct clip.mp4 --model {arguments.out} --out out/")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
