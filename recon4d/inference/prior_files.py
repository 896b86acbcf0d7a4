"""Priors of a clip from files and text: intrinsics, cameras, depth, masks and lens distortion."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.cameras.camera_files import read_camera_file
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.depth_priors import read_depth_priors
from recon4d.io.long_clips import LongClip
from recon4d.io.masks import mask_reader, read_masks
from recon4d.io.undistortion import undistort, undistort_long_clip
from recon4d.records import Clip, Priors


@dataclass(frozen=True)
class PriorFiles:
    """Sources of the priors of a clip; None for priors that are not given. Pixels are those of the clip's images."""

    intrinsics: str | None = None
    """``fx,fy,cx,cy`` in pixels, or the path of a file (`read_intrinsics`). Overrides the intrinsics of `cameras`."""
    cameras: Path | None = None
    """A TUM trajectory, COLMAP folder, transforms.json or scene.npz (`read_camera_file`)."""
    depth: Path | None = None
    """An npz file with depth at some or all pixels (`read_depth_priors`)."""
    mask: Path | None = None
    """An image or a folder of images, white where the clip is to be ignored (`read_masks`)."""
    distortion: str | None = None
    """Distortion coefficients ``k1,k2,p1,p2`` or ``k1,k2,p1,p2,k3`` (Brown-Conrady, as in OpenCV). Overrides the
    distortion of `cameras`."""

    @property
    def has_any(self) -> bool:
        """Whether any prior is given."""
        return self != PriorFiles()


def with_prior_files(clip: Clip, files: PriorFiles) -> Clip:
    """Add priors from files to a clip.

    If there is lens distortion, it is removed from images, masks and depth; size and intrinsics stay the same. Given
    `intrinsics` imply that there is no distortion, unless `distortion` is given as well.

    Args:
        clip: The clip.
        files: Sources of the priors.

    Returns:
        The clip with priors; `clip` itself if no prior is given.

    Raises:
        UserError: If a file is missing or damaged, or does not fit the clip.
    """
    if not files.has_any:
        return clip
    priors, distortion = _camera_priors(clip, files)
    if files.depth is not None:
        priors = replace(priors, depths=read_depth_priors(files.depth, clip))
    if files.mask is not None:
        priors = replace(priors, ignore=read_masks(files.mask, clip))
    clip = replace(clip, priors=priors)
    return clip if distortion is None else undistort(clip, distortion)


def long_clip_with_prior_files(long_clip: LongClip, files: PriorFiles) -> LongClip:
    """Add priors from files to a long clip. Masks are read and distortion is removed as the frames are read.

    Args:
        long_clip: The clip.
        files: Sources of the priors; see `with_prior_files`. Depth is not supported, since the maps of all frames do
            not fit into memory.

    Returns:
        The clip with priors; `long_clip` itself if no prior is given.

    Raises:
        UserError: If depth is given, or a file is missing or damaged, or does not fit the clip.
    """
    if not files.has_any:
        return long_clip
    if files.depth is not None:
        raise UserError("depth priors are not supported for long clips; reconstruct the clip in a single pass")
    placeholder = long_clip.placeholder_clip
    priors, distortion = _camera_priors(placeholder, files)
    ignore = long_clip.ignore if files.mask is None else mask_reader(files.mask, placeholder)
    long_clip = replace(long_clip, priors=priors, ignore=ignore)
    return long_clip if distortion is None else undistort_long_clip(long_clip, distortion)


def _camera_priors(clip: Clip, files: PriorFiles) -> tuple[Priors, Float[Tensor, "time 5"] | None]:
    """Read cameras and intrinsics, and the lens distortion of each frame if there is any."""
    priors = Priors.unknown(clip.num_frames) if clip.priors is None else clip.priors
    distortion = None
    if files.cameras is not None:
        cameras = read_camera_file(files.cameras)
        priors = replace(priors, world_from_cam=cameras.frame_poses(clip))
        if files.intrinsics is None and (intrinsics := cameras.frame_intrinsics(clip)) is not None:
            priors, distortion = replace(priors, intrinsics=intrinsics), cameras.frame_distortion(clip)
    if files.intrinsics is not None:
        priors = replace(priors, intrinsics=read_intrinsics(files.intrinsics, clip.num_frames))
    if files.distortion is not None:
        distortion = _parse_distortion(files.distortion).expand(clip.num_frames, 5)
    if distortion is not None and not priors.intrinsics.isfinite().all():
        count = int(priors.intrinsics.isfinite().all(dim=(1, 2)).sum())
        raise UserError(
            f"lens distortion needs the intrinsics of every frame, and {count} of {clip.num_frames} frames have them; "
            "give intrinsics too"
        )
    return priors, distortion


def _parse_distortion(text: str) -> Float[Tensor, "5"]:
    try:
        values = torch.tensor([float(number) for number in text.split(",")])
    except ValueError:  # raised by float()
        values = torch.zeros(0)
    if len(values) not in (4, 5) or not values.isfinite().all():
        raise UserError(f"distortion is {text!r}; expected k1,k2,p1,p2 or k1,k2,p1,p2,k3")
    return torch.nn.functional.pad(values, (0, 5 - len(values)))
