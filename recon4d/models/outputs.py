"""Result of a forward pass: a `Scene` and the additional outputs that training and refinement need."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.heads import Rays
from recon4d.layers import Matches, TwoViewFilter
from recon4d.records import Scene


@dataclass(frozen=True)
class Outputs:
    """A predicted scene with additional outputs; outputs of parts that a model does not have are None."""

    scene: Scene
    """The predicted scene."""
    camera_stages: Float[Tensor, "stage batch time encoding"]
    """Raw camera encodings of all refinement stages; the last stage decodes to the cameras of the scene."""
    matches: Matches | None
    """Matches of every frame to the first, the previous and the next frame (`Matching.match_neighbors`)."""
    anchor_matches: Matches | None
    """Matches of every anchor frame to every frame (`Matching.match_anchors`)."""
    cell_features: Float[Tensor, "batch time cells channels"] | None
    """Cell features, from which `Matching.match` can match further pairs of frames."""
    dynamic_logits: Float[Tensor, "batch time height width"] | None
    """Logits of `Scene.dynamic`."""
    visibility_logits: Float[Tensor, "batch anchor time query"] | None
    """Logits of the visibility of dense tracks; unused at the time of the anchor frame (visibility 1)."""
    features: tuple[Float[Tensor, "batch time tokens _"], ...]
    """Outputs of the aggregator at its `out_indices` (`AggregatorState.features`)."""
    two_view: TwoViewFilter | None = None
    """Epipolar constraint of known and predicted cameras, if `MatchingConfig.epipolar_width` asks for it."""
    rays: Rays | None = None
    """Rays of all frames; None unless cameras come from them (`Model.camera_source`)."""
    sky: Float[Tensor, "batch time height width"] | None = None
    """Evidence for sky of all pixels (`recon4d.models.sky`); None for networks that do not predict it."""
