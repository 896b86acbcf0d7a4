"""The cameras of a file, and what they become for the frames of a clip."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import invert, resized_intrinsics
from recon4d.io.cameras.euroc import read_body_camera
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.orientation import (
    stored_orientations,
    swaps_sides,
    turn_camera,
    turn_intrinsics,
    turn_matrix,
)
from recon4d.io.cameras.pairing import CameraKeys, PairingRule, pair_cameras
from recon4d.io.cameras.stored_intrinsics import UNKNOWN_INTRINSICS, StoredIntrinsics
from recon4d.io.checked_cameras import checked_cameras, principal_point_outside
from recon4d.io.fitting import Placement
from recon4d.records import Clip

ASPECT_TOLERANCE = 0.01
"""Largest relative difference between the aspect ratios of a camera file and a clip. Hand-tuned."""

PictureState = Literal["auto", "stored", "upright"]
"""Which pictures cameras belong to if readers turn the stored ones upright. ``auto``: cameras whose width and height
are those of the upright pictures only are of these, all others of the stored ones, as COLMAP reads them."""


@dataclass(frozen=True)
class CameraOptions:
    """How the cameras of a file are assigned to the frames of a clip."""

    rule: PairingRule = "auto"
    """How they are paired with frames."""
    offset: float = 0.0
    """Seconds to add to the times of the cameras."""
    pictures: PictureState = "auto"
    """Whether they belong to the pictures as stored or turned upright."""


@dataclass(frozen=True)
class FrameCameras:
    """Cameras of the frames of a clip."""

    world_from_cam: Float[Tensor, "time 4 4"]
    """Poses, of shape (time, 4, 4), float32; NaN for frames without a camera. The world is that of the first known
    camera."""
    intrinsics: Float[Tensor, "time 3 3"] | None
    """In pixels of the clip, of shape (time, 3, 3), float32; NaN for frames without. None if the file has none."""
    lenses: tuple[Lens, ...] | None
    """Lens of each frame; a pinhole for frames without. None if there is no distortion to remove."""
    report: tuple[str, ...]
    """What was read and how, in lines for the user."""


@dataclass(frozen=True)
class CameraFile:
    """Cameras in OpenCV axes and a world of their own, with the data that assign them to frames."""

    path: Path
    """The file or folder, for messages."""
    format: str
    """Name of its format, for messages."""
    world_from_cam: Float64[Tensor, "camera 4 4"]
    """Rigid poses, of shape (camera, 4, 4); NaN if unknown."""
    names: tuple[str, ...] | None = None
    """Name of each camera's picture. None if the file has no names."""
    seconds: Float64[Tensor, "camera"] | None = None
    """Time of each camera in seconds, of shape (camera,). None if the file has no times."""
    intrinsics: tuple[StoredIntrinsics | None, ...] | None = None
    """Intrinsics of each camera. None if the file has none."""
    is_upright: bool = False
    """Whether the cameras are those of upright pictures in any case, as in the files of this package."""
    is_of_body: bool = False
    """Whether the poses are those of a body that carries the camera, as in EuRoC."""
    notes: tuple[str, ...] = ()
    """Further lines for the user."""

    def for_clip(self, clip: Clip, options: CameraOptions = CameraOptions()) -> FrameCameras:
        """Compute the cameras of the frames of a clip.

        Args:
            clip: The clip.
            options: How cameras are assigned to frames.

        Returns:
            The cameras, scaled to the size of the clip and turned upright with its pictures.

        Raises:
            UserError: If cameras cannot be paired with frames (`pair_cameras`), are invalid, or have pictures of
                another aspect ratio than the clip.
        """
        if self.is_of_body:
            return self._on_body(clip).for_clip(clip, options)
        place = f"cameras {self.path}"
        known = self.world_from_cam.isfinite().all(dim=(1, 2))
        keys = CameraKeys(place, len(self.world_from_cam), self.names, self.seconds)
        pairing = pair_cameras(clip, keys, options.rule, options.offset)
        indices = [index if index is not None and known[index] else None for index in pairing.indices]
        if all(index is None for index in indices):
            raise UserError(f"{place}: none of the frames of the clip has a known camera")
        orientations = self._orientations(clip, indices, options.pictures)
        poses, intrinsics, lenses, scaled = [], [], [], Counter()
        for frame, (index, orientation) in enumerate(zip(indices, orientations, strict=True)):
            if index is None:
                poses.append(torch.full((4, 4), torch.nan, dtype=torch.float64))
            else:
                poses.append(turn_camera(self.world_from_cam[index], orientation))
            stored = None if index is None or self.intrinsics is None else self.intrinsics[index]
            matrix, lens = UNKNOWN_INTRINSICS, Lens("PINHOLE")
            if stored is not None:
                upright = clip.picture_size(frame)
                own = (upright[1], upright[0]) if swaps_sides(orientation) else upright
                matrix, lens = self._matrix(stored, own, orientation), stored.lens.turned(turn_matrix(orientation))
                if stored.picture_size(own) != own:
                    scaled[stored.picture_size(own)] += 1
            intrinsics.append(Placement(clip.picture_size(frame), clip.size).to_frame(matrix))
            lenses.append(lens)
        matrices = torch.stack(intrinsics)
        world_from_cam = checked_cameras(place, self._relative(place, poses), matrices, allow_unknown=True)
        has_lens = any(not lens.is_pinhole for lens in lenses)
        found = [lens for lens, matrix in zip(lenses, intrinsics, strict=True) if matrix.isfinite().all()]
        return FrameCameras(
            world_from_cam.float(),
            matrices.float() if found else None,
            tuple(lenses) if has_lens else None,
            (
                self._describe(clip, indices, pairing.rule, found),
                *_describe_orientations(orientations),
                *(
                    f"cameras: intrinsics of {width} x {height} pixels are scaled to the pictures' {clip.size[1]} x "
                    f"{clip.size[0]} ({count} of {clip.num_frames} frames)"
                    for (height, width), count in scaled.items()
                ),
                *_describe_center(matrices, clip.size),
                *self.notes,
            ),
        )

    def _on_body(self, clip: Clip) -> "CameraFile":
        """Move the poses from the body to the camera of the clip, if a file beside its pictures tells where it is."""
        body = None if clip.source is None else read_body_camera(Path(clip.source.path))
        if body is None:
            note = "warning: the poses are of a body, and no sensor.yaml beside the pictures tells where the camera is"
            return replace(self, is_of_body=False, notes=(*self.notes, note))
        note = f"cameras: moved from the body to the camera as {body.path} says"
        return replace(
            self,
            world_from_cam=self.world_from_cam @ body.body_from_cam,
            intrinsics=None if body.intrinsics is None else (body.intrinsics,) * len(self.world_from_cam),
            is_of_body=False,
            notes=(*self.notes, note),
        )

    def _orientations(self, clip: Clip, indices: list[int | None], state: PictureState) -> tuple[int, ...]:
        """EXIF orientation by which the camera of each frame is to be turned; 1 if it is not."""
        upright = (1,) * clip.num_frames
        if self.is_upright or state == "upright":
            return upright
        orientations = stored_orientations(clip)
        if all(orientation == 1 for orientation in orientations):
            return upright
        is_video = clip.source is not None and not Path(clip.source.path).is_dir() and clip.num_frames > 1
        turned = []
        for frame, (index, orientation) in enumerate(zip(indices, orientations, strict=True)):
            size = clip.picture_size(frame)
            stored = None if index is None or self.intrinsics is None else self.intrinsics[index]
            fits = [True, True] if stored is None else [self._fits(stored, size, swap) for swap in (True, False)]
            if state == "auto" and swaps_sides(orientation) and not fits[0] and fits[1]:
                turned.append(1)  # the sides of the camera are those of the upright picture
            elif state == "auto" and is_video and not (swaps_sides(orientation) and fits[0] and not fits[1]):
                turned.append(1)  # programs that take frames out of videos turn them upright
            else:
                turned.append(orientation)
        return tuple(turned)

    def _fits(self, stored: StoredIntrinsics, size: tuple[int, int], is_swapped: bool) -> bool:
        """Whether the aspect ratio of a camera is that of a picture, upright or with exchanged sides."""
        own = (size[1], size[0]) if is_swapped else size
        return _aspect_error(stored.picture_size(own), own) <= ASPECT_TOLERANCE

    def _matrix(self, stored: StoredIntrinsics, own: tuple[int, int], orientation: int) -> Float64[Tensor, "3 3"]:
        size = stored.picture_size(own)
        if _aspect_error(size, own) > ASPECT_TOLERANCE:
            given, wanted = (f"{width} x {height}" for height, width in (size, own))
            raise UserError(
                f"cameras {self.path}: they are of pictures of {given} pixels, and the clip's {wanted}: another aspect "
                "ratio; give the cameras of these pictures"
            )
        return turn_intrinsics(resized_intrinsics(stored.matrix(own), size, own), own, orientation)

    def _relative(self, place: str, poses: list[Float64[Tensor, "4 4"]]) -> Float64[Tensor, "time 4 4"]:
        """Poses in the world of the first known camera. The poses of mirrored pictures are all reflections or none."""
        # In float64, because the origin of the file's world may be kilometers away.
        stacked = torch.stack(poses)
        checked_cameras(place, self.world_from_cam, allow_unknown=True)
        is_known = stacked.isfinite().all(dim=(1, 2))
        is_mirrored = torch.linalg.det(stacked[is_known][:, :3, :3]) < 0
        if is_mirrored.any() and not is_mirrored.all():
            raise UserError(
                f"{place}: the EXIF orientation mirrors some pictures and not others, so that no cameras show one "
                "scene; save the pictures upright first"
            )
        first = stacked[is_known][0]
        first_from_world = torch.linalg.inv(first) if is_mirrored.any() else invert(first)
        return first_from_world @ stacked

    def _describe(self, clip: Clip, indices: list[int | None], rule: str, lenses: list[Lens]) -> str:
        count, total = sum(index is not None for index in indices), clip.num_frames
        if not lenses:
            lens = "no intrinsics in it"
        else:
            kinds = dict.fromkeys(one.describe() for one in lenses)
            lens = f"lens {' and '.join(list(kinds)[:3])}{' ...' if len(kinds) > 3 else ''}"
            if len(lenses) < count:
                lens += f" of {len(lenses)} frames"
            lens += ", undistorted" if any(not one.is_pinhole for one in lenses) else ""
        return f"cameras: {count} of {total} pictures paired {rule} with {self.path.name} ({self.format}), {lens}"


