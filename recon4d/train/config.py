"""Configuration of a training run, as given on the command line and stored in the run folder."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from recon4d.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]
Sharding = Literal["none", "full"]
Backward = Literal["joint", "separate"]
Heads = Literal["auto", "linear", "dpt"]
TrackerName = Literal["tensorboard", "wandb"]

MIN_SIDE = 32
"""Smallest height and width of a training clip, in pixels: two patches of 16 pixels."""
_NUMBER = r"\d+\.?\d*|\.\d+"


def _check_minimum(config: object, minima: dict[str, int]) -> None:
    for name, minimum in minima.items():
        value = getattr(config, name)
        if value < minimum:
            raise UserError(f"{name} = {value}; wanted at least {minimum}")


def _check_fractions(config: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"{name} = {value:g}; wanted from 0 to 1")


@dataclass(frozen=True)
class Shape:
    """Number of frames and image size of training clips, and how often this shape is drawn."""

    num_frames: int
    """Frames per clip."""
    height: int
    """Image height in pixels."""
    width: int
    """Image width in pixels."""
    weight: float = 1.0
    """Probability of drawing this shape, relative to the other shapes."""
    batch_factor: float = 1.0
    """Factor on the global batch size for this shape; the product is rounded."""

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Parse a shape.

        Args:
            text: ``FRAMESxHEIGHTxWIDTH[*WEIGHT][@BATCH_FACTOR]``. ``8x192x256*2@0.5`` is drawn twice as often as a
                shape of weight 1, in batches of half the size.

        Returns:
            The shape.

        Raises:
            UserError: If the text does not have this form, or a number is out of range.
        """
        match = re.fullmatch(rf"(\d+)x(\d+)x(\d+)(?:\*({_NUMBER}))?(?:@({_NUMBER}))?", text)
        if match is None:
            raise UserError(f"shape {text!r}; wanted FRAMESxHEIGHTxWIDTH[*WEIGHT][@BATCH_FACTOR], such as 8x192x256*2")
        frames, height, width = (int(number) for number in match.groups()[:3])
        weight, factor = (1.0 if number is None else float(number) for number in match.groups()[3:])
        if frames < 1 or min(height, width) < MIN_SIDE or weight <= 0 or factor <= 0:
            raise UserError(
                f"shape {text!r}; wanted at least 1 frame of {MIN_SIDE} x {MIN_SIDE} pixels, and weights above 0"
            )
        return cls(frames, height, width, weight, factor)


@dataclass(frozen=True)
class DataSet:
    """A data set on disk, and how often it is drawn."""

    name: str
    """Name in `recon4d.datasets.DATASETS`."""
    root: str
    """Folder of the data set."""
    split: str = ""
    """Split of the data set; empty for the training split, or if the data set has no splits."""
    weight: float = 1.0
    """Probability of drawing this data set, relative to the others and to synthetic scenes."""

    @classmethod
    def parse(cls, text: str) -> "DataSet":
        """Parse a data set.

        Args:
            text: ``NAME=FOLDER[@SPLIT][*WEIGHT]``. ``kubric=/data/movi*2`` is drawn twice as often as a data set of
                weight 1.

        Returns:
            The data set.

        Raises:
            UserError: If the text does not have this form, or the weight is 0.
        """
        match = re.fullmatch(rf"([\w-]+)=(.+?)(?:@(\w+))?(?:\*({_NUMBER}))?", text)
        if match is None:
            raise UserError(f"data set {text!r}; wanted NAME=FOLDER[@SPLIT][*WEIGHT], such as kubric=/data/movi*2")
        name, root, split, weight = match.groups()
        data_set = cls(name, root, split or "", 1.0 if weight is None else float(weight))
        if data_set.weight <= 0:
            raise UserError(f"data set {text!r} has weight {data_set.weight:g}; wanted above 0")
        return data_set


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms.

    Terms with a nonzero default are always computed and logged; weight 0 only removes them from the objective. Terms
    with default 0 are optional: they are computed only if their weight is not 0.
    """

    depth: float = 1.0
    """Confidence-weighted error of log depth."""
    depth_gradient: float = 0.5
    """Error of the spatial gradients of log depth, at several scales."""
    points: float = 1.0
    """Confidence-weighted error of point maps, relative to depth."""
    motion: float = 2.0
    """Error of the 3D displacement of tracked points."""
    track_confidence: float = 0.1
    """Calibration of the track confidence."""
    visibility: float = 0.2
    """Binary cross-entropy of the visibility of tracked points."""
    moving: float = 0.2
    """Binary cross-entropy of the dynamic mask."""
    rotation: float = 4.0
    """Error of relative camera rotations."""
    translation: float = 1.0
    """Error of relative camera translations."""
    centre: float = 4.0
    """Error of camera centers."""
    field_of_view: float = 1.0
    """Error of the fields of view."""
    principal_point: float = 1.0
    """Error of the principal point."""
    match: float = 0.5
    """Cross-entropy of soft matches between frames."""
    no_match: float = 0.15
    """Cross-entropy of the dustbin, for cells without a match."""
    match_position: float = 0.5
    """Error of the sub-cell position of matches."""

    confident_depth: float = 0.0
    """Depth residual weighted by the predicted confidence (VGGT)."""
    plain_depth: float = 0.0
    """Depth residual without the worst 2 percent of the pixels (VGGT)."""
    depth_slopes: float = 0.0
    """Confidence-weighted error of depth gradients at four scales (VGGT)."""
    confident_points: float = 0.0
    """Point map residual weighted by the predicted confidence (VGGT)."""
    plain_points: float = 0.0
    """Point map residual without the worst 2 percent of the pixels (VGGT)."""
    point_normals: float = 0.0
    """1 - cosine between normals of point maps, at three scales (VGGT)."""
    affine_points: float = 0.0
    """Error of the depth map's points after alignment of scale and z shift per image (MoGe)."""
    local_points: float = 0.0
    """Error of points in local regions, each aligned in scale and shift (MoGe)."""
    normal_angles: float = 0.0
    """Angle between normals of the depth map, in radians (MoGe)."""
    tracked_points: float = 0.0
    """Error of the world positions of the anchor frame's pixels at all times (St4RTrack)."""
    photometric: float = 0.0
    """Self-supervised: photometric difference after warping by the predicted geometry."""
    semantic: float = 0.0
    """Self-supervised: difference of backbone features after warping. It needs a DINO backbone and a weight of at
    most 0.1."""


