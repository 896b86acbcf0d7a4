"""Where batches come from: every one is a function of the seed, the step and the places of its clips in the batch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from recon4d.datasets import (
    DATASETS,
    Augmentation,
    ClipChoice,
    DynamicReplica,
    Mixture,
    PointOdyssey,
    Prepared,
    Sample,
    SequenceDataset,
    Source,
    sample_seed,
    step_loader,
)
from recon4d.datasets.sampling import random_numbers
from recon4d.datasets.synthetic import (
    Lattice,
    RenderParts,
    SyntheticConfig,
    compiled_parts,
    load_pictures,
    make_scenes,
    render_scenes,
)
from recon4d.records import Priors
from recon4d.train.config import (
    DataConfig,
    DataSet,
    Shape,
    TrainConfig,
)
from recon4d.train.objective import Batch

TRAINING_FAMILY, VALIDATION_FAMILY = 0, 1
"""Seeds under which worlds are drawn; those of benchmarks are others."""
DISK_TRACKS = 2048
LEAST_DIFFICULTY = 0.4


@dataclass(frozen=True)
class RankInfo:
    """Which part of the work is this process's, and where it is done."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable


class Batches:
    """One process's batches of a training, step after step, each in as many parts as gradients are accumulated.

    Raises ``ValueError`` where a batch cannot be shared out evenly, and for data sets that are not there.
    """

    def __init__(self, training: TrainConfig, share: RankInfo) -> None:
        config = training.data
        self._config, self._share = config, share
        self._seed, self._steps, self._accumulate = training.seed, training.steps, training.accumulate
        self._parts = compiled_parts() if training.compile else RenderParts()
        self._pictures = load_pictures(Path(config.textures)).to(share.device) if config.textures else None
        self._shapes, self._sets = config.parsed_shapes, config.parsed_sets
        for shape in self._shapes:
            self._clips_of_part(shape)
        parts = tuple(Source(one.name, open_data_set(one), one.weight, one.name in config.still) for one in self._sets)
        self._prepared = {shape: self._prepare(parts, shape) for shape in self._shapes} if parts else {}

    def from_step(self, first_step: int) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its parts) from `first_step` to the last."""
        from_disk = self._disk_batches(first_step)
        for step in range(first_step, self._steps):
            if self.is_of_worlds(step):
                yield step, [self.worlds(step, part) for part in range(self._accumulate)]
            else:
                assert from_disk is not None
                samples = [next(from_disk).to(self._share.device) for _ in range(self._accumulate)]
                yield step, [self._with_known(sample, step, part) for part, sample in enumerate(samples)]

    def shape(self, step: int) -> Shape:
        """The shape of all clips of a step."""
        weights = np.array([shape.weight for shape in self._shapes])
        drawn = random_numbers(self._seed, f"shape of step {step}").random()
        return self._shapes[int(np.searchsorted(np.cumsum(weights / weights.sum())[:-1], drawn, side="right"))]

    def is_of_worlds(self, step: int) -> bool:
        """Whether a step's batch is of worlds or from disk."""
        of_sets = sum(one.weight for one in self._sets)
        share = self._config.worlds_weight / (self._config.worlds_weight + of_sets)
        return random_numbers(self._seed, f"kind of step {step}").random() < share

    def worlds(self, step: int, part: int) -> Batch:
        """The part's worlds, made and filmed on the device that trains."""
        shape = self.shape(step)
        config = SyntheticConfig(shape.num_frames, shape.height, shape.width, loose_share=self._config.loose_share)
        seeds = [sample_seed(self._seed, step, place) for place in self._places(shape, part)]
        count = 0 if self._pictures is None else len(self._pictures)
        ramp = step / max(1, self._config.ramp_share * self._steps)
        difficulty = min(1.0, LEAST_DIFFICULTY + (1 - LEAST_DIFFICULTY) * ramp)
        world = make_scenes(config, TRAINING_FAMILY, seeds, self._share.device, difficulty, count)
        tracked = self._tracked(step)
        anchors = self._anchors(step, part).to(self._share.device)
        sample = render_scenes(world, config, anchors, self._pictures, self._parts, tracked)
        return self._with_known(sample, step, part)

    def _anchors(self, step: int, part: int) -> Int[Tensor, "batch 1"]:
        """The frame of each clip whose pixels are tracked: the first, or any."""
        anchors = []
        for draw in self._draws(step, part):
            is_any = draw.random(3)[2] < self._config.other_anchor_share
            anchors.append(int(draw.integers(self.shape(step).num_frames)) if is_any else 0)
        return torch.tensor(anchors)[:, None]

    def _draws(self, step: int, part: int) -> list[np.random.Generator]:
        """What decides for each clip of a part what is told and asked: numbers of its own."""
        places = self._places(self.shape(step), part)
        return [random_numbers(sample_seed(self._seed, step, place), "known") for place in places]

    def _tracked(self, step: int) -> Lattice:
        """Every so many pixels from another one in each step: those never asked for would never learn to answer."""
        stride = self._config.track_stride
        row, column = random_numbers(self._seed, f"tracks of step {step}").integers(stride, size=2)
        return Lattice(stride, (int(row), int(column)))

    def _with_known(self, sample: Sample, step: int, part: int) -> Batch:
        """The batch, told what some of its clips are allowed to know."""
        draws = np.array([one.random(3) for one in self._draws(step, part)])
        is_told = draws[:, 0] < self._config.known_share
        knows_cameras = is_told & (draws[:, 1] < 0.5)
        known = known_of(sample, torch.from_numpy(is_told), torch.from_numpy(knows_cameras))
        tracks = sample.scene.tracks
        assert tracks is not None
        clip = replace(sample.clip, priors=known, source=None)
        seed = sample_seed(self._seed, step, self._places(self.shape(step), part)[0])
        return Batch(replace(sample, clip=clip, object_ids=None), tracks.anchors, seed)

    def _clips_of_part(self, shape: Shape) -> int:
        """How many clips of this shape each process has in each part."""
        among = self._share.world_size * self._accumulate
        total = round(self._config.batch_size * shape.batch_factor)
        if total < among or total % among:
            raise ValueError(
                f"a batch of {total} clips of {shape.num_frames} x {shape.height} x {shape.width} cannot be shared out "
                f"among {self._share.world_size} processes x {self._accumulate} parts"
            )
        return total // among

    def _places(self, shape: Shape, part: int) -> range:
        """Places in the global batch of this process's clips in a part."""
        clips = self._clips_of_part(shape)
        first = (part * self._share.world_size + self._share.rank) * clips
        return range(first, first + clips)

    def _disk_batches(self, first_step: int) -> Iterator[Sample] | None:
        if not self._prepared:
            return None
        places = (
            [(step, place) for place in self._places(self.shape(step), part)]
            for step in range(first_step, self._steps)
            if not self.is_of_worlds(step)
            for part in range(self._accumulate)
        )
        return iter(step_loader(_SamplesOfSteps(self), list(places), self._config.workers))

    def _prepare(self, parts: tuple[Source, ...], shape: Shape) -> Prepared:
        # Tracks start at one frame, which is drawn here and not, as of worlds, among all of them afterwards.
        choice = ClipChoice(num_frames=shape.num_frames, other_anchor_share=self._config.other_anchor_share)
        return Prepared(Mixture(parts, choice), (shape.height, shape.width), DISK_TRACKS, augmentation=Augmentation())

    def from_disk(self, step: int, place: int) -> Sample:
        """One sample of a step's global batch from the mixture of data sets."""
        return self._prepared[self.shape(step)].sample(sample_seed(self._seed, step, place))


