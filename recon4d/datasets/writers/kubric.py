"""Writes a sample as a raw MOVi folder, which `Kubric` and other readers of that format take."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.readers.common import scene_to_write
from recon4d.datasets.readers.kubric import FRAMES_PER_SECOND, blender_cameras
from recon4d.datasets.sample import Sample
from recon4d.geometry import quaternion_from_rotation, unproject_map
from recon4d.io import write_raster
from recon4d.records import Scene

SENSOR_WIDTH = 32.0
"""Kubric's own, in millimeters."""
UNKNOWN_DISTANCE = 1e10
"""What Blender writes where a ray meets nothing."""
TOLERANCE = 1e-4
"""Relative to the focal length: intrinsics nearer than this to Kubric's are taken as such."""


def write_kubric(root: str | Path, name: str, sample: Sample) -> Path:
    """Write `sample` as the new folder `root`/`name`, and answer it.

    Lengths become meters where the scene's unit is known and stay as they are elsewhere. The surface where `moving` is
    above a half becomes instance 1, whose positions stand for no place in the scene: they only tell that it moves.
    Tracks are not part of this format. Raises ``ValueError`` for what it cannot hold: a batch; cameras with a
    principal point off the middle, skew, focal lengths that differ between x and y or between frames; frames that are
    not evenly spaced in time; one single frame that moves. Raises ``FileExistsError`` where the folder is there.
    """
    scene, images = scene_to_write(sample), sample.clip.images
    focal = _focal_length(scene)
    rate = _frames_per_second(sample.clip.times)
    is_moving = scene.dynamic > 0.5  # NaN is not
    if scene.num_frames == 1 and is_moving.any():
        raise ValueError("a single frame cannot tell that something moves; wanted two frames or more")
    rays = unproject_map(torch.ones_like(scene.depths), scene.cameras.intrinsics).norm(dim=-1)
    known = scene.depth_confidence > 0
    distances = torch.where(known, scene.depths * rays, UNKNOWN_DISTANCE).float()

    folder = Path(root) / name
    folder.mkdir(parents=True)
    for frame in range(scene.num_frames):
        write_raster(folder / f"rgba_{frame:05d}.png", images[frame].permute(1, 2, 0).cpu().numpy())
        write_raster(folder / f"depth_{frame:05d}.tiff", distances[frame].cpu().numpy())
        write_raster(folder / f"segmentation_{frame:05d}.png", is_moving[frame].cpu().numpy().astype(np.uint8))
    (folder / "metadata.json").write_text(json.dumps(_metadata(scene, focal, rate, is_moving), indent=1))
    near, far = (float(distances[known].min()), float(distances[known].max())) if known.any() else (0.0, 0.0)
    (folder / "data_ranges.json").write_text(json.dumps({"depth": {"min": near, "max": far}}))
    return folder


def _focal_length(scene: Scene) -> float:
    """The one focal length of all frames in pixels."""
    height, width = scene.size
    intrinsics = scene.cameras.intrinsics
    focal = intrinsics[0, 0, 0]
    wanted = focal.new_tensor([[0.0, 0.0, width / 2], [0.0, 0.0, height / 2], [0.0, 0.0, 1.0]])
    wanted[0, 0] = wanted[1, 1] = focal
    if not torch.allclose(intrinsics, wanted.expand_as(intrinsics), rtol=0, atol=TOLERANCE * float(focal)):
        worst = (intrinsics - wanted).abs().amax(dim=(-1, -2)).argmax()
        raise ValueError(
            "Kubric's cameras have one focal length and the principal point in the middle; "
            f"wanted {wanted.tolist()} in every frame, given {intrinsics[worst].tolist()} in frame {int(worst)}"
        )
    return float(focal)


def _frames_per_second(times: Float[Tensor, "time"]) -> float:
    if len(times) < 2 or not torch.isfinite(times).all():
        return FRAMES_PER_SECOND
    steps = times.double().diff()
    if float(steps.min()) <= 0 or float(steps.max() - steps.min()) > 1e-2 * float(steps.mean()):
        raise ValueError(f"Kubric's frames are evenly spaced in time; given {times.tolist()}")
    return 1 / float(steps.mean())


def _metadata(scene: Scene, focal: float, rate: float, is_moving: Bool[Tensor, "time height width"]) -> dict:
    height, width = scene.size
    cameras = blender_cameras(scene.cameras.world_from_cam.double())
    steps = range(scene.num_frames)
    mover = {
        "positions": [[float(step), 0.0, 0.0] for step in steps],
        "quaternions": [[1.0, 0.0, 0.0, 0.0] for _ in steps],
        "is_dynamic": True,
    }
    return {
        "metadata": {
            "resolution": [width, height],
            "frame_rate": rate,
            "num_frames": scene.num_frames,
            "num_instances": int(is_moving.any()),
        },
        "camera": {
            "focal_length": focal / width * SENSOR_WIDTH,
            "sensor_width": SENSOR_WIDTH,
            "positions": cameras[:, :3, 3].tolist(),
            "quaternions": quaternion_from_rotation(cameras[:, :3, :3]).tolist(),
        },
        "instances": [mover] if is_moving.any() else [],
    }
