"""Masks of the pixels to ignore in a clip: one picture for all frames, or a folder with one picture per frame.

What counts as white is judged by the range of values of each file, because programs write masks as 0 and 1, 0 and 255,
0 and 65535, numbers of objects, colors of objects, or transparency.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import evenly_spaced_indices
from recon4d.io.fitting import Placement
from recon4d.io.frame_pairing import match_frames
from recon4d.io.photos import list_photos, opened_picture
from recon4d.records import Clip

if TYPE_CHECKING:
    from PIL import Image

LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP", "HEIF", "AVIF", "JPEG2000"})
"""Pillow's names of formats in which black pixels may deviate from 0."""
NOISE = 16
"""Levels of eight bits below which pixels of lossy formats are black. Hand-tuned: JPEG at quality 50 stays below it."""
MAX_LABELS = 16
"""Largest number of different values in a dark file that are numbers of objects, all of which are ignored. Hand-tuned:
soft edges of a mask have more values."""
MIN_SATURATION = 64
"""Differences between the channels of a pixel above this mark a color. Hand-tuned: gray masks that were once stored as
JPEG stay below it."""
MAX_COLORS = 256
"""Largest number of different colors in a file that are colors of objects. Hand-tuned: as many as a palette has."""
MAX_MIDTONES = 0.25
"""Largest fraction of the visible pixels between black and white for a mask that has transparency too. Hand-tuned."""
MAX_SAMPLED = 16
"""Number of masks of a long clip that are read in advance to find out whether they ignore anything. Hand-tuned."""


def read_masks(path: Path, clip: Clip) -> Bool[Tensor, "time height width"]:
    """Read the masks of a clip.

    Args:
        path: A picture for all frames, or a folder of pictures: one per frame, by name or else in natural order. White
            pixels are ignored. In dark files (such as 0 and 1) and in colored ones without loss, all pixels but black
            ones count as white. If the visible pixels have one color, those that are not transparent are ignored.
        clip: The clip.

    Returns:
        Masks of shape (time, height, width), true for pixels to ignore. There is a warning if they ignore nothing, or
        all pixels of a frame.

    Raises:
        UserError: If a file is missing or not a picture, if a mask has another size than the clip, if it is a photo
            with transparency, or if the masks of a folder do not fit the frames.
    """
    if not path.is_dir():
        sizes = {clip.picture_size(frame) for frame in range(clip.num_frames)}
        of_size = {size: _read_mask(path, size) for size in sizes}  # raises unless there is one size
        masks = torch.stack([_placed(of_size[clip.picture_size(frame)], clip) for frame in range(clip.num_frames)])
    else:
        files = _files_of_frames(path, clip)
        masks = torch.stack(
            [_placed(_read_mask(file, clip.picture_size(frame)), clip) for frame, file in enumerate(files)]
        )
    _warn_of_extremes(path, masks)
    return masks


def mask_reader(path: Path, clip: Clip) -> Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]]:
    """Prepare reading the masks of a long clip frame by frame.

    Args:
        path: As for `read_masks`. A single picture is read immediately; those of a folder are read when needed.
        clip: A clip with the names, number and size of the frames. Its images are not used.

    Returns:
        A function that takes frame indices and yields a mask (height, width) for each of them. It raises the errors of
        `read_masks` that concern a single file of a folder.

    Raises:
        UserError: As `read_masks`.
    """
    if not path.is_dir():
        mask = _read_mask(path, clip.picture_size(0))
        if clip.source is not None and len(set(clip.source.sizes)) > 1:
            raise UserError(f"mask {path}: the pictures have different sizes; wanted a folder with a mask for each")
        _warn_of_extremes(path, mask[None])
        return lambda positions: (mask for _ in positions)
    files = _files_of_frames(path, clip)
    sampled = evenly_spaced_indices(len(files), MAX_SAMPLED).tolist()

    def read(position: int) -> Bool[Tensor, "height width"]:
        return _placed(_read_mask(files[position], clip.picture_size(position)), clip)

    _warn_of_extremes(path, torch.stack([read(index) for index in sampled]))
    return lambda positions: map(read, positions)


def _placed(mask: Bool[Tensor, "own_height own_width"], clip: Clip) -> Bool[Tensor, "height width"]:
    """Bring a mask of a picture's own size to the common frame; a pixel is ignored if any of those under it is."""
    if tuple(mask.shape) == clip.size:
        return mask
    placement = Placement((mask.shape[0], mask.shape[1]), clip.size)
    scaled = F.adaptive_max_pool2d(mask[None, None].float(), placement.scaled)[0, 0] > 0
    placed = torch.zeros(clip.size, dtype=torch.bool)
    placed[placement.slices] = scaled
    return placed


def _files_of_frames(path: Path, clip: Clip) -> list[Path]:
    """The file in the folder `path` for each frame of `clip`."""
    files = list_photos(path)
    if not files:
        raise UserError(f"masks {path}: the folder holds no pictures")
    chosen = match_frames(clip, [file.name for file in files], f"masks {path}: the folder holds")
    return [files[index] for index in chosen]


