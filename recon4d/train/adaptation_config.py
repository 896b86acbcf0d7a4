"""What an adaptation to one clip is: everything that decides its outcome, from the command line and into its folder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptWeights:
    """What each term weighs. The first three are consistency, the others hold the prediction where it was."""

    photometric: float = 1.0
    """A pixel looks the same where another frame sees it."""
    semantic: float = 0.1
    """A patch has the same backbone features there."""
    geometric: float = 0.5
    """The other frame's depth map says the same surface there."""
    keep_depth: float = 10.0
    """Squared change of the logarithm of depth: of its scale as of its shape."""
    keep_cameras: float = 1.0
    """Squared change of rotations, of centers in mean depths, and of the logarithm of focal lengths."""
    keep_rest: float = 1.0
    """Squared change of what the pictures do not test: point maps, tracks, visibility, moving mask, confidences."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"the weights of an adaptation are {vars(self)}; wanted none below 0")


@dataclass(frozen=True)
class AdaptConfig:
    """An adaptation from beginning to end."""

    steps: int = 100
    """Each looks at the whole clip and moves the weights once."""
    rate: float = 1e-3
    """AdamW's learning rate, after a tenth of the steps; it falls to zero over the second half."""
    rank: int = 4
    """Of the low-rank additions."""
    layers: tuple[str, ...] = ("aggregator.*attention.*",)
    """Patterns of the linear layers that are adapted; everything else stays as it is."""
    seed: int = 0
    """Decides the first weights of the additions, and which pairs of frames are held out and drawn."""
    processing_size: int | None = None
    """Work at about the area of a square of this many pixels a side; the model's own size by default."""
    reach: int = 6
    """Pairs are at most so many frames of the clip apart."""
    least_overlap: float = 0.2
    """The share of pixels of each frame of a pair that the other must see, by the first prediction."""
    held_out: float = 0.25
    """The share of pairs that judge the adaptation and never train it; one at least."""
    near_enough: float = 0.95
    """Nothing is adapted unless the first prediction brings the held-out error to this share of that of frames laid on
    each other as they are: pictures mend small errors, and teach nothing where a prediction explains nothing."""
    pairs_per_step: int = 12
    """So many ordered pairs of the others train in one step."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    weights: AdaptWeights = AdaptWeights()

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("rank", 1), ("reach", 1), ("pairs_per_step", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}; wanted at least {least}")
        for name in ("rate", "near_enough"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name):g}; wanted above 0")
        for name in ("least_overlap", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name):g}; wanted between 0 and 1")
