"""Writes samples as Dynamic Replica stores them: what tests read, and how worlds of one's own join that data set.

Only what `DynamicReplica` reads is written: the left camera's pictures, depth and tracks. Masks, flow and the right
camera are left out. The world is the sample's, in meters where the sample says how long its unit is.
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

from recon4d.datasets.readers.common import in_view, scene_to_write
from recon4d.datasets.readers.dynamic_replica import OPENCV_FROM_PYTORCH3D, annotation_file, read_annotation
from recon4d.datasets.sample import Sample
from recon4d.geometry import project, transform_points
from recon4d.io import write_raster
from recon4d.records import Scene


def write_dynamic_replica(root: str | Path, split: str, name: str, sample: Sample) -> None:
    """Write `sample` as the sequence `name` of ``<root>/<split>`` and append its frames to that split's annotation.

    Depth is rounded to float16 (up to 65504 m; unknown depth is 0). The queries of all anchors become points, one after
    the other, NaN where unknown. Skew of the intrinsics is lost. Raises ``ValueError`` for a batch, and
    ``FileExistsError`` where there is such a sequence already.
    """
    scene = scene_to_write(sample)
    folder = Path(root) / split
    path = annotation_file(folder)
    listed = read_annotation(path) if path.exists() else []
    for part in ("images", "depths", "trajectories"):
        (folder / name / part).mkdir(parents=True)
    for frame, image in enumerate(sample.clip.images):
        entry = _annotation(name, frame, float(sample.clip.times[frame]), scene)
        write_raster(folder / entry["image"]["path"], image.permute(1, 2, 0).numpy())
        write_raster(folder / entry["depth"]["path"], _depth_bits(scene, frame))
        if scene.tracks is not None:
            torch.save(_points(scene, frame, image), folder / entry["trajectories"]["path"])
        listed.append(entry)
    _write_annotation(path, listed)


def _annotation(name: str, frame: int, seconds: float, scene: Scene) -> dict[str, Any]:
    """One frame as the list holds it."""
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
    """The camera as PyTorch3D has it: x_pytorch3d = x_world R + T, lengths in half the shorter side."""
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
    known = torch.where(scene.depth_confidence[frame] > 0, scene.depths[frame], 0)
    with np.errstate(over="ignore"):  # beyond float16 is infinite, and so unknown
        return known.numpy().astype(np.float16).view(np.uint16)


def _points(scene: Scene, frame: int, image: UInt8[Tensor, "3 height width"]) -> dict[str, Tensor]:
    """What the trajectory file of a frame holds."""
    assert scene.tracks is not None
    tracks = scene.tracks
    known = tracks.confidence[:, frame, :, None] > 0
    points = torch.where(known, tracks.points[:, frame], torch.nan).flatten(0, 1)
    in_camera = transform_points(scene.cameras.cam_from_world[frame], points)
    pixels = project(in_camera, scene.cameras.intrinsics[frame])
    is_inside = in_view(pixels[None], in_camera[None, :, 2], scene.size)[0]  # not so where NaN
    return {
        "traj_2d": torch.cat([pixels, in_camera[:, 2:]], dim=-1),
        "traj_3d_world": points,
        "verts_inds_vis": is_inside & (tracks.visibility[:, frame].flatten() > 0.5),
        "img": image.permute(1, 2, 0).contiguous(),
        "instances": torch.zeros(len(points), dtype=torch.int64),
    }


def _write_annotation(path: Path, frames: list[dict[str, Any]]) -> None:
    """Whole or not at all: the list of the sequences written before must not be lost."""
    partial = path.with_name(f".{path.name}.partial")
    with gzip.open(partial, "wt", encoding="utf8") as file:
        json.dump(frames, file)
    partial.replace(path)
