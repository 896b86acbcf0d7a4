"""What people know about a clip, in the words and files they have it in, put into the clip."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.io.cameras.camera_files import read_camera_file
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.depth_priors import read_depth_priors
from recon4d.io.long_clips import LongClip
from recon4d.io.masks import mask_reader, read_masks
from recon4d.io.undistortion import undistorted, undistorted_long
from recon4d.records import Clip, Priors


@dataclass(frozen=True)
class PriorFiles:
    """Where each known thing is read from; None where it is not known. Pixels are those of the clip's own pictures."""

    intrinsics: str | None = None
    """``fx,fy,cx,cy`` or a file (`read_intrinsics`); they go before those of `cameras`."""
    cameras: Path | None = None
    """A TUM trajectory, COLMAP folder, transforms.json or scene.npz (`read_camera_file`)."""
    depth: Path | None = None
    """An npz file of depth at some or all pixels (`read_known_depth`)."""
    mask: Path | None = None
    """A picture, or a folder of pictures, white where the clip is to be ignored (`read_masks`)."""
    distortion: str | None = None
    """``k1,k2,p1,p2`` or ``k1,k2,p1,p2,k3`` of the lens; it goes before that of `cameras`."""

    @property
    def are_given(self) -> bool:
        """Whether anything is known."""
        return self != PriorFiles()


def with_prior_files(clip: Clip, files: PriorFiles) -> Clip:
    """The clip with what `files` tell about it; the clip itself where they tell nothing.

    Lens distortion is taken out of pictures, masks and depth alike: what follows is about the undistorted pictures, of
    the same size and intrinsics (`undistorted`). Intrinsics given by themselves are taken to come without distortion
    unless it is given too. Raises ``FileNotFoundError``, and ``ValueError`` in one line for whatever does not fit.
    """
    if not files.are_given:
        return clip
    known, distortion = _cameras_and_lenses(clip, files)
    if files.depth is not None:
        known = replace(known, depths=read_depth_priors(files.depth, clip))
    if files.mask is not None:
        known = replace(known, ignore=read_masks(files.mask, clip))
    clip = replace(clip, priors=known)
    return clip if distortion is None else undistorted(clip, distortion)


def long_clip_with_prior_files(long_clip: LongClip, files: PriorFiles) -> LongClip:
    """The same for a long clip: masks are read, and lens distortion is taken out, frame by frame as they are wanted.

    Raises ``ValueError`` for depth too: maps of all frames are more than fits the memory.
    """
    if not files.are_given:
        return long_clip
    if files.depth is not None:
        raise ValueError("known depth belongs to a clip that is taken in one pass; a long clip has no room for it")
    outline = long_clip.outline
    known, distortion = _cameras_and_lenses(outline, files)
    ignore = long_clip.ignore if files.mask is None else mask_reader(files.mask, outline)
    long_clip = replace(long_clip, priors=known, ignore=ignore)
    return long_clip if distortion is None else undistorted_long(long_clip, distortion)


def _cameras_and_lenses(clip: Clip, files: PriorFiles) -> tuple[Priors, Float[Tensor, "time 5"] | None]:
    """What the files tell of cameras and intrinsics, and the distortion of each frame's lens where there is any."""
    known = Priors.nothing(clip.num_frames) if clip.priors is None else clip.priors
    distortion = None
    if files.cameras is not None:
        cameras = read_camera_file(files.cameras)
        known = replace(known, world_from_cam=cameras.poses(clip))
        if files.intrinsics is None and (lenses := cameras.lenses(clip)) is not None:
            known, distortion = replace(known, intrinsics=lenses), cameras.distortions(clip)
    if files.intrinsics is not None:
        known = replace(known, intrinsics=read_intrinsics(files.intrinsics, clip.num_frames))
    if files.distortion is not None:
        distortion = _coefficients(files.distortion).expand(clip.num_frames, 5)
        if not known.intrinsics.isfinite().all():
            raise ValueError("--distortion is about a known lens: give its --intrinsics too")
    return known, distortion


def _coefficients(words: str) -> Float[Tensor, "5"]:
    try:
        values = torch.tensor([float(word) for word in words.split(",")])
    except ValueError:
        values = torch.zeros(0)
    if len(values) not in (4, 5) or not values.isfinite().all():
        raise ValueError(f"distortion {words!r}: wanted k1,k2,p1,p2 or k1,k2,p1,p2,k3")
    return torch.nn.functional.pad(values, (0, 5 - len(values)))
