"""Base class of camera heads, which predict camera encodings from the special tokens of all frames."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from recon4d.records import Cameras

PRIOR_FIELD_OF_VIEW = 1.1
"""Initial field of view in radians, over the geometric mean of width and height. Hand-tuned: 63 degrees."""

FIELD_OF_VIEW_RANGE = (0.05, 3.0)
"""Limits in radians of a decoded field of view: about 3 and 172 degrees. Hand-tuned."""


class CameraPredictor(nn.Module):
    """Base class of heads that predict camera encodings from the special tokens of the last aggregator output.

    Subclasses are constructed as ``(config, feature_width)`` and choose the width of their encodings.
    """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialize every camera to the prior, at the origin."""

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "batch time special feature_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Predict raw encodings.

        Args:
            tokens: Special tokens; the first of each frame is the camera token.
            size: Height and width of the images in pixels.

        Returns:
            Encodings of every refinement stage; the last stage is the prediction.
        """

    @abstractmethod
    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """Decode the cameras of one stage. Only here are fields of view clamped to `FIELD_OF_VIEW_RANGE`.

        Args:
            encoding: Encodings of one stage.
            size: Height and width of the images in pixels.

        Returns:
            The cameras, with intrinsics for images of this size.
        """

    @abstractmethod
    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """Encode cameras; the inverse of `decode`.

        Args:
            cameras: Any cameras.
            size: Height and width in pixels of the images that the intrinsics refer to.

        Returns:
            The encodings.
        """
