"""2D tracks of scene points through the images of a clip, independent of any camera estimate."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.records.tensors import TensorRecord


@dataclass(frozen=True, eq=False)
class FeatureTracks(TensorRecord):
    """Image positions of tracked points in every frame."""

    pixels: Float[Tensor, "*batch time track 2"]
    """Pixel coordinates (x, y) in maps of the scene's size; meaningless where `visibility` is 0."""
    visibility: Float[Tensor, "*batch time track"]
    """Confidence in [0, 1] that the point is visible at `pixels`; 0 if it is occluded, lost or was not searched."""
