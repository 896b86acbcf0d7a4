"""Colored point clouds: one of the static part, and one for each time, as PLY or as GLB."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.point_selection import PointSelection, chosen_pixels, static_pixels
from recon4d.io.point_cloud import unproject_pixels, write_colored_points
from recon4d.io.saved_results import SavedResults

GLTF_FROM_WORLD = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""glTF 2.0 (section 3.4) has y up and z toward the viewer; the world has y down and z away from them."""


def write_ply(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``static.ply`` and ``time_<frame>.ply`` for each frame, binary, in the world's own axes and unit."""
    return _write_clouds(folder, results, choice, ".ply", torch.eye(3))


def write_glb(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``static.glb`` and ``time_<frame>.glb`` for each frame, as glTF points, y up, in the world's unit."""
    return _write_clouds(folder, results, choice, ".glb", GLTF_FROM_WORLD)


def _write_clouds(
    folder: Path, results: SavedResults, choice: PointSelection, ending: str, new_from_world: Float[Tensor, "3 3"]
) -> str:
    """Static points are merged over all times; a frame's own file has what it sees, what moves included."""
    scene, images = results.scene, results.images_at_map_size()
    static = subsample_mask(static_pixels(scene, choice), choice.max_points)
    points, colors = unproject_pixels(scene, images, static)
    write_colored_points(folder / f"static{ending}", points @ new_from_world.T.to(points), colors)

    seen, written = chosen_pixels(scene, choice), 0
    for frame, name in enumerate(results.names):
        of_frame = torch.zeros_like(seen)
        of_frame[frame] = seen[frame]
        if not of_frame.any():
            continue
        points, colors = unproject_pixels(scene, images, subsample_mask(of_frame, choice.max_points))
        # Not static.ply, whatever a frame is called.
        write_colored_points(folder / f"time_{name}{ending}", points @ new_from_world.T.to(points), colors)
        written += 1
    return f"{int(static.sum())} static points, and {written} of {scene.num_frames} times in a file each"
