"""What a forward pass answers: a Scene, and what training needs beside it."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.layers import Matches
from recon4d.records import Scene


@dataclass(frozen=True)
class Outputs:
    """A predicted Scene, and what training needs beside it; what a model has no part for is None."""

    scene: Scene
    camera_stages: Float[Tensor, "stage batch time encoding"]
    """Raw camera encodings, the last stage being the scene's cameras (the camera head's `decode`)."""
    matches: Matches | None
    """Every frame's cells in its first, previous and next frame: pairs (frame, neighbor), the neighbor fastest."""
    anchor_matches: Matches | None
    """Every anchor's cells in every frame: pairs (anchor, frame), the frame fastest."""
    cell_features: Float[Tensor, "batch time cells channels"] | None
    """What was matched; `Matching.match` matches any other pair of frames from it."""
    dynamic_logits: Float[Tensor, "batch time height width"] | None
    visibility_logits: Float[Tensor, "batch anchor time query"] | None
    """At the anchor's own time these are not used: every pixel is seen where it was found."""
    features: tuple[Float[Tensor, "batch time tokens _"], ...]
