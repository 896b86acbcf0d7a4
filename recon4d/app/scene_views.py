"""3D views of a scene for a browser, as small GLB files: one time alone, and the whole scene with what moves.

Colors come from textures and are shown as they are (`KHR_materials_unlit`), because the pictures already contain light
and shadow. Surfaces are meshes over the pixel grid, cut at depth edges; merged points of all times are small triangles,
because viewers in browsers draw points one pixel wide.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from recon4d.errors import os_errors_as_user_errors
from recon4d.geometry import subsample_mask, transform_points, unproject
from recon4d.io import SavedResults
from recon4d.io.point_cloud import confident_pixels
from recon4d.records import Scene
from recon4d.viewer.thinning import thin_by_voxels

if TYPE_CHECKING:
    import trimesh

GRID = 192
"""Largest number of vertices along the longer side of a surface: 0.6 MB for a view of one time. Hand-tuned."""
EDGE_RATIO = 1.15
"""Largest ratio of the depths of a triangle's corners; more is a depth edge. Hand-tuned."""
MAX_POINTS = 30_000
"""Largest number of merged points of all times: 1.2 MB a file. Hand-tuned."""
FAR = 5.0
"""Surfaces farther away than this many median depths are left out, so that the rest is not tiny. Hand-tuned."""
COVER = 2.4
"""Size of the triangle of a merged point, in distances to its neighbors. Hand-tuned: smaller ones leave gaps."""
NEIGHBORS = 4
"""Number of neighbors, the point itself included, by whose median distance a triangle is sized. Hand-tuned."""
BOUND_POINTS = 20_000
"""Number of points from which the size of the scene is measured. Hand-tuned."""
FRUSTUM, LINE = 0.12, 0.003
"""Length of a camera's pyramid and radius of its lines, in median depths. Hand-tuned."""
CURRENT_COLOR, PATH_COLOR = (255, 128, 0), (60, 120, 220)
"""RGB of the camera of the shown time and of the camera path. Hand-tuned."""


@dataclass(frozen=True)
class SceneViews:
    """Files of the views, one for each time."""

    moments: tuple[Path, ...]
    """Everything that the camera sees at this time."""
    scenes: tuple[Path, ...]
    """The static part of all times together, and what moves at this time."""


