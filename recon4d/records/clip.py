"""What goes in: the frames of a clip, when they were taken, and whatever is known about them beforehand."""

import dataclasses
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.geometry import resized_intrinsics
from recon4d.records.tensors import FrameIndex, TensorRecord, take


@dataclass(frozen=True)
class ClipSource:
    """Where the frames of a clip came from.

    `path` is the file or folder; `names` are the frames' own names, `numbers` their positions in it, from 0.
    """

    path: str
    names: tuple[str, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Priors(TensorRecord):
    """What is known about a clip before it is looked at; NaN where it is not.

    `intrinsics` are in pixels of the clip's images. `world_from_cam` counts only where the first frame's camera is
    known too, since everything is answered relative to it. `depths` are z at some or all pixels, in the unit of
    the cameras. `ignore` marks pixels that should not be believed (a car's bonnet, a watermark).
    """

    intrinsics: Float[Tensor, "*batch time 3 3"]
    world_from_cam: Float[Tensor, "*batch time 4 4"]
    depths: Float[Tensor, "*batch time height width"] | None = None
    ignore: Bool[Tensor, "*batch time height width"] | None = None

    @classmethod
    def nothing(cls, num_frames: int) -> "Priors":
        """Nothing known about any of `num_frames` frames; `dataclasses.replace` fills in what is."""
        return cls(
            intrinsics=torch.full((num_frames, 3, 3), torch.nan),
            world_from_cam=torch.full((num_frames, 4, 4), torch.nan),
        )

    def resized(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> "Priors":
        """The same knowledge about images resized from `old_size` to `new_size`, both (height, width)."""
        depths = self.depths if self.depths is None else _resize_sparse(self.depths, new_size)
        ignore = self.ignore if self.ignore is None else _resize_mask(self.ignore, new_size)
        intrinsics = resized_intrinsics(self.intrinsics, old_size, new_size)
        return replace(self, intrinsics=intrinsics, depths=depths, ignore=ignore)


@dataclass(frozen=True, eq=False)
class Clip(TensorRecord):
    """Frames of a video, or loose photos.

    `images` are RGB and stay uint8 until the network. `times` are seconds; NaN in every frame means photos without an
    order. The first frame is the one whose camera the answer starts at; it need not be the earliest.
    """

    images: UInt8[Tensor, "*batch time 3 height width"]
    times: Float[Tensor, "*batch time"]
    priors: Priors | None = None
    source: ClipSource | None = None

    @property
    def num_frames(self) -> int:
        return self.images.shape[-4]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    def frames(self, index: FrameIndex) -> "Clip":
        """The clip at the frames `index`, their names and numbers included."""
        chosen = super().frames(index)
        if self.source is None:
            return chosen
        positions = take(torch.arange(self.num_frames), index, 0).tolist()
        source = dataclasses.replace(
            self.source,
            names=tuple(self.source.names[i] for i in positions),
            numbers=tuple(self.source.numbers[i] for i in positions),
        )
        return replace(chosen, source=source)

    def resized(self, height: int, width: int) -> "Clip":
        """The clip at another size; each axis by its own factor, nothing cut away (known quantities follow)."""
        if self.size == (height, width):
            return self
        flat = self.images.flatten(0, -4)
        # One frame at a time: float copies of a whole high-resolution clip would fill the memory.
        images = torch.stack([_resize_image(image, (height, width)) for image in flat])
        known = self.priors.resized(self.size, (height, width)) if self.priors else None
        return replace(self, images=images.reshape(*self.images.shape[:-2], height, width), priors=known)


def _resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _resize_sparse(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of the known (not NaN) values that fall into each new pixel's neighborhood; NaN where none does."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    known = torch.isfinite(flat)
    total = F.adaptive_avg_pool2d(torch.where(known, flat, torch.zeros_like(flat)), size)
    share = F.adaptive_avg_pool2d(known.to(flat.dtype), size)
    mean = torch.where(share > 0, total / share, torch.full_like(total, torch.nan))
    return mean.reshape(*maps.shape[:-2], *size)


def _resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """True wherever any old pixel under the new one is true: what should be ignored never shrinks."""
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.adaptive_max_pool2d(flat, size).bool().reshape(*mask.shape[:-2], *size)
