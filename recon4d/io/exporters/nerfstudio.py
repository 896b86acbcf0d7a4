"""Data set for nerfstudio and instant-ngp: transforms.json with cameras in OpenGL axes, images, depth maps and points.

Depth maps follow nerfstudio's documentation (docs.nerf.studio/quickstart/data_conventions.html, "Depth images"): a
16-bit PNG for each frame, named by `depth_file_path`, with 0 for unknown and of any size (nerfstudio resizes it).
nerfstudio multiplies values by its option `depth_unit_scale_factor`, 0.001 by default, to obtain the unit of the
cameras.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

from recon4d.io.exporters.colmap_model import check_pinholes
from recon4d.io.exporters.depth_maps import MAX_VALUE, depth_steps, steps_per_unit
from recon4d.io.exporters.own_pictures import own_picture
from recon4d.io.exporters.reduced_images import write_reduced_images
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.point_cloud import write_colored_points
from recon4d.io.rasters import write_raster

OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
"""Transform to OpenCV camera axes from those of OpenGL, which have y up and look along -z."""
DEFAULT_STEPS_PER_UNIT = 1000.0
"""Steps per unit of the cameras that nerfstudio assumes by default (the inverse of its scale factor 0.001)."""
MIN_MEDIAN_STEPS = 200.0
"""Smallest median depth in steps for the default scale. Hand-tuned: with fewer steps, the rounding error of a median
depth exceeds 0.25 %."""


def write_nerfstudio(folder: Path, frames: SelectedFrames) -> str:
    """Write ``transforms.json``, ``images/``, ``depth/`` and ``points.ply`` (the static points).

    ``images/`` holds copies of the frames; smaller ones are beside it (`write_reduced_images`).

    `transform_matrix` is world_from_cam of a camera with x right, y up and z backward. The world axes are unchanged and
    the same as in ``points.ply``; nerfstudio orients and scales the world when it reads it. Intrinsics are in original
    pixels with the first pixel center at (0.5, 0.5), one set for each frame, without distortion. Depth maps have the
    size of the maps of the scene and 1000 steps per unit of the cameras if that suits the depths. Otherwise the summary
    names the scale factor that nerfstudio needs; ``transforms.json`` also contains it, for readers of the file.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If a camera is unknown or has skew, if there are no static points, or if a picture is missing or
            damaged.
    """
    source = frames.source
    cameras = source.original_cameras
    pictures = [own_picture(source, number) for number in range(source.num_frames)]
    check_pinholes(cameras, source.outline.frame_files)
    names = source.copy_frames(folder / "images")
    write_reduced_images(folder)
    depth_names, units_per_value = _write_depths(folder / "depth", frames)
    world_from_gl = cameras.world_from_cam.double() @ OPENCV_FROM_OPENGL.double()
    entries = [
        {
            "file_path": f"images/{name}",
            "depth_file_path": f"depth/{depth_name}",
            "fl_x": intrinsics[0][0],
            "fl_y": intrinsics[1][1],
            "cx": intrinsics[0][2],
            "cy": intrinsics[1][2],
            "w": size[1],
            "h": size[0],
            "transform_matrix": matrix,
        }
        for name, depth_name, intrinsics, size, matrix in zip(
            names,
            depth_names,
            [picture.intrinsics.tolist() for picture in pictures],
            [picture.size for picture in pictures],
            world_from_gl.tolist(),
            strict=True,
        )
    ]
    no_distortion = {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    content = {
        "camera_model": "OPENCV",
        **no_distortion,
        "depth_unit_scale_factor": units_per_value,
        "ply_file_path": "points.ply",
        "frames": entries,
    }
    (folder / "transforms.json").write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")

    static = frames.static_points(frames.selection.max_points)
    write_colored_points(folder / "points.ply", static.points, static.colors)
    is_default = units_per_value == 1 / DEFAULT_STEPS_PER_UNIT
    scale = (
        " in the default scale" if is_default else f", to be read with --depth-unit-scale-factor {units_per_value!r}"
    )
    return f"{len(entries)} frames in OpenGL axes, {len(static.points)} points; depth{scale}"


def _write_depths(folder: Path, frames: SelectedFrames) -> tuple[list[str], float]:
    """Write ``<frame>.png`` of 16 bits for each frame; return the names and the scene units per step."""
    known = frames.depths
    is_default = (
        DEFAULT_STEPS_PER_UNIT * known.median >= MIN_MEDIAN_STEPS
        and DEFAULT_STEPS_PER_UNIT * known.maximum <= MAX_VALUE
    )
    steps = DEFAULT_STEPS_PER_UNIT if is_default else steps_per_unit(known.maximum, known.median, math.nan)
    folder.mkdir()
    names = [f"{name}.png" for name in frames.source.names]
    for number, frame in frames.numbered():
        depths = own_picture(frames.source, number).crop(frames.depth_map(frame)[0].double())
        values = depth_steps(depths, steps)
        write_raster(folder / names[number], values.numpy().astype(np.uint16))
    return names, 1 / steps
