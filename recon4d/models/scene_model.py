"""Base class of all networks that convert the images of a clip to a scene."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from recon4d.models.outputs import Outputs
from recon4d.records import Calibration, Priors, Scene

Images = UInt8[Tensor, "batch time 3 height width"] | Float[Tensor, "batch time 3 height width"]
"""RGB images: uint8, or floating point in [0, 1]."""


@dataclass(frozen=True)
class PassModules:
    """Modules whose calls are the steps of a pass, for the display of progress."""

    once: list[nn.Module]
    """Modules that are called once."""
    per_chunk: list[nn.Module]
    """Modules that are called once for each chunk of frames."""
    per_anchor_chunk: list[nn.Module]
    """Modules that are called once for each chunk of pairs of an anchor and a frame."""
    per_anchor: list[nn.Module]
    """Modules that are called once for each anchor."""


class SceneModel(nn.Module):
    """Base class of networks that predict a `Scene` from a clip with any number of frames.

    Both sides of the images are multiples of `patch_size`. ``model(images, times)`` is the differentiable network
    alone, without resizing or autocast; `recon4d.reconstruct` does both.
    """

    config: Any
    """Configuration of all parts; stored in checkpoints. It has a `processing_size`."""
    patch_size: int
    """Side of a patch in pixels."""
    name: str = "custom"
    """Name of the model in the zoo and in output files."""
    trained: bool = False
    """Whether the weights were trained; the predictions of an untrained model are meaningless."""
    calibration: Calibration | None = None
    """Error curves of the confidences (`recon4d calibrate`); None if they were not measured."""

    @abstractmethod
    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        priors: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Outputs:
        """Predict the scenes of a batch of clips, with the additional outputs for training and refinement.

        Args:
            images: RGB images, uint8 or floating point in [0, 1].
            times: Times in seconds; None or NaN for photos without an order.
            anchors: Indices of the frames whose pixels are tracked, for all clips or for each clip. Cameras and depth
                do not depend on them.
            priors: Known intrinsics, cameras and depth; None if nothing is known.
            frame_chunk: Number of frames that backbone and dense heads process at once, which limits memory without
                changing the result; None for all.
            key_stride: With a stride above 1, attention across frames is approximated (`Aggregator.initial_state`).

        Returns:
            The outputs, including a batch of scenes.

        Raises:
            ValueError: If the image size is not a multiple of `patch_size` or an anchor is not a frame of the clip.
        """

    @property
    def encodes_all_cameras(self) -> bool:
        """Whether given cameras are an input of the network if the intrinsics and poses of all frames are given."""
        return False

    @property
    @abstractmethod
    def trunks(self) -> tuple[nn.Module, ...]:
        """Backbones and aggregators, whose matrices may be bfloat16."""

    @property
    @abstractmethod
    def pass_modules(self) -> PassModules:
        """Modules whose calls are the steps of a pass."""

    @abstractmethod
    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of all blocks in the backward pass: a third more time, but far less memory.

        Args:
            enabled: Whether to recompute activations.
        """

    def forward(
        self, images: Images, times: Float[Tensor, "batch time"] | None = None, priors: Priors | None = None
    ) -> Scene:
        """Predict the scenes of a batch of clips, with tracks of every pixel of the first frame if there is a head.

        Args:
            images: RGB images, uint8 or floating point in [0, 1].
            times: Times in seconds; None or NaN for photos without an order.
            priors: Known intrinsics, cameras and depth; None if nothing is known.

        Returns:
            A batch of scenes.
        """
        return self.outputs(images, times, priors=priors).scene

    def num_parameters(self) -> int:
        """Count the parameters.

        Returns:
            Number of scalar parameters.
        """
        return sum(parameter.numel() for parameter in self.parameters())

    def floating_images(self, images: Images) -> Float[Tensor, "batch time 3 height width"]:
        """Validate the size of images and convert them to floating point.

        Args:
            images: RGB images, uint8 or floating point in [0, 1].

        Returns:
            Images in [0, 1].

        Raises:
            ValueError: If a side is not a multiple of `patch_size`.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images have {width} x {height} pixels; both sides must be multiples of {self.patch_size}"
            )
        dtype = next(self.parameters()).dtype
        return images.to(dtype) / 255 if images.dtype == torch.uint8 else images
