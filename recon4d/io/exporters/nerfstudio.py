"""A data set as nerfstudio and instant-ngp read it: transforms.json with cameras in OpenGL axes, images, depth, points.

Depth as nerfstudio documents it (docs.nerf.studio/quickstart/data_conventions.html, "Depth images"): `depth_file_path`
for each frame, sixteen bits, 0 for unknown, any size (it is resized to the images). A reader multiplies by the
`depth_unit_scale_factor` of its own configuration, 0.001 by default, and gets the unit of the cameras.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.colmap_model import check_pinholes
from recon4d.io.exporters.depth_maps import (
    LARGEST,
    depth_steps,
    known_depths,
    values_per_unit,
)
from recon4d.io.exporters.point_selection import PointSelection, static_pixels
from recon4d.io.point_cloud import unproject_pixels, write_colored_points
from recon4d.io.rasters import write_raster
from recon4d.io.saved_results import SavedResults

OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
"""OpenGL cameras have y up and look along -z."""


USUAL_STEPS = 1000.0
"""Steps to the cameras' unit that nerfstudio reads without being told."""
LEAST_STEPS = 200.0
"""Of the median depth: fewer would round by more than a quarter of a per cent."""


def write_nerfstudio(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``transforms.json``, ``images/`` (copies of the frames), ``depth/`` and ``points.ply`` (the static points).

    `transform_matrix` is world_from_cam of a camera with x right, y up, z backward. The world itself is not turned, so
    that it is that of ``points.ply``; nerfstudio orients and scales it when it reads it. Intrinsics are in original
    pixels, the first pixel's center at (0.5, 0.5), one set for each frame, without distortion. Depth maps are of the
    maps' own size, 1000 steps to the cameras' unit where that fits them; else the summary says what nerfstudio must be
    told, and ``depth_unit_scale_factor`` in ``transforms.json`` holds it for people.
    """
    cameras, (height, width) = results.original_cameras(), results.info.original_size
    check_pinholes(cameras)
    names = results.copy_frames(folder / "images")
    depth_names, units_per_value = _write_depths(folder / "depth", results, choice)
    world_from_gl = cameras.world_from_cam.double() @ OPENCV_FROM_OPENGL.double()
    frames = [
        {
            "file_path": f"images/{name}",
            "depth_file_path": f"depth/{depth_name}",
            "fl_x": intrinsics[0][0],
            "fl_y": intrinsics[1][1],
            "cx": intrinsics[0][2],
            "cy": intrinsics[1][2],
            "w": width,
            "h": height,
            "transform_matrix": matrix,
        }
        for name, depth_name, intrinsics, matrix in zip(
            names, depth_names, cameras.intrinsics.tolist(), world_from_gl.tolist(), strict=True
        )
    ]
    no_distortion = {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    content = {
        "camera_model": "OPENCV",
        **no_distortion,
        "depth_unit_scale_factor": units_per_value,
        "ply_file_path": "points.ply",
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")

    static = subsample_mask(static_pixels(results.scene, choice), choice.max_points)
    write_colored_points(folder / "points.ply", *unproject_pixels(results.scene, results.images_at_map_size(), static))
    told = (
        "" if units_per_value == 1 / USUAL_STEPS else f", to be read with --depth-unit-scale-factor {units_per_value!r}"
    )
    return f"{len(frames)} frames in OpenGL axes, {int(static.sum())} points; depth{told or ' in the usual steps'}"


def _write_depths(folder: Path, results: SavedResults, choice: PointSelection) -> tuple[list[str], float]:
    """``<frame>.png`` of sixteen bits for each frame; answers their names, and the units of the world in one step."""
    depths = known_depths(results.scene, choice).double()
    known = depths[depths > 0]
    is_usual = USUAL_STEPS * float(known.median()) >= LEAST_STEPS and USUAL_STEPS * float(known.max()) <= LARGEST
    steps = USUAL_STEPS if is_usual else values_per_unit(known, math.nan)
    folder.mkdir()
    names = [f"{name}.png" for name in results.names]
    for name, values in zip(names, depth_steps(depths, steps), strict=True):
        write_raster(folder / name, values.numpy().astype(np.uint16))
    return names, 1 / steps
