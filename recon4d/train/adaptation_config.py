"""Configuration of test-time adaptation, as given on the command line and stored in the output folder."""

from dataclasses import dataclass

from recon4d.errors import UserError


@dataclass(frozen=True)
class AdaptWeights:
    """Weights of the terms of the objective.

    The first three terms measure consistency between frames; the others keep the prediction close to the initial one.
    """

    photometric: float = 1.0
    """Photometric difference between a pixel and its projection into another frame."""
    semantic: float = 0.1
    """Difference between the backbone features of a patch and those at its projection into another frame."""
    geometric: float = 0.5
    """Relative difference between the depth of a projected pixel and the other frame's depth map."""
    keep_depth: float = 10.0
    """Squared change of log depth, in scale and in shape."""
    keep_cameras: float = 1.0
    """Squared change of rotations, of centers in units of the mean depth, and of log focal lengths."""
    keep_rest: float = 1.0
    """Squared change of outputs that the images do not constrain: point maps, tracks, visibility, dynamic mask and
    confidences."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise UserError(f"the weights of an adaptation are {vars(self)}; wanted none below 0")


@dataclass(frozen=True)
class AdaptConfig:
    """Configuration of test-time adaptation."""

    steps: int = 100
    """Optimizer steps; each predicts the whole clip once."""
    rate: float = 1e-3
    """Peak learning rate of AdamW. It warms up over the first tenth of the steps and falls to zero over the second
    half."""
    rank: int = 4
    """Rank of the low-rank matrices (LoRA)."""
    layers: tuple[str, ...] = ("aggregator.*attention.*",)
    """Patterns of the linear layers that are adapted; all other weights stay as they are."""
    seed: int = 0
    """Random seed of the low-rank matrices and of the held-out and training pairs of frames."""
    processing_size: int | None = None
    """Images are resized to about the area of a square with this side, in pixels; None for the model's own size."""
    reach: int = 6
    """Largest distance between the two frames of a pair, in frames of the clip."""
    least_overlap: float = 0.2
    """Smallest fraction of the pixels of each frame of a pair that the other frame sees, by the initial prediction."""
    held_out: float = 0.25
    """Fraction of the pairs that is never trained on and decides whether the adapted model is kept; at least one
    pair."""
    near_enough: float = 0.95
    """Largest held-out error of the initial prediction, as a fraction of the error without any warping. Above it
    nothing is adapted: images correct small errors only."""
    pairs_per_step: int = 12
    """Largest number of ordered training pairs per step."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for about a third more time."""
    weights: AdaptWeights = AdaptWeights()
    """Weights of the terms of the objective."""

    def __post_init__(self) -> None:
        for name in ("steps", "rank", "reach", "pairs_per_step"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}; wanted at least 1")
        for name in ("rate", "near_enough"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} = {getattr(self, name):g}; wanted above 0")
        for name in ("least_overlap", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name):g}; wanted between 0 and 1")
