"""Writer of samples in the layout of Dynamic Replica.

Only the files that `DynamicReplica` reads are written: images, depth and tracks of the left camera. World coordinates
are those of the sample, in meters if the sample knows the length of its unit.
"""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.datasets.readers.dynamic_replica import OPENCV_FROM_PYTORCH3D, annotation_file, read_annotation
from recon4d.datasets.sample import Sample
from recon4d.datasets.writers.metric_scene import metric_scene
from recon4d.errors import os_errors_as_user_errors
from recon4d.geometry import is_in_image, project, transform_points
from recon4d.io import atomic_file, write_raster
from recon4d.records import Scene


def write_dynamic_replica(root: str | Path, split: str, name: str, sample: Sample) -> None:
    """Write a sample as a sequence of Dynamic Replica and append its frames to the annotation of the split.

    Depth is rounded to float16, up to 65504 m; unknown depth is 0. The queries of all anchors become points, NaN where
    unknown. Skew of the intrinsics is lost.

    Args:
        root: Folder of the data set.
        split: Name of the split, a subfolder of `root`.
        name: Name of the new sequence.
        sample: A single sample.

    Raises:
        ValueError: If the sample is a batch.
        UserError: If the sequence exists already or cannot be written.
    """
    scene = metric_scene(sample)
    folder = Path(root) / split
    path = annotation_file(folder)
    annotated = read_annotation(split, path) if path.exists() else []
    with os_errors_as_user_errors():
        for part in ("images", "depths", "trajectories"):
            (folder / name / part).mkdir(parents=True)
        for frame, image in enumerate(sample.clip.images):
            entry = _annotation(name, frame, float(sample.clip.times[frame]), scene)
            write_raster(folder / entry["image"]["path"], image.permute(1, 2, 0).numpy())
            write_raster(folder / entry["depth"]["path"], _depth_bits(scene, frame))
            if scene.tracks is not None:
                torch.save(_points(scene, frame, image), folder / entry["trajectories"]["path"])
            annotated.append(entry)
    _write_annotation(path, annotated)


def _annotation(name: str, frame: int, seconds: float, scene: Scene) -> dict[str, Any]:
    """Describe one frame as an entry of the annotation."""
    height, width = scene.size
    return {
        "sequence_name": name,
        "frame_number": frame,
        "frame_timestamp": seconds if math.isfinite(seconds) else None,
        "camera_name": "left",
        "image": {"path": f"{name}/images/{name}-{frame:04d}.png", "size": [height, width]},
        "depth": {
            "path": f"{name}/depths/{name}_{frame:04d}.geometric.png",
            "scale_adjustment": 1.0,
            "mask_path": None,
        },
        "viewpoint": _viewpoint(scene, frame),
        "trajectories": None if scene.tracks is None else {"path": f"{name}/trajectories/{frame:06d}.pth"},
        "meta": None,
    }


def _viewpoint(scene: Scene, frame: int) -> dict[str, Any]:
    """Convert a camera to PyTorch3D: x_pytorch3d = x_world R + T, intrinsics in units of half the shorter side."""
    flip = torch.tensor(OPENCV_FROM_PYTORCH3D, dtype=torch.float64)
    cam_from_world = scene.cameras.cam_from_world[frame].double()
    intrinsics = scene.cameras.intrinsics[frame].double()
    half = torch.tensor([scene.size[1], scene.size[0]], dtype=torch.float64) / 2
    return {
        "R": (flip[:, None] * cam_from_world[:3, :3]).T.tolist(),
        "T": (flip * cam_from_world[:3, 3]).tolist(),
        "focal_length": (intrinsics[[0, 1], [0, 1]] / half.min()).tolist(),
        "principal_point": ((half - intrinsics[:2, 2]) / half.min()).tolist(),
        "intrinsics_format": "ndc_isotropic",
    }


def _depth_bits(scene: Scene, frame: int) -> np.ndarray:
    depths = torch.where(scene.depth_confidence[frame] > 0, scene.depths[frame], 0)
    with np.errstate(over="ignore"):  # values beyond float16 become infinite, which means unknown
        return depths.numpy().astype(np.float16).view(np.uint16)


def _points(scene: Scene, frame: int, image: UInt8[Tensor, "3 height width"]) -> dict[str, Tensor]:
    """Build the content of the trajectory file of a frame."""
    assert scene.tracks is not None
    tracks = scene.tracks
    is_known = tracks.confidence[:, frame, :, None] > 0
    points = torch.where(is_known, tracks.points[:, frame], torch.nan).flatten(0, 1)
    in_camera = transform_points(scene.cameras.cam_from_world[frame], points)
    pixels = project(in_camera, scene.cameras.intrinsics[frame])
    is_inside = is_in_image(pixels, scene.size) & (in_camera[:, 2] > 0)  # False for NaN
    return {
        "traj_2d": torch.cat([pixels, in_camera[:, 2:]], dim=-1),
        "traj_3d_world": points,
        "verts_inds_vis": is_inside & (tracks.visibility[:, frame].flatten() > 0.5),
        "img": image.permute(1, 2, 0).contiguous(),
        "instances": torch.zeros(len(points), dtype=torch.int64),
    }


def _write_annotation(path: Path, frames: list[dict[str, Any]]) -> None:
    """Replace the annotation atomically, so that sequences written before are never lost."""
    with atomic_file(path) as partial, gzip.open(partial, "wt", encoding="utf8") as file:
        json.dump(frames, file)
