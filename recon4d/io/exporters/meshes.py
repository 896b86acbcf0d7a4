"""Meshes of the static part by Open3D: fused distances, Poisson, alpha shapes (door of open3d).

All are written as PLY with colors, in the world's own axes and unit.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.point_selection import PointSelection, static_pixels
from recon4d.io.point_cloud import NoConfidentPointsError, unproject_pixels
from recon4d.io.saved_results import SavedResults
from recon4d.records import Scene

VOXEL_PIXELS = 1.5
"""A voxel is as long as so many pixels at the median depth: finer ones would have holes."""
TRUNCATION_VOXELS = 4.0
POISSON_DEPTHS = (5, 10)
"""At least 2^5 and at most 2^10 cells along each axis, as many as have the length of a voxel."""
BARE_VOXELS = 2.0
"""Poisson closes every hole; vertices farther than so many voxels from every point are taken away again."""
NEIGHBORS = 30
ALPHA_POINTS = 20_000
"""More than about so many points are merged in larger voxels: Delaunay tetrahedra take their time."""
ALPHA_VOXELS = 4.0
"""Alpha in voxels: gaps wider than about twice that stay open."""
ALPHA_NOISE = 0.05
"""Standard deviation, in voxels, of what points are moved by: exact planes and spheres have no Delaunay tetrahedra."""


def write_tsdf(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``tsdf.ply``: the surface where truncated signed distances of all frames cross zero (Curless and Levoy 1996)."""
    still = static_pixels(results.scene, choice)
    return _write_mesh(folder / "tsdf.ply", fused_mesh(results.scene, still, results.images_at_map_size()))


def write_poisson(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``poisson.ply``: screened Poisson reconstruction (Kazhdan and Hoppe 2013), cut where there are no points."""
    import open3d

    still = static_pixels(results.scene, choice)
    voxel = voxel_length(results.scene, still)
    cloud = _even_cloud(results, still, choice, voxel)
    cells = float(np.max(cloud.get_max_bound() - cloud.get_min_bound())) / voxel
    least, most = POISSON_DEPTHS
    depth = min(max(math.ceil(math.log2(max(cells, 1))), least), most)
    # One thread: with more, sums come out in another order each time.
    mesh, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=1)
    distances = open3d.geometry.PointCloud(mesh.vertices).compute_point_cloud_distance(cloud)
    mesh.remove_vertices_by_mask(np.asarray(distances) > BARE_VOXELS * voxel)
    return _write_mesh(folder / "poisson.ply", mesh)


def write_alpha(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``alpha.ply``: the alpha shape of about 20 000 points at the most (Edelsbrunner and Muecke 1994)."""
    import open3d

    still = static_pixels(results.scene, choice)
    voxel = voxel_length(results.scene, still)
    cloud = _even_cloud(results, still, choice, voxel)
    while len(cloud.points) > ALPHA_POINTS:
        # Of a surface, the voxels that it meets go with their length squared; a tenth more, so that this ends.
        voxel *= 1.1 * math.sqrt(len(cloud.points) / ALPHA_POINTS)
        cloud = cloud.voxel_down_sample(voxel)
    noise = np.random.default_rng(0).standard_normal((len(cloud.points), 3))
    cloud.points = open3d.utility.Vector3dVector(np.asarray(cloud.points) + ALPHA_NOISE * voxel * noise)
    try:
        mesh = open3d.geometry.TriangleMesh.create_from_point_cloud_alpha_shape(cloud, ALPHA_VOXELS * voxel)
    except RuntimeError as error:
        raise NoConfidentPointsError(
            f"there is no alpha shape of these points: {str(error).split(chr(10))[0]}"
        ) from error
    return _write_mesh(folder / "alpha.ply", mesh)


def fused_mesh(scene: Scene, still: Bool[Tensor, "time height width"], images: Tensor) -> Any:
    """The mesh that follows from the depths of the `still` pixels, fused in Open3D's scalable volume.

    `images` are the frames at the size of the maps, uint8 of shape (time, 3, height, width).
    """
    import open3d

    height, width = scene.size
    depths = torch.where(still, scene.depths, torch.zeros_like(scene.depths))
    voxel = voxel_length(scene, still)
    volume = open3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=TRUNCATION_VOXELS * voxel,
        color_type=open3d.pipelines.integration.TSDFVolumeColorType.RGB8,
        depth_sampling_stride=1,
    )
    for frame in still.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
        picture = open3d.geometry.RGBDImage.create_from_color_and_depth(
            open3d.geometry.Image(np.ascontiguousarray(images[frame].permute(1, 2, 0).numpy())),
            open3d.geometry.Image(np.ascontiguousarray(depths[frame].float().numpy())),
            depth_scale=1.0,
            depth_trunc=2 * float(depths.max()),
            convert_rgb_to_intensity=False,
        )
        matrix = scene.cameras.intrinsics[frame]
        # Open3D's first pixel has its center at (0, 0).
        intrinsic = open3d.camera.PinholeCameraIntrinsic(
            width,
            height,
            float(matrix[0, 0]),
            float(matrix[1, 1]),
            float(matrix[0, 2]) - 0.5,
            float(matrix[1, 2]) - 0.5,
        )
        volume.integrate(picture, intrinsic, scene.cameras.cam_from_world[frame].double().numpy())
    return volume.extract_triangle_mesh()


def voxel_length(scene: Scene, still: Bool[Tensor, "time height width"]) -> float:
    """`VOXEL_PIXELS` pixels at the median depth of the `still` ones, in the world's unit."""
    focal = scene.cameras.intrinsics[still.flatten(1).any(dim=1), 0, 0].median()
    return VOXEL_PIXELS * float(scene.depths[still].median() / focal)


def _even_cloud(
    results: SavedResults, still: Bool[Tensor, "time height width"], choice: PointSelection, voxel: float
) -> Any:
    """The static points, those in one voxel merged, with normals toward the cameras that saw them.

    Merging makes them even: near surfaces, and those that many frames see, would be much denser otherwise.
    """
    import open3d

    chosen = subsample_mask(still, choice.max_points)
    points, colors = unproject_pixels(results.scene, results.images_at_map_size(), chosen)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.double().numpy()))
    cloud.colors = open3d.utility.Vector3dVector(colors.double().numpy() / 255)
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBORS))
    normals = np.asarray(cloud.normals)
    to_camera = (results.scene.cameras.centers[chosen.nonzero()[:, 0]] - points).double().numpy()
    is_away = (normals * to_camera).sum(axis=1) < 0
    cloud.normals = open3d.utility.Vector3dVector(np.where(is_away[:, None], -normals, normals))
    return cloud.voxel_down_sample(voxel)


def _write_mesh(path: Path, mesh: Any) -> str:
    import open3d

    if not len(mesh.triangles):
        raise NoConfidentPointsError(f"no surface for {path.name}: the static points are too few or too far apart")
    mesh.compute_vertex_normals()
    if not open3d.io.write_triangle_mesh(str(path), mesh):
        raise OSError(f"Open3D could not write {path}")
    return f"{len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles"
