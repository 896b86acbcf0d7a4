"""What a training is: everything that decides its outcome, from the command line and written into its folder."""

import re
from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
Sharding = Literal["none", "full"]
TrackerName = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class Shape:
    """One kind of clip: how many frames of which size, and how often it is drawn relative to the others."""

    num_frames: int
    height: int
    width: int
    weight: float = 1.0
    batch_factor: float = 1.0
    """The global batch has this many times `batch_size` clips, rounded."""

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """``8x192x256``, with ``*2`` behind it drawn twice as often, with ``@0.5`` in half as large batches."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:\*([\d.]+))?(?:@([\d.]+))?", text)
        if found is None:
            raise ValueError(f"shape {text!r}; wanted FRAMESxHEIGHTxWIDTH[*WEIGHT][@BATCH_FACTOR], such as 8x192x256*2")
        frames, height, width = (int(number) for number in found.groups()[:3])
        weight, factor = (1.0 if number is None else float(number) for number in found.groups()[3:])
        if frames < 1 or min(height, width) < 32 or weight <= 0 or factor <= 0:
            raise ValueError(f"shape {text!r}; wanted at least 1 frame of 32 x 32 pixels, and weights above 0")
        return cls(frames, height, width, weight, factor)


@dataclass(frozen=True)
class DataSet:
    """A data set on disk, by its name in `recon4d.datasets.DATASETS`, and how often it is drawn."""

    name: str
    root: str
    split: str = ""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "DataSet":
        """``kubric=/data/movi``; with ``@SPLIT`` behind it where there are some, ``*2`` to draw it twice as often."""
        found = re.fullmatch(r"([\w-]+)=(.+?)(?:@(\w+))?(?:\*([\d.]+))?", text)
        if found is None:
            raise ValueError(f"data set {text!r}; wanted NAME=FOLDER[@SPLIT][*WEIGHT], such as kubric=/data/movi*2")
        name, root, split, weight = found.groups()
        return cls(name, root, split or "", 1.0 if weight is None else float(weight))


@dataclass(frozen=True)
class LossWeights:
    """What each term of the objective weighs.

    The first are those of every training: a weight of 0 leaves one out of the sum, and it is still reported. Those of
    weight 0 by default are options: with 0 they are not even computed.
    """

    depth: float = 1.0
    depth_gradient: float = 0.5
    points: float = 1.0
    motion: float = 2.0
    track_confidence: float = 0.1
    visibility: float = 0.2
    moving: float = 0.2
    rotation: float = 4.0
    translation: float = 1.0
    centre: float = 4.0
    field_of_view: float = 1.0
    principal_point: float = 1.0
    match: float = 0.5
    no_match: float = 0.15
    match_position: float = 0.5

    confident_depth: float = 0.0
    """VGGT: the residual of depth weighed by its own confidence."""
    plain_depth: float = 0.0
    """VGGT: the residual itself, without its worst fiftieth."""
    depth_slopes: float = 0.0
    """VGGT: differences of depth between neighboring pixels at four scales, weighed by confidence."""
    confident_points: float = 0.0
    """VGGT: as of depth, of point maps."""
    plain_points: float = 0.0
    point_normals: float = 0.0
    """VGGT: 1 - cos of the normals of point maps, at three scales."""
    affine_points: float = 0.0
    """MoGe: points of the depth map up to a scale and a shift along z of each picture."""
    local_points: float = 0.0
    """MoGe: points of small parts of the picture, each up to its own scale and shift."""
    normal_angles: float = 0.0
    """MoGe: angles between normals of the depth map, in radians."""
    tracked_points: float = 0.0
    """St4RTrack: where the asked frame's pixels are at every time, as points of the world."""
    photometric: float = 0.0
    """Without truth: pixels look the same where the prediction finds them in other frames."""
    semantic: float = 0.0
    """Without truth: and mean the same to the backbone, for which it needs DINO's; 0.1 is much."""


@dataclass(frozen=True)
class RateRule:
    """Parameters whose names match `pattern` (``*`` matches dots too) learn at `factor` times the rate."""

    pattern: str
    factor: float

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise ValueError(f"the rate of {self.pattern!r} was given a factor of {self.factor}; wanted 0 or more")


@dataclass(frozen=True)
class RateConfig:
    """Shares of the learning rate. Where several rules match, the last decides."""

    rules: tuple[RateRule, ...] = ()
    backbone_decay: float = 1.0
    """Each block of the backbone learns at so many times the rate of the block above it."""

    def __post_init__(self) -> None:
        if not 0 < self.backbone_decay <= 1:
            raise ValueError(f"the backbone's rate decay is {self.backbone_decay}; wanted above 0 and up to 1")


