"""Where the same points are seen in the pictures of several frames, whatever the cameras are believed to be."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.records.tensors import TensorRecord


@dataclass(frozen=True, eq=False)
class FeatureTracks(TensorRecord):
    """Where points of the scene were found in each frame's picture.

    `pixels` are (x, y) in maps of the scene's size. `seen` is how sure it is that the point is seen there; 0 where it
    is not, or nobody looked.
    """

    pixels: Float[Tensor, "*batch time track 2"]
    visibility: Float[Tensor, "*batch time track"]
