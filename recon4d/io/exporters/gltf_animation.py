"""Animated glTF: one point cloud for each group, shown one at a time, and a moving camera."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import quaternion_from_rotation
from recon4d.io.exporters.frame_groups import (
    TimedCamera,
    curve_points,
    end_of,
    frame_groups,
    group_cameras,
    group_points,
)
from recon4d.io.exporters.gltf_file import GltfFile
from recon4d.io.exporters.selected_frames import SelectedFrames

FILE_NAME = "animation.glb"
NEAR = 0.01
"""Distance of the near plane of the camera, in the unit of the scene. Hand-tuned."""
MIN_ZOOM = 1e-3
"""Relative change of the field of view from which it is animated. Hand-tuned."""
UNLIT, POINTER = "KHR_materials_unlit", "KHR_animation_pointer"
"""Extensions of glTF: colors without light, and animation of other properties than those of nodes."""


def write_animation(folder: Path, frames: SelectedFrames) -> str:
    """Write ``animation.glb``: a node with points for each group, and a node with the camera, y up.

    Geometry of changing topology cannot be morphed in glTF. Instead, the scale of each node is animated in steps: 1 at
    its time and 0 otherwise. Times start at 0 and are those of the clip. All groups share the largest number of points
    of a file. With `PointSelection.interpolated_frames`, these nodes have the static points only, and further nodes
    have the points of curves at each time.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If there are no points, or a picture is missing or damaged.
    """
    groups = frame_groups(frames.source)
    file = GltfFile()
    file.append("materials", {"name": "points", "extensions": {UNLIT: {}}})
    file.content["extensionsUsed"] = [UNLIT]
    interpolated_frames = frames.selection.interpolated_frames
    clouds = [
        (f"time_{group.name}", group.seconds, *found)
        for group, found in zip(groups, group_points(frames, groups, static_only=interpolated_frames > 0), strict=True)
    ]
    moving = curve_points(frames) if interpolated_frames else []
    samplers: list[dict] = []
    channels: list[dict] = []
    end = end_of(groups)
    curves = [(f"moving_{one.seconds:.4f}", one.seconds, one.points, one.colors) for one in moving]
    for shown in filter(None, (clouds, curves)):
        stops = [*(seconds for _, seconds, _, _ in shown[1:]), None]
        for (name, start, points, colors), stop in zip(shown, stops, strict=True):
            node = _add_points(file, name, start, points, colors)
            keys = sorted({0.0, start, end if stop is None else stop})
            is_shown = np.array([key == start or (stop is None and key >= start) for key in keys])
            scales = np.repeat(is_shown[:, None], 3, axis=1).astype(float)
            samplers.append(_sampler(file, np.array(keys), scales, "STEP"))
            channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": "scale"}})
    count = sum(len(points) for _, _, points, _ in clouds) + sum(len(one.points) for one in moving)
    cameras = group_cameras(frames.source, groups)
    if cameras:
        _add_camera(file, cameras, frames.source.size, samplers, channels)
    file.append("animations", {"name": "clip", "samplers": samplers, "channels": channels})
    file.append("scenes", {"nodes": list(range(len(file.content["nodes"])))})
    file.content["scene"] = 0
    file.write(folder / FILE_NAME)
    num_times = len(moving) or len(groups)
    return f"{count} points at {num_times} times, {end:.2f} s, with {len(cameras)} cameras"


def _add_points(
    file: GltfFile, name: str, seconds: float, points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]
) -> int:
    """Add the node of a time and return its index; only the first is visible where animations are not played."""
    scale = 1.0 if seconds == 0 else 0.0
    node = {"name": name, "scale": [scale] * 3, "extras": {"seconds": seconds}}
    if len(points):
        attributes = {"POSITION": file.add_array(points.numpy()), "COLOR_0": file.add_array(linear_colors(colors))}
        primitive = {"attributes": attributes, "mode": 0, "material": 0}
        node["mesh"] = file.append("meshes", {"name": node["name"], "primitives": [primitive]})
    return file.append("nodes", node)


def linear_colors(colors: UInt8[Tensor, "n 3"]) -> np.ndarray:
    """Convert colors of pictures to the linear colors of vertices in glTF (section 3.7.2.1).

    Args:
        colors: RGB colors in sRGB.

    Returns:
        Linear RGB and an opacity of 1, as uint16 of shape (n, 4).
    """
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    table = (65535 * linear).round().astype(np.uint16)
    return np.concatenate([table[colors.numpy()], np.full((len(colors), 1), 65535, np.uint16)], axis=1)


def _add_camera(
    file: GltfFile, cameras: list[TimedCamera], size: tuple[int, int], samplers: list[dict], channels: list[dict]
) -> None:
    """Add the camera with its path; the field of view is animated if it changes."""
    height, width = size
    seconds = np.array([camera.seconds for camera in cameras])
    poses = torch.stack([camera.world_from_cam for camera in cameras])
    angles = np.array([2 * math.atan(height / 2 / float(camera.intrinsics[1, 1])) for camera in cameras])
    scalar_last = quaternion_from_rotation(poses[:, :3, :3]).roll(-1, dims=-1)
    rotations = _continuous(scalar_last.numpy())
    focal_x, focal_y = cameras[0].intrinsics.diagonal()[:2].tolist()
    lens = {"yfov": float(angles[0]), "aspectRatio": width / focal_x * focal_y / height, "znear": NEAR}
    camera = file.append("cameras", {"type": "perspective", "perspective": lens})
    translation = poses[:, :3, 3].numpy()
    node = file.append(
        "nodes",
        {
            "name": "camera",
            "camera": camera,
            "translation": translation[0].tolist(),
            "rotation": rotations[0].tolist(),
        },
    )
    for path, values in (("translation", translation), ("rotation", rotations)):
        samplers.append(_sampler(file, seconds, values, "LINEAR"))
        channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": path}})
    if np.ptp(angles) > MIN_ZOOM * angles[0]:
        pointer = {POINTER: {"pointer": f"/cameras/{camera}/perspective/yfov"}}
        samplers.append(_sampler(file, seconds, angles, "LINEAR"))
        channels.append({"sampler": len(samplers) - 1, "target": {"path": "pointer", "extensions": pointer}})
        file.content["extensionsUsed"].append(POINTER)


def _continuous(quaternions: np.ndarray) -> np.ndarray:
    """Choose the sign of each quaternion so that interpolation takes the short way."""
    turns = np.sign((quaternions[1:] * quaternions[:-1]).sum(axis=1))
    signs = np.cumprod(np.concatenate([[1.0], np.where(turns == 0, 1.0, turns)]))
    return quaternions * signs[:, None]


def _sampler(file: GltfFile, seconds: np.ndarray, values: np.ndarray, interpolation: str) -> dict:
    return {
        "input": file.add_array(seconds),
        "output": file.add_array(values),
        "interpolation": interpolation,
    }