def describe_center(intrinsics: Float[Tensor, "time 3 3"], size: tuple[int, int]) -> str | None:
    """Warn about a principal point outside of the picture.

    Args:
        intrinsics: Intrinsics in pixels; NaN if unknown.
        size: Height and width of the pictures.

    Returns:
        A sentence, or None if all principal points are inside.
    """
    center = principal_point_outside(intrinsics, size)
    if center is None:
        return None
    return (
        f"the principal point ({center[0]:.1f}, {center[1]:.1f}) lies outside of the picture of {size[1]} x {size[0]} "
        "pixels; the intrinsics may belong to larger pictures"
    )


def _describe_center(intrinsics: Float[Tensor, "time 3 3"], size: tuple[int, int]) -> list[str]:
    sentence = describe_center(intrinsics, size)
    return [] if sentence is None else [f"warning: {sentence}"]


def _describe_orientations(orientations: tuple[int, ...]) -> list[str]:
    turned = Counter(orientation for orientation in orientations if orientation != 1)
    if not turned:
        return []
    kinds = ", ".join(str(orientation) for orientation in sorted(turned))
    return [
        f"cameras: {sum(turned.values())} of {len(orientations)} are turned upright with their pictures (EXIF "
        f"orientation {kinds}); if they are of upright pictures already, say so (cameras_of: upright)"
    ]


def _aspect_error(size: tuple[int, int], own: tuple[int, int]) -> float:
    return abs(size[0] * own[1] / (size[1] * own[0]) - 1)