def write_scene_views(folder: Path, results: SavedResults, drop: float) -> SceneViews:
    """Write the views of all times.

    All views have the same axes: those of the middle camera, which looks along -z with y up. The scene of all times is
    moved and scaled to a sphere of radius 1 around the origin, so that one position of the viewer suits all views.

    Args:
        folder: The folder to make.
        results: The results, with their pictures.
        drop: Percentage of the known pixels, the least confident ones, that are left out.

    Returns:
        The files.

    Raises:
        UserError: If a picture is missing or a file cannot be written.
    """
    scene, images = results.scene, results.images_at_map_size()
    shown = confident_pixels(scene, drop)
    length = float(scene.depths[shown].median()) if shown.any() else 1.0
    shown &= scene.depths < FAR * length
    view_from_world = _fitted(_view_from_world(scene), scene, shown)
    static = _merged_points(scene, images, shown & ~scene.is_dynamic, view_from_world)
    with os_errors_as_user_errors("the 3D view cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        moments, scenes = [], []
        for number in range(scene.num_frames):
            cameras = _camera_marks(scene, number, length, view_from_world)
            surface = [] if not shown[number].any() else _surface(scene, images, number, shown, view_from_world)
            moving = _surface(scene, images, number, shown & scene.is_dynamic, view_from_world)
            moments.append(_write(folder / f"moment_{number:03d}.glb", [*surface, *cameras]))
            scenes.append(_write(folder / f"scene_{number:03d}.glb", [*static, *moving, *cameras]))
    return SceneViews(tuple(moments), tuple(scenes))


def _view_from_world(scene: Scene) -> Float[Tensor, "4 4"]:
    """The axes of glTF, y up and z toward the viewer, at the middle one of the known cameras."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    known = torch.isfinite(scene.cameras.world_from_cam).flatten(1).all(-1).nonzero()[:, 0]
    if not len(known):
        return flip
    middle = scene.cameras.world_from_cam[known[len(known) // 2]].double()
    return flip @ torch.linalg.inv(middle)


def _fitted(
    view_from_world: Float[Tensor, "4 4"], scene: Scene, shown: Bool[Tensor, "time height width"]
) -> Float[Tensor, "4 4"]:
    """Move and scale the axes so that what is shown at any time fits into a sphere of radius 1 around the origin."""
    sampled = subsample_mask(shown, BOUND_POINTS)
    points = [scene.frames([number]).points_from_depth[0][sampled[number]] for number in range(scene.num_frames)]
    seen = transform_points(view_from_world, torch.cat(points).double())
    if not len(seen):
        return view_from_world
    middle = (seen.amin(dim=0) + seen.amax(dim=0)) / 2
    radius = float((seen - middle).norm(dim=1).max()) or 1.0
    fitted = torch.eye(4, dtype=torch.float64)
    fitted[:3] /= radius
    fitted[:3, 3] = -middle / radius
    return fitted @ view_from_world


def _surface(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    number: int,
    shown: Bool[Tensor, "time height width"],
    view_from_world: Float[Tensor, "4 4"],
) -> "list[trimesh.Trimesh]":
    """The mesh over every n-th pixel of one frame, with the frame as its texture; no mesh if it has no triangles."""
    from PIL import Image

    step = max(1, math.ceil(max(scene.size) / GRID))
    height, width = scene.size
    rows, columns = torch.arange(step // 2, height, step), torch.arange(step // 2, width, step)
    mask = shown[number][rows][:, columns]
    depths = scene.depths[number][rows][:, columns]
    faces = _grid_faces(mask, depths)
    if not len(faces):
        return []
    points = scene.frames([number]).points_from_depth[0][rows][:, columns].reshape(-1, 3)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    # trimesh counts v from the bottom of the picture.
    texture_places = torch.stack([(column + 0.5) / width, 1 - (row + 0.5) / height], dim=-1).reshape(-1, 2)
    used, faces = faces.unique(return_inverse=True)
    picture = Image.fromarray(images[number].movedim(0, -1).numpy())
    vertices = transform_points(view_from_world, points[used].double())
    return [_textured(vertices, faces, texture_places[used], picture, "JPEG")]


def _grid_faces(mask: Bool[Tensor, "rows columns"], depths: Float[Tensor, "rows columns"]) -> Int64[Tensor, "n 3"]:
    """Two triangles for each cell of a grid, without those that have an unknown corner or cross a depth edge."""
    index = torch.arange(mask.numel()).reshape(mask.shape)
    corners = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    upper_left, upper_right, lower_left, lower_right = (corner.flatten() for corner in corners)
    faces = torch.cat(
        [
            torch.stack([upper_left, lower_left, upper_right], dim=1),
            torch.stack([upper_right, lower_left, lower_right], dim=1),
        ]
    )
    at_corners = depths.flatten()[faces]
    is_flat = at_corners.amax(dim=1) <= EDGE_RATIO * at_corners.amin(dim=1)
    return faces[mask.flatten()[faces].all(dim=1) & is_flat]


def _merged_points(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    static: Bool[Tensor, "time height width"],
    view_from_world: Float[Tensor, "4 4"],
) -> "list[trimesh.Trimesh]":
    """The static points of all times, merged, as triangles that face the camera that saw them."""
    from recon4d.io.point_cloud import unproject_pixels

    if not static.any():
        return []
    kept = thin_by_voxels(scene, static, MAX_POINTS)
    points, colors = unproject_pixels(scene, images, kept)
    centers = scene.cameras.centers[kept.nonzero()[:, 0]]
    points = transform_points(view_from_world, points.double())
    to_camera = torch.nn.functional.normalize(transform_points(view_from_world, centers.double()) - points, dim=1)
    return [_facing_triangles(points, to_camera, colors)]


def _facing_triangles(
    points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]
) -> "trimesh.Trimesh":
    """One triangle around each point, as large as the distance to its neighbors, with its color as one texel."""
    from PIL import Image
    from scipy.spatial import KDTree

    count = min(NEIGHBORS, len(points))
    distances = np.asarray(KDTree(points.numpy()).query(points.numpy(), k=count)[0]).reshape(len(points), count)
    radius = torch.from_numpy(np.minimum(distances[:, -1], 3 * np.median(distances[:, -1]))) * COVER / 2
    # Any direction that is not parallel to the normal gives an axis of the triangle's plane.
    helper = torch.zeros_like(normals)
    helper[torch.arange(len(normals)), normals.abs().argmin(dim=1)] = 1.0
    across = torch.nn.functional.normalize(torch.linalg.cross(normals, helper), dim=1)
    up = torch.linalg.cross(normals, across)
    angles = [math.pi / 2 + turn * 2 * math.pi / 3 for turn in range(3)]
    corners = [math.cos(angle) * across + math.sin(angle) * up for angle in angles]
    vertices = torch.stack([points + radius[:, None] * corner for corner in corners], dim=1).reshape(-1, 3)
    side = math.ceil(math.sqrt(len(points)))
    palette = np.zeros((side * side, 3), dtype=np.uint8)
    palette[: len(points)] = colors.numpy()
    texel = torch.arange(len(points))
    places = torch.stack([(texel % side + 0.5) / side, 1 - (texel // side + 0.5) / side], dim=-1)
    faces = torch.arange(3 * len(points)).reshape(-1, 3)
    picture = Image.fromarray(palette.reshape(side, side, 3))
    return _textured(vertices, faces, places.repeat_interleave(3, dim=0), picture, "PNG")


def _camera_marks(
    scene: Scene, number: int, length: float, view_from_world: Float[Tensor, "4 4"]
) -> "list[trimesh.Trimesh]":
    """The camera path as a line, and the camera of one time as a pyramid."""
    known = torch.isfinite(scene.cameras.world_from_cam).flatten(1).all(-1)
    radius = LINE * length * float(view_from_world[:3, 0].norm())
    centers = transform_points(view_from_world, scene.cameras.centers[known].double())
    marks = _lines(list(itertools.pairwise(centers)), radius, PATH_COLOR)
    if not known[number]:
        return marks
    height, width = scene.size
    pixels = torch.tensor([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    depths = torch.full((4,), FRUSTUM * length)
    in_camera = unproject(pixels[None], depths[None], scene.cameras.intrinsics[number : number + 1])[0]
    view_from_cam = view_from_world @ scene.cameras.world_from_cam[number].double()
    corners = transform_points(view_from_cam, in_camera.double())
    center = view_from_cam[:3, 3]
    edges = [(center, corner) for corner in corners]
    edges += [(corners[side], corners[(side + 1) % 4]) for side in range(4)]
    return marks + _lines(edges, radius, CURRENT_COLOR)


def _lines(
    segments: Sequence[tuple[Tensor, Tensor]], radius: float, color: tuple[int, int, int]
) -> "list[trimesh.Trimesh]":
    """Segments as thin cylinders in one color."""
    import trimesh
    from PIL import Image

    cylinders = [
        trimesh.creation.cylinder(radius, segment=[start.tolist(), end.tolist()], sections=6)
        for start, end in segments
        if float((end - start).norm()) > radius
    ]
    if not cylinders:
        return []
    starts = np.cumsum([0, *(len(cylinder.vertices) for cylinder in cylinders)])
    vertices = torch.from_numpy(np.concatenate([cylinder.vertices for cylinder in cylinders]))
    faces = torch.from_numpy(np.concatenate([c.faces + start for c, start in zip(cylinders, starts, strict=False)]))
    places = torch.full((len(vertices), 2), 0.5)
    return [_textured(vertices, faces, places, Image.new("RGB", (1, 1), color), "PNG")]


def _textured(
    vertices: Float[Tensor, "n 3"],
    faces: Int64[Tensor, "m 3"],
    places: Float[Tensor, "n 2"],
    picture: Any,
    encoding: str,
) -> "trimesh.Trimesh":
    """A mesh with a picture as its texture."""
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    picture.format = encoding
    material = PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)
    visual = TextureVisuals(uv=places.numpy(), material=material)
    return trimesh.Trimesh(vertices.float().numpy(), faces.numpy(), visual=visual, process=False)


def _write(path: Path, meshes: "Sequence[trimesh.Trimesh]") -> Path:
    """Write meshes as GLB; a view without any gets a triangle without size, because an empty file is no GLB."""
    import trimesh
    from trimesh.exchange.gltf import export_glb

    scene = trimesh.Scene(list(meshes) or [trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)])
    exported = export_glb(scene, include_normals=False, tree_postprocessor=_make_unlit)
    path.write_bytes(exported)
    return path


def _make_unlit(tree: dict[str, Any]) -> None:
    """Mark all materials of a glTF tree as unlit."""
    materials = tree.get("materials", [])
    if materials:
        tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    for material in materials:
        material["extensions"] = {"KHR_materials_unlit": {}}
