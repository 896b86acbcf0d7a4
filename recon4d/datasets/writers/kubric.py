"""Writer of samples as raw MOVi scenes of Kubric."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.readers.kubric import FRAMES_PER_SECOND, swap_blender_axes
from recon4d.datasets.sample import Sample
from recon4d.datasets.writers.metric_scene import metric_scene
from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import quaternion_from_rotation, unproject_map
from recon4d.io import write_raster
from recon4d.records import Scene

SENSOR_WIDTH = 32.0
"""Kubric's default, in millimeters."""
UNKNOWN_DISTANCE = 1e10
"""Value that Blender writes where a ray hits nothing."""
INTRINSICS_TOLERANCE = 1e-4
"""Largest deviation from Kubric's intrinsics, relative to the focal length. Hand-tuned."""
MAX_STEP_VARIATION = 1e-2
"""Largest difference between time steps, relative to their mean, that counts as regular. Hand-tuned."""


def write_kubric(root: str | Path, name: str, sample: Sample) -> Path:
    """Write a sample as a MOVi scene.

    Lengths are converted to meters if the unit of the scene is known. Pixels with a dynamic probability above 0.5
    become instance 1, whose positions only indicate that it moves. Tracks are not part of the format.

    Args:
        root: Folder of the data set.
        name: Name of the new scene, a subfolder of `root`.
        sample: A single sample.

    Returns:
        The folder of the scene.

    Raises:
        ValueError: If the sample is a batch.
        UserError: If the format cannot represent the sample, the folder exists already or cannot be written. The format
            requires one focal length for all frames, no skew, a centered principal point and equal time steps; a
            single frame cannot be dynamic.
    """
    scene, images = metric_scene(sample), sample.clip.images
    focal = _focal_length(scene)
    rate = _frames_per_second(sample.clip.times)
    is_dynamic = scene.is_dynamic
    if scene.num_frames == 1 and is_dynamic.any():
        raise UserError("Kubric's format cannot represent motion in a single frame; wanted two frames or more")
    rays = unproject_map(torch.ones_like(scene.depths), scene.cameras.intrinsics).norm(dim=-1)
    is_known = scene.depth_confidence > 0
    distances = torch.where(is_known, scene.depths * rays, UNKNOWN_DISTANCE).float()
    near, far = (float(distances[is_known].min()), float(distances[is_known].max())) if is_known.any() else (0.0, 0.0)

    folder = Path(root) / name
    with os_errors_as_user_errors():
        folder.mkdir(parents=True)
        for frame in range(scene.num_frames):
            write_raster(folder / f"rgba_{frame:05d}.png", images[frame].permute(1, 2, 0).cpu().numpy())
            write_raster(folder / f"depth_{frame:05d}.tiff", distances[frame].cpu().numpy())
            write_raster(folder / f"segmentation_{frame:05d}.png", is_dynamic[frame].cpu().numpy().astype(np.uint8))
        (folder / "metadata.json").write_text(json.dumps(_metadata(scene, focal, rate, is_dynamic), indent=1))
        (folder / "data_ranges.json").write_text(json.dumps({"depth": {"min": near, "max": far}}))
    return folder


def _focal_length(scene: Scene) -> float:
    """Return the common focal length of all frames in pixels, or raise `UserError` if there is none."""
    height, width = scene.size
    intrinsics = scene.cameras.intrinsics
    focal = intrinsics[0, 0, 0]
    wanted = focal.new_tensor([[0.0, 0.0, width / 2], [0.0, 0.0, height / 2], [0.0, 0.0, 1.0]])
    wanted[0, 0] = wanted[1, 1] = focal
    if not torch.allclose(intrinsics, wanted.expand_as(intrinsics), rtol=0, atol=INTRINSICS_TOLERANCE * float(focal)):
        worst = (intrinsics - wanted).abs().amax(dim=(-1, -2)).argmax()
        raise UserError(
            "Kubric's format requires one focal length for all frames and a centered principal point; "
            f"wanted {wanted.tolist()} in every frame, got {intrinsics[worst].tolist()} in frame {int(worst)}"
        )
    return float(focal)


def _frames_per_second(times: Float[Tensor, "time"]) -> float:
    """Return the frame rate; Kubric's default if times are unknown."""
    if len(times) < 2 or not torch.isfinite(times).all():
        return FRAMES_PER_SECOND
    steps = times.double().diff()
    if float(steps.min()) <= 0 or float(steps.max() - steps.min()) > MAX_STEP_VARIATION * float(steps.mean()):
        raise UserError(f"Kubric's format requires equal, ascending time steps; got times {times.tolist()}")
    return 1 / float(steps.mean())


def _metadata(scene: Scene, focal: float, rate: float, is_dynamic: Bool[Tensor, "time height width"]) -> dict:
    height, width = scene.size
    cameras = swap_blender_axes(scene.cameras.world_from_cam.double())
    frames = range(scene.num_frames)
    dynamic_instance = {
        "positions": [[float(frame), 0.0, 0.0] for frame in frames],
        "quaternions": [[1.0, 0.0, 0.0, 0.0] for _ in frames],
        "is_dynamic": True,
    }
    return {
        "metadata": {
            "resolution": [width, height],
            "frame_rate": rate,
            "num_frames": scene.num_frames,
            "num_instances": int(is_dynamic.any()),
        },
        "camera": {
            "focal_length": focal / width * SENSOR_WIDTH,
            "sensor_width": SENSOR_WIDTH,
            "positions": cameras[:, :3, 3].tolist(),
            "quaternions": quaternion_from_rotation(cameras[:, :3, :3]).tolist(),
        },
        "instances": [dynamic_instance] if is_dynamic.any() else [],
    }
