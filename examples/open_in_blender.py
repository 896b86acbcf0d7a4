"""Open a reconstruction in Blender: points of each time, shown at their time only, and the camera with its path.

    blender --python examples/open_in_blender.py -- out/
    python examples/open_in_blender.py out/ --save scene.blend

The second line needs `pip install bpy` and writes a file for Blender. Neither needs recon4d: the script reads scene.npz
with numpy, which Blender brings along.
"""

import argparse
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BLENDER_FROM_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Rotation from the axes of the world (y down, z forward) to those of Blender (z up, y forward)."""
CAMERA_AXES = np.diag([1.0, -1.0, -1.0])
"""Cameras of Blender look along -z with y up."""
SENSOR = 36.0
"""Width of the sensor in millimeters."""
FRAME_RATE = 24
"""Frames per second of the timeline."""
PHOTO_SECONDS = 0.5
"""Time for which each picture of a collection without times is shown."""


@dataclass(frozen=True)
class Arguments:
    """Open a reconstruction in Blender."""

    scene: Path
    max_points: int
    drop: float
    save: Path | None


def parse(words: list[str]) -> Arguments:
    """Read the arguments, which follow "--" if Blender runs the script."""
    parser = argparse.ArgumentParser(description=Arguments.__doc__)
    parser.add_argument("scene", type=Path, help="folder of a reconstruction, with scene.npz and frames/")
    parser.add_argument("--max-points", type=int, default=1_000_000, help="largest number of points of all times")
    parser.add_argument(
        "--drop", type=float, default=20.0, help="percentage of the least confident pixels to leave out"
    )
    parser.add_argument("--save", type=Path, default=None, help="write a .blend file")
    return Arguments(**vars(parser.parse_args(words[words.index("--") + 1 :] if "--" in words else words)))


def main(arguments: Arguments) -> None:
    """Build the scene."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    file = arguments.scene / "scene.npz" if arguments.scene.is_dir() else arguments.scene
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("tracks_")}
    pictures = picture_files(file.parent / "frames", arrays)
    starts, end = timeline(arrays["times"])
    set_up(bpy.context.scene, arrays, end)
    limit = max(1, arguments.max_points // len(starts))
    known = arrays["depth_confidence"][arrays["depth_confidence"] > 0]
    threshold = np.percentile(known, arguments.drop) if len(known) else np.inf
    look = point_look(bpy, float(np.median(arrays["depths"]) / arrays["intrinsics"][0, 0, 0]))
    for number, start in enumerate(starts):
        points, pixels = unproject(arrays, number, threshold, limit)
        colors = read_colors(bpy, pictures[number], arrays["depths"].shape[1:])[pixels]
        cloud = add_points(bpy, pictures[number].stem, points, colors, look)
        show_between(cloud, start, min([later for later in starts if later > start], default=None))
    add_camera(bpy, arrays, starts)
    if arguments.save is not None:
        bpy.ops.wm.save_as_mainfile(filepath=str(arguments.save.resolve()))


def picture_files(folder: Path, arrays: dict[str, np.ndarray]) -> list[Path]:
    """Find the picture of each frame by the names that the archive tells."""
    files = sorted(folder.iterdir())
    source = json.loads(str(arrays["info"]))["source"]
    by_stem = {file.stem: file for file in files}
    names = [Path(name).stem for name in source["names"]] if source else []
    return [by_stem[name] for name in names] if by_stem.keys() >= set(names) != set() else files


def timeline(times: np.ndarray) -> tuple[list[int], int]:
    """Return the frame of the timeline at which each frame of the clip begins, and the last frame."""
    if not np.isfinite(times).all():
        times = PHOTO_SECONDS * np.arange(len(times))
    moments = np.unique(times)
    step = float(np.median(np.diff(moments))) if len(moments) > 1 else PHOTO_SECONDS
    starts = [1 + round(FRAME_RATE * float(time - moments[0])) for time in times]
    return starts, max(1, round(FRAME_RATE * (float(moments[-1] - moments[0]) + step)))


def set_up(scene: Any, arrays: dict[str, np.ndarray], end: int) -> None:
    """Set the timeline, the size of the picture and the shape of the pixels."""
    height, width = arrays["depths"].shape[1:]
    scene.render.fps, scene.frame_start, scene.frame_end = FRAME_RATE, 1, end
    scene.render.resolution_x, scene.render.resolution_y = 2 * width, 2 * height
    ratio = float(arrays["intrinsics"][0, 1, 1] / arrays["intrinsics"][0, 0, 0])
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = max(1.0, ratio), max(1.0, 1 / ratio)
    scene.view_settings.view_transform = "Standard"  # colors as in the pictures


def unproject(
    arrays: dict[str, np.ndarray], number: int, threshold: float, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confident points (n, 3) of a frame in the axes of Blender, and the index of their pixels."""
    depths, confidence = (arrays[name][number].astype(np.float64) for name in ("depths", "depth_confidence"))
    chosen = (confidence > 0) & (confidence >= threshold) & np.isfinite(depths) & (depths > 0)
    pixels = np.flatnonzero(chosen)
    pixels = np.sort(np.random.default_rng(number).permutation(pixels)[:limit])  # without a pattern
    y, x = np.divmod(pixels, depths.shape[1])
    rays = np.stack([x + 0.5, y + 0.5, np.ones(len(x))]) * depths.flat[pixels]
    in_camera = np.linalg.solve(arrays["intrinsics"][number].astype(np.float64), rays)
    pose = arrays["world_from_cam"][number].astype(np.float64)
    return (BLENDER_FROM_WORLD @ (pose[:3, :3] @ in_camera + pose[:3, 3:])).T, pixels


def read_colors(bpy: Any, file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the linear colors of a picture, resized to the maps: RGBA (height * width, 4), row by row."""
    image = bpy.data.images.load(str(file))
    image.scale(size[1], size[0])
    encoded = np.empty(size[0] * size[1] * 4, np.float32)
    image.pixels.foreach_get(encoded)
    bpy.data.images.remove(image)
    encoded = encoded.reshape(*size, 4)[::-1].reshape(-1, 4)  # Blender begins at the bottom
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def point_look(bpy: Any, radius: float) -> Any:
    """Make a node group that renders vertices as points of their color."""
    material = bpy.data.materials.new("points")
    if material.node_tree is None:  # before Blender 5
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    attribute, emission, output = (
        nodes.new(f"ShaderNode{name}") for name in ("Attribute", "Emission", "OutputMaterial")
    )
    attribute.attribute_name = "rgb"
    links.new(attribute.outputs["Color"], emission.inputs["Color"])
    links.new(emission.outputs[0], output.inputs["Surface"])
    group = bpy.data.node_groups.new("points", "GeometryNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    chain = [
        group.nodes.new(name) for name in ("NodeGroupInput", "GeometryNodeMeshToPoints", "GeometryNodeSetMaterial")
    ]
    chain.append(group.nodes.new("NodeGroupOutput"))
    chain[1].inputs["Radius"].default_value = radius
    chain[2].inputs["Material"].default_value = material
    for first, second in itertools.pairwise(chain):
        group.links.new(first.outputs[0], second.inputs[0])
    return group


def add_points(bpy: Any, name: str, points: np.ndarray, colors: np.ndarray, look: Any) -> Any:
    """Add a mesh of vertices with their colors as an attribute (Cycles reserves the name "color")."""
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", points.astype(np.float32).ravel())
    attribute = mesh.attributes.new("rgb", "FLOAT_COLOR", "POINT")
    attribute.data.foreach_set("color", colors.astype(np.float32).ravel())
    cloud = bpy.data.objects.new(name, mesh)
    cloud.modifiers.new("points", "NODES").node_group = look
    bpy.context.scene.collection.objects.link(cloud)
    return cloud


def show_between(cloud: Any, start: int, stop: int | None) -> None:
    """Show an object from one frame of the timeline until before another; to the end if there is none."""
    for frame, is_hidden in ((0, True), (start, False), (stop, True)):
        if frame is None:
            continue
        cloud.hide_viewport = cloud.hide_render = is_hidden
        cloud.keyframe_insert("hide_viewport", frame=frame)
        cloud.keyframe_insert("hide_render", frame=frame)


def add_camera(bpy: Any, arrays: dict[str, np.ndarray], starts: list[int]) -> None:
    """Add the camera with keys for pose, focal length and principal point."""
    import mathutils

    height, width = arrays["depths"].shape[1:]
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit, lens.sensor_width = "HORIZONTAL", SENSOR
    camera = bpy.data.objects.new("camera", lens)
    camera.rotation_mode = "QUATERNION"
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    poses = zip(starts, arrays["world_from_cam"].astype(np.float64), arrays["intrinsics"].tolist(), strict=True)
    before = None
    for frame, pose, ((fx, _, cx), (_, fy, cy), _) in poses:
        camera.location = BLENDER_FROM_WORLD @ pose[:3, 3]
        turned = mathutils.Matrix((BLENDER_FROM_WORLD @ pose[:3, :3] @ CAMERA_AXES).tolist()).to_quaternion()
        if before is not None:
            turned.make_compatible(before)
        camera.rotation_quaternion = before = turned
        lens.lens = fx * SENSOR / width
        lens.shift_x, lens.shift_y = (width / 2 - cx) / width, (cy - height / 2) / width * fx / fy
        for owner, names in ((camera, ("location", "rotation_quaternion")), (lens, ("lens", "shift_x", "shift_y"))):
            for name in names:
                owner.keyframe_insert(name, frame=frame)


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