def _warn_of_extremes(path: Path, masks: Bool[Tensor, "time height width"]) -> None:
    """Warn of masks that ignore nothing or everything, which are most likely not what was meant."""
    is_full = masks.flatten(1).all(dim=1)
    if not masks.any():
        warnings.warn(f"mask {path}: it ignores 0 % of the pixels; white pixels are ignored", stacklevel=4)
    elif is_full.all():
        warnings.warn(f"mask {path}: it ignores 100 % of the pixels; wanted black where the clip is used", stacklevel=4)
    elif is_full.any():
        count = f"{int(is_full.sum())} of {len(masks)} masks"
        warnings.warn(f"mask {path}: {count} ignore 100 % of the pixels of their frame", stacklevel=4)


@dataclass(frozen=True)
class _MaskPicture:
    """Stored values of a mask."""

    values: np.ndarray
    """Gray values of shape (height, width), or colors of shape (height, width, 3)."""
    alpha: np.ndarray | None
    """Opacity from 0 to 255 of shape (height, width); None if all pixels have the same."""
    is_lossy: bool
    """Whether black pixels may deviate from 0."""


def _read_mask(path: Path, size: tuple[int, int]) -> Bool[Tensor, "height width"]:
    picture = _read_picture(path)
    if picture.values.shape[:2] != size:
        given, wanted = (f"{width} x {height}" for height, width in (picture.values.shape[:2], size))
        raise UserError(f"mask {path}: it is {given} pixels, and the clip {wanted}")
    if picture.alpha is None:
        return torch.from_numpy(_is_white(picture.values, picture.is_lossy))
    is_visible = picture.alpha > 127
    if not is_visible.any() or (picture.values[is_visible] == picture.values[is_visible][0]).all():
        return torch.from_numpy(is_visible)  # the mask is in the transparency
    _check_black_and_white(path, picture.values[is_visible])
    shown = np.where(is_visible.reshape(is_visible.shape + (1,) * (picture.values.ndim - 2)), picture.values, 0)
    return torch.from_numpy(_is_white(shown.astype(picture.values.dtype), picture.is_lossy) & is_visible)


def _read_picture(path: Path) -> _MaskPicture:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    with os_errors_as_user_errors(f"mask {path}"):
        data = path.read_bytes()
    with opened_picture(data, f"mask {path}") as picture:
        alpha = _alpha(picture)
        values = np.array(picture.convert("RGB") if picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV") else picture)
        is_lossy = picture.format in LOSSY_FORMATS
    if values.ndim == 3:
        colors = values.shape[2] - (values.shape[2] in (2, 4))  # the last of 2 or 4 channels is transparency
        values = values[..., :colors]
        is_colored = not is_lossy and np.ptp(values, axis=-1).max() > MIN_SATURATION
        values = values if is_colored else values.max(axis=-1)
    return _MaskPicture(values, alpha, is_lossy)


def _alpha(picture: "Image.Image") -> np.ndarray | None:
    """Opacity of a picture; None if it is the same everywhere."""
    if picture.mode not in ("LA", "PA", "RGBA", "La", "RGBa") and "transparency" not in picture.info:
        return None
    alpha = np.array(picture.convert("RGBA"))[..., 3]
    return None if alpha.min() == alpha.max() else alpha


def _is_white(values: np.ndarray, is_lossy: bool) -> np.ndarray:
    """Judge which pixels are white by the range of the values."""
    if values.ndim == 3:
        num_colors = len(np.unique(values.reshape(-1, 3), axis=0))
        is_object = values.max(axis=-1) > (0 if num_colors <= MAX_COLORS else NOISE)
        if not is_object.all():
            return is_object
        values = values.max(axis=-1)  # without black, a bright channel decides
    if values.dtype == bool:
        return values
    return np.asarray(np.nan_to_num(values, nan=0.0) > _black_limit(values, is_lossy))


def _black_limit(values: np.ndarray, is_lossy: bool) -> float:
    """Compute the largest value that counts as black."""
    if np.issubdtype(values.dtype, np.floating):
        return max(1.0, float(np.nan_to_num(values, nan=0.0, posinf=0.0).max())) / 2
    white = 65535 if values.dtype.itemsize > 1 else 255
    low, high = int(values.min()), int(values.max())
    if high > white / 2:
        return white / 2
    if is_lossy:
        return high / 2 if high >= NOISE else high
    if low > 0 and high > low:
        return (low + high) / 2
    return 0 if len(np.unique(values)) <= MAX_LABELS else high / 2


def _check_black_and_white(path: Path, values: np.ndarray) -> None:
    """Refuse a photo with transparency, of which nobody can tell which part is to be ignored."""
    levels = values.reshape(len(values), -1).max(axis=1).astype(np.float64)
    levels = (levels - levels.min()) / max(float(np.ptp(levels)), 1e-9)
    if ((levels > 0.2) & (levels < 0.8)).mean() > MAX_MIDTONES:
        raise UserError(
            f"mask {path}: it is a photo with transparency, which does not tell what to ignore; wanted a picture in "
            "black and white, or of one color with the mask as its transparency"
        )
