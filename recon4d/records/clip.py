"""Input records: the frames of a clip with their times, and prior knowledge about cameras and depth."""

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import resized_intrinsics
from recon4d.records.images import as_image_tensor, as_times
from recon4d.records.rig import Rig
from recon4d.records.tensors import FrameIndex, TensorRecord, take


@dataclass(frozen=True)
class ClipSource:
    """Origin of the frames of a clip."""

    path: str
    """Video file or image folder."""
    names: tuple[str, ...]
    """Name of each frame: its file name, or a name made from its number."""
    numbers: tuple[int, ...]
    """Index of each frame in the file or folder, from 0."""
    selection: str = ""
    """How the frames were chosen, in one sentence; "" if evenly, by a rate or unknown."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of each picture, if they differ, so that the pictures were scaled and padded to a common frame
    (`recon4d.io.fitting`), whose padding is ignored; empty if all have the size of the clip."""


@dataclass(frozen=True, eq=False)
class Priors(TensorRecord):
    """Known intrinsics, camera poses and depth of a clip; NaN marks unknown values."""

    intrinsics: Float[Tensor, "*batch time 3 3"]
    """Intrinsics in pixels of the clip's images; NaN for frames without."""
    world_from_cam: Float[Tensor, "*batch time 4 4"]
    """Camera poses in any world frame and unit; NaN for frames without.

    The network uses them only if the pose of the first frame is known, because it predicts relative to that frame. The
    result has them in any case.
    """
    depths: Float[Tensor, "*batch time height width"] | None = None
    """Sparse or dense depth (z) in the unit of `world_from_cam`; NaN at unknown pixels."""
    ignore: Bool[Tensor, "*batch time height width"] | None = None
    """Pixels to exclude from the result, such as a car's hood or a watermark; None excludes none."""

    @classmethod
    def unknown(cls, num_frames: int) -> "Priors":
        """Create priors without any knowledge, to be filled in with `dataclasses.replace`.

        Args:
            num_frames: Number of frames of the clip.

        Returns:
            Priors of a single clip (no batch axis) whose values are all NaN.
        """
        return cls(
            intrinsics=torch.full((num_frames, 3, 3), torch.nan),
            world_from_cam=torch.full((num_frames, 4, 4), torch.nan),
        )

    def resized(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> "Priors":
        """Adapt the priors to resized images.

        Args:
            old_size: Height and width of the images before resizing.
            new_size: Height and width of the images after resizing.

        Returns:
            Priors for the new size. Depths are averages of the known depths around each new pixel; a new pixel is
            ignored if any old pixel under it is.
        """
        depths = self.depths if self.depths is None else _resize_sparse(self.depths, new_size)
        ignore = self.ignore if self.ignore is None else _resize_mask(self.ignore, new_size)
        intrinsics = resized_intrinsics(self.intrinsics, old_size, new_size)
        return replace(self, intrinsics=intrinsics, depths=depths, ignore=ignore)


@dataclass(frozen=True, eq=False)
class Clip(TensorRecord):
    """Frames of a video, or a collection of photos.

    The first frame is the reference frame: its camera defines the world frame of the prediction. It need not be the
    earliest frame. Images and times may also be given as numpy arrays or lists (`from_images`).
    """

    images: UInt8[Tensor, "*batch time 3 height width"]
    """RGB images; they stay uint8 until the network."""
    times: Float[Tensor, "*batch time"]
    """Times in seconds from the start of the video; NaN in every frame for photos without an order."""
    priors: Priors | None = None
    """Known cameras and depth; None if nothing is known."""
    source: ClipSource | None = None
    """Origin of the frames; None for clips that were not read from files, and for batches of different clips."""
    rig: Rig | None = None
    """Cameras that are fixed to each other, and the moments of the frames; None for frames of one moving camera."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", as_image_tensor(self.images))
        object.__setattr__(self, "times", as_times(self.times, self.images.shape[-4]))
        super().__post_init__()

    @classmethod
    def from_images(cls, images: Any, times: Any = None, fps: float | None = None) -> "Clip":
        """Create a clip from images in memory.

        Args:
            images: A numpy array of shape (time, height, width, 3), a tensor of shape (time, 3, height, width), a list
                of arrays, tensors or Pillow images, or a single image; uint8, or floating point in [0, 1]. See
                `as_image_tensor`, which the constructor uses too.
            times: Times in seconds as a tensor, an array or a list; None for images without times.
            fps: Frames per second, instead of `times`; None for images without a rate.

        Returns:
            The clip.

        Raises:
            UserError: If images or times have another type or shape, or if both `times` and `fps` are given.
        """
        images = as_image_tensor(images, allow_single=True)
        if fps is not None:
            if times is not None:
                raise UserError("times and fps are both given; wanted one of them")
            if not (math.isfinite(fps) and fps > 0):
                raise UserError(f"fps = {fps}; wanted a finite number above 0")
            times = torch.arange(images.shape[-4]) / fps
        return cls(images=images, times=times)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.images.shape[-4]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    def picture_size(self, frame: int) -> tuple[int, int]:
        """Return the size of the picture that a frame shows.

        Args:
            frame: Index of the frame.

        Returns:
            Height and width in pixels: those of the images, or the picture's own ones if pictures of different sizes
            were brought to a common frame.
        """
        return self.source.sizes[frame] if self.source is not None and self.source.sizes else self.size

    def frames(self, index: FrameIndex) -> "Clip":
        """Select frames, including their names and numbers in `source`, and the rig.

        Args:
            index: Frames to select: a slice or a list of indices; negative indices count from the end.

        Returns:
            The clip of the selected frames, in the given order.
        """
        chosen = super().frames(index)
        positions = take(torch.arange(self.num_frames), index, 0).tolist()
        if self.rig is not None:
            chosen = replace(chosen, rig=self.rig.frames(positions))
        if self.source is None:
            return chosen
        source = dataclasses.replace(
            self.source,
            names=tuple(self.source.names[i] for i in positions),
            numbers=tuple(self.source.numbers[i] for i in positions),
            sizes=tuple(self.source.sizes[i] for i in positions) if self.source.sizes else (),
        )
        return replace(chosen, source=source)

    def resized(self, height: int, width: int) -> "Clip":
        """Resize the images and adapt the priors. Each axis is scaled by its own factor; nothing is cropped.

        Args:
            height: New height in pixels.
            width: New width in pixels.

        Returns:
            The resized clip; the clip itself if it has this size.
        """
        if self.size == (height, width):
            return self
        flat = self.images.flatten(0, -4)
        # One frame at a time: a float copy of a whole high-resolution clip could exhaust the memory.
        images = torch.stack([_resize_image(image, (height, width)) for image in flat])
        priors = self.priors.resized(self.size, (height, width)) if self.priors else None
        return replace(self, images=images.reshape(*self.images.shape[:-2], height, width), priors=priors)


def _resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _resize_sparse(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average the finite values in the neighborhood of each new pixel; NaN if there are none."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    is_known = torch.isfinite(flat)
    total = F.adaptive_avg_pool2d(torch.where(is_known, flat, torch.zeros_like(flat)), size)
    weight = F.adaptive_avg_pool2d(is_known.to(flat.dtype), size)
    mean = torch.where(weight > 0, total / weight, torch.full_like(total, torch.nan))
    return mean.reshape(*maps.shape[:-2], *size)


def _resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Set a new pixel if any old pixel under it is set, so that ignored regions never shrink."""
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.adaptive_max_pool2d(flat, size).bool().reshape(*mask.shape[:-2], *size)