@dataclass(frozen=True)
class RateRule:
    """A factor on the learning rate of some parameters."""

    pattern: str
    """Pattern of parameter names; ``*`` also matches dots."""
    factor: float
    """Factor on the learning rate, 0 or more."""

    def __post_init__(self) -> None:
        if not 0 <= self.factor < math.inf:
            raise UserError(f"the rate of {self.pattern!r} has a factor of {self.factor}; wanted 0 or more")


@dataclass(frozen=True)
class RateConfig:
    """Factors on the learning rate by parameter name."""

    rules: tuple[RateRule, ...] = ()
    """Rules by parameter name; if several match a parameter, the last one applies."""
    backbone_decay: float = 1.0
    """Layer-wise decay: each block of the backbone learns at this factor of the rate of the block above it; 1 disables
    the decay."""

    def __post_init__(self) -> None:
        if not 0 < self.backbone_decay <= 1:
            raise UserError(f"the backbone's rate decay is {self.backbone_decay}; wanted above 0 and up to 1")


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimizers, learning rates and gradient clipping."""

    kind: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of transformer blocks and AdamW for all other parameters. adamw: AdamW for all."""
    muon_rate: float = 2e-3
    """Peak learning rate of Muon."""
    adamw_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moments."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors and embeddings are not decayed."""
    clip: float = 1.0
    """Largest norm of the gradient of all parameters together; longer gradients are scaled down to it."""
    rates: RateConfig = RateConfig()
    """Factors on the learning rate by parameter name."""

    def __post_init__(self) -> None:
        if min(self.muon_rate, self.adamw_rate, self.weight_decay) < 0 or self.clip <= 0:
            raise UserError(
                f"rates {self.muon_rate} and {self.adamw_rate}, weight decay {self.weight_decay}, clip {self.clip}:"
                " wanted none below 0, and the clip above"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas = {self.betas}; wanted both from 0 to below 1")


@dataclass(frozen=True)
class DataConfig:
    """Training data. Each clip is a function of the seed, the step and its position in the global batch."""

    worlds_weight: float = 1.0
    """Probability of drawing synthetic scenes, relative to the weights of the data sets; 0 to train on data sets only.
    Synthetic scenes are rendered on the training device."""
    sets: tuple[str, ...] = ()
    """Data sets on disk, each `NAME=FOLDER[@SPLIT][*WEIGHT]`, such as `kubric=/data/movi*2`."""
    still: tuple[str, ...] = ("7-scenes",)
    """Names of data sets in which nothing moves, so that depth and cameras also give tracks and matches. Add "tum" only
    for a folder without the sequences that show walking or sitting people."""
    shapes: tuple[str, ...] = ("8x192x256",)
    """Clip shapes, each `FRAMESxHEIGHTxWIDTH[*WEIGHT][@BATCH_FACTOR]`; each step draws one for its whole batch."""
    batch_size: int = 8
    """Clips in the global batch, summed over all processes."""
    ramp_share: float = 0.08
    """Fraction of all steps over which the motion in synthetic scenes grows from 0.4 of its range to all of it."""
    known_share: float = 0.33
    """Fraction of clips whose true intrinsics are given to the network as priors; half of these also get cameras."""
    other_anchor_share: float = 0.5
    """Fraction of clips whose tracks start at a random frame; those of all other clips start at the first frame."""
    loose_share: float = 0.15
    """Fraction of synthetic clips that are unordered photos without times (the first frame stays first)."""
    track_stride: int = 3
    """Spacing of track queries in synthetic clips, in pixels. The grid is shifted in each step. The spacing should be
    odd, so that all positions within a patch are trained."""
    textures: str = ""
    """Folder of images used as textures of synthetic scenes; empty for procedural patterns only."""
    workers: int = 0
    """Processes that read data sets in the background; 0 to read in the training process."""

    def __post_init__(self) -> None:
        if self.worlds_weight < 0:
            raise UserError(f"worlds_weight = {self.worlds_weight:g}; wanted 0 or more")
        if self.worlds_weight == 0 and not self.sets:
            raise UserError("nothing to train on: worlds_weight is 0 and there are no data sets")
        if not self.shapes:
            raise UserError("clips need at least one shape, such as 8x192x256")
        _check_minimum(self, {"batch_size": 1, "track_stride": 1, "workers": 0})
        _check_fractions(self, ("ramp_share", "known_share", "other_anchor_share", "loose_share"))
        _ = self.parsed_shapes, self.parsed_sets  # reject malformed texts before training begins

    @property
    def parsed_shapes(self) -> tuple[Shape, ...]:
        """The clip shapes."""
        return tuple(map(Shape.parse, self.shapes))

    @property
    def parsed_sets(self) -> tuple[DataSet, ...]:
        """The data sets on disk."""
        return tuple(map(DataSet.parse, self.sets))


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run."""

    model: str = "recon4d_small"
    """Name of the architecture, as listed by `recon4d models`; its published weights are not loaded."""
    init: str = ""
    """Checkpoint, file of published weights, or name of a published model to start from; empty for random weights."""
    heads: Heads = "auto"
    """Kind of the dense heads: linear (faster) or dpt (sharper). auto: those of `init` or of the published model, else
    linear."""
    backbone_weights: str = ""
    """Weights of a DINO backbone: a local file, or "pretrained" to let timm download them; empty for random weights."""
    steps: int = 10_000
    """Number of optimizer steps."""
    seed: int = 0
    """Random seed of the initial weights and of the training data."""
    warmup_steps: int = 200
    """Steps of linear warm-up of the learning rate."""
    decay_share: float = 0.32
    """Fraction of all steps, at the end, over which the learning rate falls linearly to zero."""
    accumulate: int = 1
    """Micro-batches into which each batch is split; their gradients are accumulated."""
    backward: Backward = "joint"
    """joint: one backward pass of the whole objective. separate: one for each branch (reconstruction, then tracking),
    with the shared part of the graph detached and differentiated last: the same gradient with less memory."""
    precision: Precision = "auto"
    """float32, or bfloat16 (automatic mixed precision); auto is bfloat16 on CUDA and float32 elsewhere."""
    compile: bool = False
    """Compile the transformer blocks and the renderer of synthetic scenes with torch.compile."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for about a third more time."""
    sharding: Sharding = "none"
    """none: each process holds the whole model. full: parameters, gradients and optimizer states are sharded over all
    processes (FSDP)."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, such as "backbone.*"."""
    lora: tuple[str, ...] = ()
    """Patterns of linear layers that are trained by low-rank adaptation (LoRA) only."""
    lora_rank: int = 8
    """Rank of the low-rank matrices."""
    average: float = 0.998
    """Decay of the exponential moving average of the weights; the averaged weights are validated and saved."""
    data: DataConfig = DataConfig()
    """Training data."""
    losses: LossWeights = LossWeights()
    """Weights of the loss terms."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimizers and learning rates."""
    log_every: int = 20
    """Steps between two lines of the log."""
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that receive the log beside log.jsonl; the package of each must be installed."""
    save_every: int = 500
    """Steps between two checkpoints."""
    keep: int = 2
    """Number of latest checkpoints to keep, in addition to the one with the lowest validation loss."""
    validate_every: int = 1000
    """Steps between two validations."""
    validation_clips: int = 8
    """Clips of the validation set. They are synthetic scenes that are never used in training or, if worlds_weight is 0,
    clips drawn from the data sets with seeds that are never used in training."""
    most_skipped: int = 20
    """Largest number of steps with non-finite gradients. Such steps are skipped; training stops after more of them."""

    def __post_init__(self) -> None:
        at_least_one = ("steps", "accumulate", "log_every", "save_every", "keep", "validate_every", "validation_clips")
        _check_minimum(self, dict.fromkeys((*at_least_one, "lora_rank"), 1))
        _check_minimum(self, {"seed": 0, "warmup_steps": 0, "most_skipped": 0})
        _check_fractions(self, ("decay_share",))
        if self.backward == "separate" and self.sharding == "full":
            raise UserError("backward = 'separate' cannot be combined with sharding = 'full'; use backward = 'joint'")
        if not 0 <= self.average < 1:
            raise UserError(f"average = {self.average:g}; wanted from 0 to below 1")
