"""What every camera head promises: special tokens of all frames in, encodings of cameras out, and what those mean."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from recon4d.records import Cameras

PRIOR_FIELD_OF_VIEW = 1.1
"""Radians across the geometric-mean side of the picture, where a head starts."""

FIELD_OF_VIEW_RANGE = (0.05, 3.0)
"""Radians that a field of view is held to where Cameras are made: about 3 and 172 degrees."""


class CameraPredictor(nn.Module):
    """Turns the special tokens of the last tap into camera encodings, of a width that each head chooses.

    Constructed as ``(config, tap_width)``. Sizes are (height, width) of the pictures in pixels.
    """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Start every camera near the prior, at the origin."""

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "batch time special tap_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Raw encodings, one stage for each refinement, the last being the answer; `tokens` begin with the camera's."""

    @abstractmethod
    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """The cameras of one stage; fields of view are kept in `FIELD_OF_VIEW_RANGE` here and nowhere before."""

    @abstractmethod
    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """The encoding that `decode` turns into these cameras."""
