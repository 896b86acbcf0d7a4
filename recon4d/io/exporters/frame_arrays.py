"""Each frame as an npz of its own, for scripts that read one frame at a time."""

from pathlib import Path

import numpy as np

from recon4d.io.exporters.point_selection import PointSelection, is_dynamic
from recon4d.io.point_cloud import confident_pixels
from recon4d.io.saved_results import SavedResults


def write_frame_arrays(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``<frame>.npz`` for each frame, opened by ``numpy.load(..., allow_pickle=False)``; all in pixels of the maps.

    For maps of H x W: ``image`` (H, W, 3) uint8 RGB, ``depth`` (H, W) z in the world's unit, ``depth_confidence``
    (H, W), ``points`` (H, W, 3) in the world, from depth and camera (both without meaning where the confidence is 0),
    ``confident`` (by `choice`) and ``moving`` (H, W) bool, ``intrinsics`` (3, 3), ``world_from_cam`` (4, 4) in OpenCV
    axes, ``time`` () in seconds, NaN where unknown, and ``metres_per_unit`` (), NaN where unknown.
    """
    scene, images = results.scene, results.images_at_map_size()
    confident, moving = confident_pixels(scene, choice.drop, choice.min_confidence), is_dynamic(scene)
    points = scene.points_from_depth
    for frame, name in enumerate(results.names):
        np.savez(
            folder / f"{name}.npz",
            image=images[frame].permute(1, 2, 0).numpy(),
            depth=scene.depths[frame].numpy(),
            depth_confidence=scene.depth_confidence[frame].numpy(),
            points=points[frame].numpy(),
            confident=confident[frame].numpy(),
            moving=moving[frame].numpy(),
            intrinsics=scene.cameras.intrinsics[frame].numpy(),
            world_from_cam=scene.cameras.world_from_cam[frame].numpy(),
            time=results.times[frame].numpy(),
            metres_per_unit=scene.metres_per_unit.numpy(),
        )
    return f"{scene.num_frames} frames of {scene.size[1]} x {scene.size[0]} pixels"
