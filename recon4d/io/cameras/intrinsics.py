"""Known intrinsics from text or a file: fx, fy, cx, cy or 3x3 matrices, once for all frames or once per frame.

Values are in pixels of the clip's own pictures or of a given size, with the center of the first pixel at (0.5, 0.5).
Add 0.5 to cx and cy of OpenCV, whose first center is (0, 0).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import resized_intrinsics
from recon4d.io.cameras.camera_file import ASPECT_TOLERANCE, describe_center
from recon4d.io.cameras.camera_json import FOCAL_NAMES, load_json, read_intrinsics_values
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.orientation import stored_orientations, swaps_sides, turn_intrinsics
from recon4d.io.checked_cameras import camera_problem
from recon4d.io.checked_values import parse_floats
from recon4d.io.fitting import Placement
from recon4d.records import Clip

MAX_CENTER_OFFSET = 0.01
"""Largest distance of a principal point from the center, as a fraction of the longer side, for the intrinsics of
pictures that were turned to follow. Hand-tuned."""
SHAPES = "fx fy cx cy or a 3x3 matrix, once or once for each frame"
"""The accepted shapes, for messages."""


@dataclass(frozen=True)
class GivenIntrinsics:
    """Intrinsics of the frames of a clip."""

    matrices: Float[Tensor, "time 3 3"]
    """Intrinsics in pixels of the clip, of shape (time, 3, 3), float32."""
    lens: Lens | None
    """Lens distortion that came with them; None if there was none."""
    report: tuple[str, ...]
    """What was read and how, in lines for the user."""


def read_intrinsics(given: str, clip: Clip, size: tuple[int, int] | None = None) -> GivenIntrinsics:
    """Read intrinsics from text or a file.

    A text file has rows of fx fy cx cy, one 3x3 matrix in three rows, or rows of nine numbers. Numbers are separated
    by commas or spaces, and # begins a comment. A JSON file has such numbers in lists, or an object in any spelling of
    a transforms.json, such as fx, fy, cx, cy or camera_angle_x, perhaps with w and h and distortion coefficients.

    Args:
        given: ``"fx,fy,cx,cy"``, or the name of a file.
        clip: The clip.
        size: Height and width of the pictures that the values refer to. None is the size that a JSON file states, else
            the size of the clip.

    Returns:
        Intrinsics of each frame.

    Raises:
        UserError: If the file is missing, does not hold such numbers or has another number of frames, if the
            intrinsics are not those of a pinhole camera (a focal length at or below 0, or a last row other than 0 0 1),
            or if the size has another aspect ratio than the clip.
    """
    place = f"intrinsics {given}"
    values, lens = _parse_list(given), None
    if values is None:
        values = _read(Path(given))
    if isinstance(values, dict):
        own = clip.size if size is None else size
        stored = None if "fx" in values and not values.keys() >= {"fy", "cx", "cy"} else _from_object(place, values)
        if stored is None:
            raise _wrong_contents(given)
        size = size or stored.picture_size(own)
        matrices, lens = stored.matrix(own).numpy()[None], None if stored.lens.is_pinhole else stored.lens
    else:
        try:
            numbers = np.array(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:  # no numbers, or rows of different lengths
            raise _wrong_contents(given) from error
        matrices = _matrices(numbers)
    if matrices is None:
        raise _wrong_contents(given)
    if len(matrices) not in (1, clip.num_frames):
        raise UserError(f"{place}: {len(matrices)} cameras, and the clip has {clip.num_frames} frames")
    eyes = torch.eye(4).expand(len(matrices), 4, 4)
    if problem := camera_problem(eyes, torch.from_numpy(matrices)):
        reason = problem.removeprefix("holds a camera whose ")
        raise UserError(f"{place}: wanted focal lengths above 0 and finite numbers, as a pinhole has; {reason}")
    if clip.source is not None and clip.source.sizes:
        return _for_pictures_of_different_sizes(place, torch.from_numpy(matrices), size, clip, lens)
    size = size or clip.size
    scaled = _scaled(place, torch.from_numpy(matrices), size, clip)
    report = [] if scaled is None else [f"intrinsics: scaled from pictures of {size[1]} x {size[0]} pixels"]
    result = (torch.from_numpy(matrices) if scaled is None else scaled).float().expand(clip.num_frames, 3, 3).clone()
    if warning := describe_center(result, clip.size):
        report.append(f"warning: intrinsics: {warning} (intrinsics_size scales them)")
    return GivenIntrinsics(result, lens, tuple(report))


def _from_object(place: str, values: dict[str, Any]) -> Any:
    return read_intrinsics_values(place, values) if values.keys() & FOCAL_NAMES else None


def _scaled(
    place: str, matrices: Float[Tensor, "camera 3 3"], size: tuple[int, int], clip: Clip
) -> Float[Tensor, "camera 3 3"] | None:
    """Scale intrinsics to the clip and turn them upright with its pictures; None if nothing changes."""
    if size == clip.size:
        return None
    if abs(size[0] * clip.size[1] / (size[1] * clip.size[0]) - 1) <= ASPECT_TOLERANCE:
        return resized_intrinsics(matrices, size, clip.size)
    stored = (clip.size[1], clip.size[0])
    orientations = set(stored_orientations(clip))
    is_turned = len(orientations) == 1 and swaps_sides(min(orientations))
    if is_turned and abs(size[0] * stored[1] / (size[1] * stored[0]) - 1) <= ASPECT_TOLERANCE:
        resized = resized_intrinsics(matrices, size, stored)
        return torch.stack([turn_intrinsics(matrix, stored, min(orientations)) for matrix in resized])
    raise UserError(
        f"{place}: they are of pictures of {size[1]} x {size[0]} pixels, and the clip's are {clip.size[1]} x "
        f"{clip.size[0]}: another aspect ratio"
    )


def _for_pictures_of_different_sizes(
    place: str, matrices: Float[Tensor, "camera 3 3"], size: tuple[int, int] | None, clip: Clip, lens: Lens | None
) -> GivenIntrinsics:
    """Bring the intrinsics of each picture, or those of one camera that took all of them, to the common frame."""
    if len(matrices) == 1 and size is None:
        raise UserError(
            f"{place}: the pictures have different sizes; wanted one set of intrinsics for each, or the size of the "
            "pictures of these (intrinsics_size)"
        )
    found = []
    for frame in range(clip.num_frames):
        own = clip.picture_size(frame)
        matrix, given = matrices[0 if len(matrices) == 1 else frame], size or own
        if _has_aspect(given, (own[1], own[0])) and not _has_aspect(given, own):
            matrix, given = _turned(place, matrix, given), (given[1], given[0])
        if not _has_aspect(given, own):
            raise UserError(
                f"{place}: they are of pictures of {given[1]} x {given[0]} pixels, and one of the clip's is {own[1]} x "
                f"{own[0]}: another aspect ratio"
            )
        found.append(Placement(own, clip.size).to_frame(resized_intrinsics(matrix, given, own)))
    return GivenIntrinsics(torch.stack(found).float(), lens, ("intrinsics: scaled to pictures of different sizes",))


def _has_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= ASPECT_TOLERANCE


def _turned(place: str, matrix: Float[Tensor, "3 3"], size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """Exchange the axes of a camera that was turned to portrait; to which side is unknown, so it must be centered."""
    offset = (matrix[:2, 2] - matrix.new_tensor([size[1] / 2, size[0] / 2])).abs().max()
    if float(offset) > MAX_CENTER_OFFSET * max(size):
        raise UserError(
            f"{place}: the principal point is off the center, so that nothing tells that of pictures that were turned; "
            "wanted one set of intrinsics for each picture"
        )
    turned = matrix.clone()
    turned[0, 0], turned[1, 1], turned[0, 2], turned[1, 2] = matrix[1, 1], matrix[0, 0], matrix[1, 2], matrix[0, 2]
    return turned


def _parse_list(given: str) -> list[float] | None:
    """Numbers separated by commas; None if `given` is something else, which must be a file."""
    return parse_floats(given.split(","))


def _read(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"intrinsics {path}: there is no such file, nor is this fx,fy,cx,cy")
    with os_errors_as_user_errors(f"intrinsics {path}"):
        data = path.read_bytes()
    text = data.decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        return load_json(path)
    lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
    rows = [parse_floats(line) for line in lines if line]
    if None in rows:
        raise _wrong_contents(path)
    return rows


def _wrong_contents(given: str | Path) -> UserError:
    return UserError(f"intrinsics {given}: wanted {SHAPES}")


def _matrices(values: np.ndarray) -> np.ndarray | None:
    """(n, 3, 3) from any of the accepted shapes; None for another shape."""
    if values.shape in ((3, 3), (4,)):
        values = values[None]
    if values.ndim == 2 and values.shape[1] == 9:
        values = values.reshape(-1, 3, 3)
    if values.ndim == 3 and values.shape[1:] == (3, 3):
        return values
    if values.ndim != 2 or values.shape[1] != 4 or not len(values):
        return None
    matrices = np.zeros((len(values), 3, 3))
    matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    matrices[:, 2, 2] = 1
    return matrices
