"""A data set as nerfstudio and instant-ngp read it: transforms.json with cameras in OpenGL axes, images, points."""

import json
from pathlib import Path

import torch

from recon4d.export.choice import PointChoice, still_pixels
from recon4d.export.colmap_model import check_pinholes
from recon4d.export.point_cloud import points_at, write_coloured_points
from recon4d.export.saved_results import SavedResults
from recon4d.geometry import thinned

OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
"""OpenGL cameras have y up and look along -z."""


def write_nerfstudio(folder: Path, results: SavedResults, choice: PointChoice) -> str:
    """``transforms.json``, ``images/`` (copies of the frames) and ``points.ply`` (the static points).

    `transform_matrix` is world_from_cam of a camera with x right, y up, z backward. The world itself is not turned, so
    that it is that of ``points.ply``; nerfstudio orients and scales it when it reads it. Intrinsics are in original
    pixels, the first pixel's centre at (0.5, 0.5), one set for each frame, without distortion.
    """
    cameras, (height, width) = results.original_cameras(), results.info.original_size
    check_pinholes(cameras)
    names = results.copy_frames(folder / "images")
    world_from_gl = cameras.world_from_cam.double() @ OPENCV_FROM_OPENGL.double()
    frames = [
        {
            "file_path": f"images/{name}",
            "fl_x": intrinsics[0][0],
            "fl_y": intrinsics[1][1],
            "cx": intrinsics[0][2],
            "cy": intrinsics[1][2],
            "w": width,
            "h": height,
            "transform_matrix": matrix,
        }
        for name, intrinsics, matrix in zip(names, cameras.intrinsics.tolist(), world_from_gl.tolist(), strict=True)
    ]
    no_distortion = {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    content = {"camera_model": "OPENCV", **no_distortion, "ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")

    static = thinned(still_pixels(results.scene, choice), choice.max_points)
    write_coloured_points(folder / "points.ply", *points_at(results.scene, results.images_of_maps(), static))
    return f"{len(frames)} frames in OpenGL axes, {int(static.sum())} points"