class _SamplesOfSteps(Dataset[Sample]):
    """Samples from disk by (step, place in the global batch)."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return self._batches.from_disk(*place)


def validation_batches(config: DataConfig, clips: int, device: torch.device) -> list[Batch]:
    """Worlds that training never sees, one clip a batch, all of them with motion from the first frame."""
    shape = config.parsed_shapes[0]
    world_config = SyntheticConfig(num_frames=shape.num_frames, height=shape.height, width=shape.width)
    batches = []
    for number in range(clips):
        world = make_scenes(world_config, VALIDATION_FAMILY, [number], device)
        sample = render_scenes(world, world_config, (0,), tracked=Lattice(config.track_stride))
        nothing = torch.zeros(1, dtype=torch.bool)
        clip = replace(sample.clip, priors=known_of(sample, nothing, nothing))
        batches.append(Batch(replace(sample, clip=clip, object_ids=None), torch.zeros(1, 1, dtype=torch.long)))
    return [batch.to(device) for batch in batches]


def known_of(sample: Sample, is_told: torch.Tensor, knows_cameras: torch.Tensor) -> Priors:
    """Intrinsics of the clips that are told, cameras too of those that know them, NaN of the others, and no depth."""
    cameras = sample.scene.cameras
    told = is_told.to(cameras.intrinsics.device)[:, None, None, None]
    with_cameras = knows_cameras.to(cameras.intrinsics.device)[:, None, None, None]
    return Priors(
        intrinsics=torch.where(told, cameras.intrinsics, torch.nan),
        world_from_cam=torch.where(with_cameras, cameras.world_from_cam, torch.nan),
        # All unknown, but there: so every parameter has a gradient in every step, on every rank.
        depths=torch.full_like(sample.scene.depths, torch.nan),
    )


def open_data_set(wanted: DataSet) -> SequenceDataset:
    """The data set on disk. Raises ``ValueError`` or ``FileNotFoundError`` where there is none."""
    if wanted.name not in DATASETS:
        raise ValueError(f"unknown data set {wanted.name!r}; there are {', '.join(DATASETS)}")
    kind = DATASETS[wanted.name]
    if kind in (PointOdyssey, DynamicReplica):
        return kind(wanted.root, wanted.split or "train")  # pyright: ignore[reportCallIssue]
    return kind(wanted.root)  # pyright: ignore[reportCallIssue]
