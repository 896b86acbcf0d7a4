"""Base class of all networks that convert the images of a clip to a scene."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.models.outputs import Outputs
from recon4d.records import Calibration, Priors, Scene

Images = UInt8[Tensor, "batch time 3 height width"] | Float[Tensor, "batch time 3 height width"]
"""RGB images: uint8, or floating point in [0, 1]."""


Network = TypeVar("Network", bound="SceneModel")


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


class SceneModel(nn.Module, PyTorchModelHubMixin):
    """Base class of networks that predict a `Scene` from a clip with any number of frames.

    `infer` takes frames as people have them. ``model(images, times)`` is the differentiable network alone, without
    resizing or autocast: both sides of its images are multiples of `patch_size`. `from_pretrained`, `save_pretrained`
    and `push_to_hub` (of huggingface_hub) load and store models.
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

    @classmethod
    def from_pretrained(cls: type[Network], pretrained_model_name_or_path: str | Path, **options: Any) -> Network:
        """Load a model with trained weights, from wherever they are.

        Args:
            pretrained_model_name_or_path: A name that `recon4d.list_models` returns, a file of weights, a folder that
                `save_pretrained` wrote, or a repository of the Hugging Face hub.
            options: `heads`, `reference_view`, `preset`, and those of downloads (`revision`, `cache_dir`,
                `force_download`, `local_files_only`, `token`), see `recon4d.zoo.load_pretrained`.

        Returns:
            The model, in evaluation mode on the CPU.

        Raises:
            UserError: If there is no such model, it is of another class, it has no trained weights, or they cannot be
                downloaded or read.
        """
        from recon4d.zoo import load_pretrained

        model = load_pretrained(pretrained_model_name_or_path, **options)
        if not isinstance(model, cls):
            raise UserError(
                f"{pretrained_model_name_or_path} is a {type(model).__name__}, not a {cls.__name__}; use "
                f"recon4d.models.{type(model).__name__}.from_pretrained"
            )
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights, configuration and model card, for `save_pretrained` and `push_to_hub`."""
        from recon4d.zoo.pretrained import write_pretrained

        write_pretrained(self, save_directory)

    def infer(self, frames: Any, **options: Any) -> Scene:
        """Reconstruct frames in a single forward pass on the device of the model.

        Args:
            frames: A video, pictures, or images in memory: a `Clip`; a file or folder name, or a list of them; a numpy
                array, a tensor, Pillow images or a list of any, with color first or last, uint8 or floating point in
                [0, 1].
            options: Keywords of `recon4d.reconstruct`, such as ``anchors=(0, 8)`` or ``refine=True``.

        Returns:
            The scene, on the CPU, in the world of the first camera.

        Raises:
            UserError: As `recon4d.reconstruct`.
        """
        from recon4d.inference import reconstruct

        return reconstruct(self, frames, **options)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the first parameter."""
        return next(self.parameters()).dtype

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
        return images.to(self.dtype) / 255 if images.dtype == torch.uint8 else images
