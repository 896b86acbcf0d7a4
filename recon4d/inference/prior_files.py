"""Priors of a clip from files and text: intrinsics, cameras, depth, masks and lens distortion."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.cameras.camera_file import CameraOptions
from recon4d.io.cameras.camera_formats import read_camera_file
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.cameras.lenses import MAX_COEFFICIENT, Lens, brown_lens
from recon4d.io.depth_priors import depth_reader, read_depth_priors
from recon4d.io.long_clips import LongClip
from recon4d.io.masks import mask_reader, read_masks
from recon4d.io.undistortion import undistort, undistort_long_clip
from recon4d.records import Clip, Priors

MaskReader = Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]]
"""Yields the mask of each of the given frames."""
NO_OPTIONS = CameraOptions()
"""Cameras are paired as their file and the clip tell."""


@dataclass(frozen=True)
class PriorFiles:
    """Sources of the priors of a clip; None for priors that are not given. Pixels are those of the clip's images."""

    intrinsics: str | None = None
    """``fx,fy,cx,cy`` in pixels, or the path of a file (`read_intrinsics`). Overrides the intrinsics of `cameras`."""
    cameras: Path | None = None
    """A file or folder of cameras of any supported format (`read_camera_file`)."""
    depth: Path | None = None
    """A folder of depth maps, or a file with depth at some or all pixels (`read_depth_priors`)."""
    mask: Path | None = None
    """An image or a folder of images, white where the clip is to be ignored (`read_masks`)."""
    distortion: str | None = None
    """Distortion coefficients ``k1,k2,p1,p2`` or ``k1,k2,p1,p2,k3`` (Brown-Conrady, as in OpenCV). Overrides the
    distortion of `cameras`."""
    intrinsics_size: tuple[int, int] | None = None
    """Height and width of the pictures that `intrinsics` refers to. None is the size of the clip."""
    camera_options: CameraOptions = NO_OPTIONS
    """How `cameras` are assigned to frames."""
    depth_unit: float | None = None
    """Factor from the stored values of `depth` to the unit of length. None is 0.001 (millimeters) for maps of whole
    numbers, and 1 for others."""

    is_panorama: bool = False
    """Whether the pictures are 360 degree panoramas, which have poses but no intrinsics (`split_panoramas`)."""

    @property
    def has_any(self) -> bool:
        """Whether any prior is given."""
        return any((self.intrinsics, self.cameras, self.depth, self.mask, self.distortion))


def with_prior_files(clip: Clip, files: PriorFiles, report: Callable[[str], None] | None = None) -> Clip:
    """Add priors from files to a clip.

    If there is lens distortion, it is removed from images, masks and depth; size and intrinsics stay the same. Given
    `intrinsics` imply that there is no distortion, unless `distortion` is given as well.

    Args:
        clip: The clip.
        files: Sources of the priors.
        report: Called with lines that say what was read, its format and unit, and how cameras and frames were paired.
            None is silent.

    Returns:
        The clip with priors; `clip` itself if no prior is given.

    Raises:
        UserError: If a file is missing or damaged, or does not fit the clip.
    """
    if not files.has_any:
        return clip
    if files.is_panorama and (files.intrinsics is not None or files.distortion is not None):
        raise UserError("intrinsics and lens distortion are given, and panoramas have none; give only poses and masks")
    priors, lenses = _camera_priors(clip, files, report)
    if files.depth is not None:
        known = read_depth_priors(files.depth, clip, files.depth_unit)
        priors = replace(priors, depths=known.depths)
        if report is not None:
            report(known.report)
    if files.mask is not None:
        masks, padding = read_masks(files.mask, clip), priors.ignore
        priors = replace(priors, ignore=masks if padding is None else masks | padding)
    clip = replace(clip, priors=priors)
    return clip if lenses is None else undistort(clip, lenses)


def long_clip_with_prior_files(
    long_clip: LongClip, files: PriorFiles, report: Callable[[str], None] | None = None
) -> LongClip:
    """Add priors from files to a long clip. Masks and depth are read and distortion is removed as the frames are.

    Args:
        long_clip: The clip.
        files: Sources of the priors; see `with_prior_files`. Depth must be a folder of maps, which are read as the
            frames are read.
        report: As for `with_prior_files`.

    Returns:
        The clip with priors; `long_clip` itself if no prior is given.

    Raises:
        UserError: If a file is missing or damaged, or does not fit the clip.
    """
    if not files.has_any:
        return long_clip
    placeholder = long_clip.placeholder_clip
    priors, lenses = _camera_priors(placeholder, files, report)
    ignore = long_clip.ignore if files.mask is None else mask_reader(files.mask, placeholder)
    if files.mask is not None and long_clip.ignore is not None:
        ignore = _joined_masks(ignore, long_clip.ignore)
    depths = long_clip.depths
    if files.depth is not None:
        depths, line = depth_reader(files.depth, placeholder, files.depth_unit)
        if report is not None:
            report(line)
    long_clip = replace(long_clip, priors=priors, ignore=ignore, depths=depths)
    return long_clip if lenses is None else undistort_long_clip(long_clip, lenses)


