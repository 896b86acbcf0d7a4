"""Turning of cameras with pictures: readers turn a picture upright as its EXIF orientation says, cameras come stored.

The eight orientations are those of the EXIF standard. A stored pixel (x, y) of a picture of width w and height h is
shown at (w - x, y) for orientation 2, (w - x, h - y) for 3, (x, h - y) for 4, (y, x) for 5, (h - y, x) for 6,
(h - y, w - x) for 7 and (y, w - x) for 8.
"""

from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.io.containers import open_container
from recon4d.records import Clip

UPRIGHT_FROM_STORED: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, 1), (-1, 0)),
}
"""Linear part of the map from stored to upright pixels, by EXIF orientation."""
EXIF_ORIENTATION = 0x0112
"""Number of the EXIF field."""


def stored_orientations(clip: Clip) -> tuple[int, ...]:
    """Read how the pictures of a clip were turned when they were read.

    Args:
        clip: The clip.

    Returns:
        EXIF orientation of each frame; 1 for pictures that were not turned, are not there any more or have none. For a
        video, the orientation that its display matrix describes.
    """
    source = clip.source
    if source is None or not Path(source.path).exists():
        return (1,) * clip.num_frames
    path = Path(source.path)
    if path.is_dir():
        return tuple(_picture_orientation(path / name) for name in source.names)
    orientation = _picture_orientation(path)
    return (orientation if orientation != 1 else _video_orientation(path),) * clip.num_frames


def swaps_sides(orientation: int) -> bool:
    """Whether width and height of the stored picture are exchanged when it is turned upright.

    Args:
        orientation: EXIF orientation.

    Returns:
        True for the orientations 5 to 8.
    """
    return orientation >= 5


def turn_matrix(orientation: int) -> Float64[Tensor, "2 2"]:
    """Return the map from directions in the stored picture to directions in the upright one.

    Args:
        orientation: EXIF orientation.

    Returns:
        An orthogonal matrix of shape (2, 2), with determinant -1 for mirrored pictures.
    """
    return torch.tensor(UPRIGHT_FROM_STORED[orientation], dtype=torch.float64)


def turn_camera(world_from_cam: Float64[Tensor, "4 4"], orientation: int) -> Float64[Tensor, "4 4"]:
    """Express the pose of a camera in the axes of its upright picture.

    Args:
        world_from_cam: Pose of the camera of the stored picture.
        orientation: EXIF orientation.

    Returns:
        Pose in the same world; a reflection for mirrored pictures.
    """
    stored_from_upright = torch.eye(4, dtype=torch.float64)
    stored_from_upright[:2, :2] = turn_matrix(orientation).T
    return world_from_cam @ stored_from_upright


def turn_intrinsics(
    intrinsics: Float64[Tensor, "3 3"], stored_size: tuple[int, int], orientation: int
) -> Float64[Tensor, "3 3"]:
    """Express intrinsics in pixels of the upright picture.

    Args:
        intrinsics: Intrinsics in pixels of the stored picture.
        stored_size: Height and width of the stored picture.
        orientation: EXIF orientation.

    Returns:
        Intrinsics of shape (3, 3).
    """
    turn, (height, width) = turn_matrix(orientation), stored_size
    upright_from_stored = torch.eye(3, dtype=torch.float64)
    upright_from_stored[:2, :2] = turn
    # The corners of the picture stay those of a picture that begins at 0.
    corners = torch.tensor([[0.0, 0.0], [width, height]], dtype=torch.float64) @ turn.T
    upright_from_stored[:2, 2] = -corners.amin(dim=0)
    camera_turn = torch.eye(3, dtype=torch.float64)
    camera_turn[:2, :2] = turn
    return upright_from_stored @ intrinsics @ camera_turn.T


def turn_pixels(
    pixels: Float64[Tensor, "n 2"], stored_size: tuple[int, int], orientation: int
) -> Float64[Tensor, "n 2"]:
    """Convert pixels of the stored picture to pixels of the upright one.

    Args:
        pixels: Pixels (x, y) of the stored picture, of shape (n, 2).
        stored_size: Height and width of the stored picture.
        orientation: EXIF orientation.

    Returns:
        Pixels of the upright picture, of shape (n, 2).
    """
    turn, (height, width) = turn_matrix(orientation), stored_size
    corners = torch.tensor([[0.0, 0.0], [width, height]], dtype=torch.float64) @ turn.T
    return pixels.double() @ turn.T - corners.amin(dim=0)


def is_mirrored(orientation: int) -> bool:
    """Whether the upright picture is a mirror image of the stored one, which no camera sees.

    Args:
        orientation: EXIF orientation.

    Returns:
        True for the orientations 2, 4, 5 and 7.
    """
    return bool(torch.linalg.det(turn_matrix(orientation)) < 0)


def _picture_orientation(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a video, or no file at all; Pillow raises exceptions of any class
        return 1
    return orientation if orientation in UPRIGHT_FROM_STORED else 1


def _video_orientation(path: Path) -> int:
    """The orientation of the first frame of a video."""
    import numpy as np
    from av.error import FFmpegError

    try:
        with open_container(path) as container:
            frame = next(container.decode(video=0))
            display = frame.side_data.get("DISPLAYMATRIX")
    except (FFmpegError, StopIteration, OSError, ValueError, IndexError):
        return 1
    if display is None:
        return 1
    # x_shown = a x + c y and y_shown = b x + d y.
    (a, b, _), (c, d, _), _ = np.sign(np.frombuffer(display, np.int32).reshape(3, 3)).tolist()
    found = [key for key, turn in UPRIGHT_FROM_STORED.items() if turn == ((a, c), (b, d))]
    return found[0] if found else 1