@dataclass(frozen=True)
class OptimiserConfig:
    """Learning rates at a multiplier of 1, and what goes with them."""

    kind: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices of transformer blocks and AdamW for the rest, or AdamW for all."""
    muon_rate: float = 2e-3
    adamw_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    """Decoupled, of matrices only; each step takes rate x decay of a weight."""
    clip: float = 1.0
    """Gradients longer than this, all together, are shortened to it."""
    rates: RateConfig = RateConfig()

    def __post_init__(self) -> None:
        if min(self.muon_rate, self.adamw_rate, self.weight_decay) < 0 or self.clip <= 0:
            raise ValueError(
                f"rates {self.muon_rate} and {self.adamw_rate}, weight decay {self.weight_decay}, clip {self.clip}:"
                " wanted none below 0, and the clip above"
            )


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from. Every one is a function of (seed, step, position in the global batch)."""

    worlds_weight: float = 1.0
    """How often synthetic worlds are drawn, against the weights of `sets`; they are made on the device that trains."""
    sets: tuple[str, ...] = ()
    """Data sets on disk, each NAME=FOLDER[@SPLIT][*WEIGHT] (see `DataSet.parse`)."""
    still: tuple[str, ...] = ("7-scenes",)
    """Names of those among `sets` in which nothing ever moves: depth and cameras tell where everything is seen. Add
    "tum" for a folder without its walking and sitting people."""
    shapes: tuple[str, ...] = ("8x192x256",)
    """Each FRAMESxHEIGHTxWIDTH[*WEIGHT][@BATCH_FACTOR] (see `Shape.parse`); every step draws one for its batch."""
    batch_size: int = 8
    """Clips of the global batch, over all processes."""
    ramp_share: float = 0.08
    """Motion of worlds grows from .4 to all of it over this first share of the steps."""
    known_share: float = 0.33
    """Clips whose intrinsics, and for half of those cameras too, are given to the network."""
    other_anchor_share: float = 0.5
    """Clips whose tracks start at a random frame (any of them); the others start at the first."""
    loose_share: float = 0.15
    """Clips of worlds whose frames are shuffled photos without times, behind the first."""
    track_stride: int = 3
    """Tracks of worlds start at every so many pixels of every frame, from another pixel in each step; odd, so that each
    step asks for every place in a patch."""
    textures: str = ""
    """A folder of pictures that worlds are painted with; procedural patterns alone without."""
    workers: int = 0
    """Processes that read data sets ahead."""

    def __post_init__(self) -> None:
        if self.worlds_weight <= 0 and not self.sets:
            raise ValueError("nothing to train on: worlds_weight is 0 and there are no data sets")
        if not self.shapes:
            raise ValueError("clips need at least one shape, such as 8x192x256")
        _ = self.parsed_shapes, self.parsed_sets  # refused now, and not when training begins

    @property
    def parsed_shapes(self) -> tuple[Shape, ...]:
        return tuple(map(Shape.parse, self.shapes))

    @property
    def parsed_sets(self) -> tuple[DataSet, ...]:
        return tuple(map(DataSet.parse, self.sets))


@dataclass(frozen=True)
class TrainConfig:
    """A training from beginning to end."""

    model: str = "recon4d_small"
    """A name that `recon4d models` lists; its own weights do not count."""
    init: str = ""
    """A checkpoint (.safetensors) to start from instead of random weights."""
    backbone_weights: str = ""
    """For DINO-backed models: a local file, or "pretrained" to let timm download them."""
    steps: int = 10_000
    seed: int = 0
    warmup_steps: int = 200
    decay_share: float = 0.32
    """The share of all steps, at the end, over which the rate falls to zero."""
    accumulate: int = 1
    """Each step is the mean of so many batches."""
    precision: Precision = "auto"
    """auto: bfloat16 on CUDA, else float32."""
    compile: bool = False
    """Compile the transformer blocks (and the rendering of worlds)."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    sharding: Sharding = "none"
    """none: every process has the whole model. full: they share out parameters, gradients and optimizer states."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that do not learn, such as "backbone.*"."""
    lora: tuple[str, ...] = ()
    """Patterns of linear layers that learn by low-rank additions only."""
    lora_rank: int = 8
    average: float = 0.998
    """Decay of the running average of the weights, which is what is validated and saved as the model."""
    data: DataConfig = DataConfig()
    losses: LossWeights = LossWeights()
    optimiser: OptimiserConfig = OptimiserConfig()
    log_every: int = 20
    trackers: tuple[TrackerName, ...] = ()
    """Where the log goes beside log.jsonl; each is a package to be installed."""
    save_every: int = 500
    keep: int = 2
    """The last so many checkpoints stay, and the best."""
    validate_every: int = 1000
    validation_clips: int = 8
    most_skipped: int = 20
    """Steps whose gradients are not finite are skipped; after so many the training stops."""

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "accumulate": self.accumulate, "log_every": self.log_every}
        counts |= {"save_every": self.save_every, "keep": self.keep, "validate_every": self.validate_every}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} = {value}; wanted at least 1")