def _joined_masks(masks: MaskReader | None, padding: MaskReader) -> MaskReader:
    """Ignore what masks mark, and the padding of pictures of different sizes."""
    assert masks is not None

    def read(positions: Sequence[int]) -> Iterator[Bool[Tensor, "height width"]]:
        for mask, pad in zip(masks(positions), padding(positions), strict=True):
            yield mask | pad

    return read


def _camera_priors(
    clip: Clip, files: PriorFiles, report: Callable[[str], None] | None
) -> tuple[Priors, tuple[Lens, ...] | None]:
    """Read cameras and intrinsics, and the lens of each frame if there is distortion to remove."""
    priors = Priors.unknown(clip.num_frames) if clip.priors is None else clip.priors
    lenses, lines = None, []
    if files.cameras is not None:
        cameras = read_camera_file(files.cameras, files.is_panorama).for_clip(clip, files.camera_options)
        priors = replace(priors, world_from_cam=cameras.world_from_cam)
        if files.intrinsics is None and cameras.intrinsics is not None:
            priors, lenses = replace(priors, intrinsics=cameras.intrinsics), cameras.lenses
        lines += cameras.report
    if files.intrinsics is not None:
        given = read_intrinsics(files.intrinsics, clip, files.intrinsics_size)
        priors = replace(priors, intrinsics=given.matrices)
        lenses = None if given.lens is None else (given.lens,) * clip.num_frames
        lines += [
            *given.report,
            *([] if given.lens is None else [f"intrinsics: lens {given.lens.describe()}, undistorted"]),
        ]
    if files.distortion is not None:
        lens = _parse_distortion(files.distortion)
        lenses = None if lens.is_pinhole else (lens,) * clip.num_frames
        lines.append(f"distortion: lens {lens.describe()}{'' if lens.is_pinhole else ', undistorted'}")
        _check_intrinsics(priors, "give intrinsics too")
    if report is not None:
        for line in lines:
            report(line)
    # A frame without a camera of a file that has one lens was taken with it too.
    if lenses is not None and not priors.intrinsics.isfinite().all():
        priors, lenses = _with_the_common_lens(priors, lenses)
    return priors, lenses


def _with_the_common_lens(priors: Priors, lenses: tuple[Lens, ...]) -> tuple[Priors, tuple[Lens, ...]]:
    """Give frames without intrinsics those of the others, if all of these are the same."""
    is_known = priors.intrinsics.isfinite().all(dim=(1, 2))
    known = priors.intrinsics[is_known]
    common = {lens for lens, has_lens in zip(lenses, is_known.tolist(), strict=True) if has_lens}
    if len(common) != 1 or not torch.equal(known, known[:1].expand_as(known)):
        _check_intrinsics(priors, "give intrinsics too, or leave out the frames without a camera")
    return replace(priors, intrinsics=known[:1].expand_as(priors.intrinsics).clone()), (next(iter(common)),) * len(
        lenses
    )


def _check_intrinsics(priors: Priors, remedy: str) -> None:
    if not priors.intrinsics.isfinite().all():
        count, total = int(priors.intrinsics.isfinite().all(dim=(1, 2)).sum()), len(priors.intrinsics)
        raise UserError(
            f"lens distortion needs the intrinsics of every frame, and {count} of {total} frames have them; {remedy}"
        )


def _parse_distortion(text: str) -> Lens:
    try:
        values = torch.tensor([float(number) for number in text.split(",")], dtype=torch.float64)
    except ValueError:  # raised by float()
        values = torch.zeros(0)
    if len(values) not in (4, 5) or not (values.abs() <= MAX_COEFFICIENT).all():
        raise UserError(f"distortion is {text!r}; expected k1,k2,p1,p2 or k1,k2,p1,p2,k3")
    return brown_lens(torch.nn.functional.pad(values, (0, 5 - len(values))))
