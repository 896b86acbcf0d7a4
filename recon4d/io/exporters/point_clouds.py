"""Colored point clouds as PLY or GLB: one of the static part, and one for each time."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.selected_frames import SelectedFrames, concatenate
from recon4d.io.point_cloud import unproject_pixels, write_colored_points

GLTF_FROM_WORLD = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""Rotation to the axes of glTF 2.0 (section 3.4), y up and z toward the viewer, from those of the world."""


def write_ply(folder: Path, frames: SelectedFrames) -> str:
    """Write ``static.ply`` and ``time_<frame>.ply`` for each frame, in the axes and unit of the world.

    ``static.ply`` merges the static points of all times. The file of a frame contains its static and dynamic points.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If there are no static points, or a picture is missing or damaged.
    """
    return _write_clouds(folder, frames, ".ply", torch.eye(3))


def write_glb(folder: Path, frames: SelectedFrames) -> str:
    """Write ``static.glb`` and ``time_<frame>.glb`` for each frame as glTF points, y up, in the unit of the world.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: As for `write_ply`.
    """
    return _write_clouds(folder, frames, ".glb", GLTF_FROM_WORLD)


def _write_clouds(folder: Path, frames: SelectedFrames, suffix: str, new_from_world: Float[Tensor, "3 3"]) -> str:
    max_points, parts, num_written = frames.selection.max_points, [], 0
    for number, frame in frames.numbered():
        mask = frames.confident_mask(frame)
        if not mask.any():
            continue
        parts.append(frames.unproject_static(number, frame, max_points))
        image = frames.source.read_image(number)
        points, colors = unproject_pixels(frame, image[None], subsample_mask(mask, max_points))
        # The prefix keeps the file apart from static.ply, even if the frame is called "static".
        path = folder / f"time_{frames.source.names[number]}{suffix}"
        write_colored_points(path, points @ new_from_world.T.to(points), colors)
        num_written += 1
    frames.require_confident(num_written)
    static = concatenate(parts)
    write_colored_points(folder / f"static{suffix}", static.points @ new_from_world.T.to(static.points), static.colors)
    return f"{len(static.points)} static points, and {num_written} of {frames.source.num_frames} times in a file each"
