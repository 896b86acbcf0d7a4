"""Meshes of the static part by Open3D: TSDF fusion, Poisson reconstruction and alpha shapes.

All are written as PLY with colors, in the axes and unit of the world.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.open3d_loader import load_open3d
from recon4d.io.point_cloud import NoConfidentPointsError

VOXEL_PIXELS = 1.5
"""Length of a voxel, in pixels at the median depth. Hand-tuned: smaller voxels leave holes."""
TRUNCATION_VOXELS = 4.0
"""Truncation distance of the TSDF, in voxels. Hand-tuned."""
POISSON_DEPTHS = (5, 10)
"""Smallest and largest octree depth of Poisson reconstruction; depth d means 2^d cells along each axis. Hand-tuned."""
POISSON_VOXELS = 2.0
"""Largest side of an octree cell of Poisson reconstruction, in voxels. Cells of one voxel take five times as long (34 s
instead of 6 s for 8 frames of 512 x 288 pixels on one core), and show the noise of depth."""
MAX_VERTEX_DISTANCE = 2.0
"""Largest distance of a vertex from the nearest point, in voxels. Poisson reconstruction closes every hole; vertices
farther away are removed. Hand-tuned."""
NEIGHBORS = 30
"""Number of nearest points from which a normal is estimated. Hand-tuned."""
ALPHA_POINTS = 20_000
"""Largest number of points of an alpha shape; more are merged in larger voxels. Hand-tuned for the time of the Delaunay
triangulation."""
ALPHA_VOXELS = 4.0
"""Alpha, in voxels. Gaps wider than about twice this value stay open. Hand-tuned."""
ALPHA_NOISE = 0.05
"""Standard deviation, in voxels, of noise that is added to the points of an alpha shape, because the Delaunay
triangulation of points on an exact plane or sphere is degenerate. Hand-tuned."""


def write_tsdf(folder: Path, frames: SelectedFrames) -> str:
    """Write ``tsdf.ply``, the zero crossing of the fused truncated signed distances (Curless and Levoy 1996).

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If there are too few static points, or a picture is missing or damaged.
    """
    return _write_mesh(folder / "tsdf.ply", fused_mesh(frames))


def write_poisson(folder: Path, frames: SelectedFrames) -> str:
    """Write ``poisson.ply`` by screened Poisson reconstruction (Kazhdan and Hoppe 2013), without parts far from points.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: As for `write_tsdf`.
    """
    open3d = load_open3d()

    voxel = static_voxel_length(frames)
    cloud = _even_cloud(frames, voxel)
    cells = float(np.max(cloud.get_max_bound() - cloud.get_min_bound())) / voxel
    min_depth, max_depth = POISSON_DEPTHS
    depth = min(max(math.ceil(math.log2(max(cells / POISSON_VOXELS, 1))), min_depth), max_depth)
    # One thread, because the order of summation varies with more.
    mesh, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=1)
    distances = open3d.geometry.PointCloud(mesh.vertices).compute_point_cloud_distance(cloud)
    mesh.remove_vertices_by_mask(np.asarray(distances) > MAX_VERTEX_DISTANCE * voxel)
    return _write_mesh(folder / "poisson.ply", mesh)


def write_alpha(folder: Path, frames: SelectedFrames) -> str:
    """Write ``alpha.ply``, the alpha shape (Edelsbrunner and Muecke 1994) of at most 20 000 points.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: As for `write_tsdf`.
    """
    open3d = load_open3d()

    voxel = static_voxel_length(frames)
    cloud = _even_cloud(frames, voxel)
    while len(cloud.points) > ALPHA_POINTS:
        # The number of voxels on a surface is inversely proportional to their squared length. The factor 1.1 ensures
        # that the loop ends.
        voxel *= 1.1 * math.sqrt(len(cloud.points) / ALPHA_POINTS)
        cloud = cloud.voxel_down_sample(voxel)
    noise = np.random.default_rng(0).standard_normal((len(cloud.points), 3))
    cloud.points = open3d.utility.Vector3dVector(np.asarray(cloud.points) + ALPHA_NOISE * voxel * noise)
    try:
        mesh = open3d.geometry.TriangleMesh.create_from_point_cloud_alpha_shape(cloud, ALPHA_VOXELS * voxel)
    except RuntimeError as error:
        first_line = str(error).split("\n")[0]
        raise NoConfidentPointsError(f"the static points have no alpha shape: {first_line}") from error
    return _write_mesh(folder / "alpha.ply", mesh)


def fused_mesh(frames: SelectedFrames) -> Any:
    """Fuse the depths of the static pixels, frame by frame, in Open3D's scalable TSDF volume.

    Args:
        frames: The frames to fuse.

    Returns:
        Open3D's triangle mesh, with colors.

    Raises:
        UserError: If there are no static pixels, or a picture is missing or damaged.
    """
    open3d = load_open3d()

    source, static = frames.source, frames.static
    height, width = source.size
    voxel = static_voxel_length(frames)
    volume = open3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=TRUNCATION_VOXELS * voxel,
        color_type=open3d.pipelines.integration.TSDFVolumeColorType.RGB8,
        depth_sampling_stride=1,
    )
    cam_from_world = source.cameras.cam_from_world
    numbers = [number for number, count in enumerate(static.counts) if count]
    for number, frame in frames.numbered(numbers):
        image = source.read_image(number)
        depths = torch.where(frames.static_mask(frame), frame.depths, torch.zeros_like(frame.depths))[0]
        picture = open3d.geometry.RGBDImage.create_from_color_and_depth(
            open3d.geometry.Image(np.ascontiguousarray(image.permute(1, 2, 0).numpy())),
            open3d.geometry.Image(np.ascontiguousarray(depths.float().numpy())),
            depth_scale=1.0,
            depth_trunc=2 * static.depths.maximum,
            convert_rgb_to_intensity=False,
        )
        matrix = source.cameras.intrinsics[number]
        # The center of Open3D's first pixel is (0, 0).
        intrinsic = open3d.camera.PinholeCameraIntrinsic(
            width,
            height,
            float(matrix[0, 0]),
            float(matrix[1, 1]),
            float(matrix[0, 2]) - 0.5,
            float(matrix[1, 2]) - 0.5,
        )
        volume.integrate(picture, intrinsic, cam_from_world[number].double().numpy())
    return volume.extract_triangle_mesh()


def static_voxel_length(frames: SelectedFrames) -> float:
    """Choose the length of a voxel from the static pixels.

    Args:
        frames: The frames.

    Returns:
        `voxel_length` at the median depth of the static pixels and the median focal length of their frames.

    Raises:
        NoConfidentPointsError: If there are no static pixels.
    """
    static = frames.static
    has_static = torch.tensor(static.counts) > 0
    return voxel_length(static.depths.values.median(), frames.source.cameras.intrinsics[has_static, 0, 0].median())


def voxel_length(depth: Float[Tensor, ""], focal_length: Float[Tensor, ""]) -> float:
    """Compute the length of `VOXEL_PIXELS` pixels at a depth.

    Args:
        depth: The depth in scene units, a scalar.
        focal_length: Focal length in pixels, a scalar.

    Returns:
        The length in scene units.
    """
    return VOXEL_PIXELS * float(depth / focal_length)


def _even_cloud(frames: SelectedFrames, voxel: float) -> Any:
    """The static points, merged within each voxel, with normals toward the cameras of their frames.

    Merging equalizes the density, which would be larger on near surfaces and on surfaces that many frames show.
    """
    open3d = load_open3d()

    static = frames.static_points(frames.selection.max_points)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(static.points.double().numpy()))
    cloud.colors = open3d.utility.Vector3dVector(static.colors.double().numpy() / 255)
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBORS))
    normals = np.asarray(cloud.normals)
    to_camera = (frames.source.cameras.centers[static.frames] - static.points).double().numpy()
    is_away = (normals * to_camera).sum(axis=1) < 0
    cloud.normals = open3d.utility.Vector3dVector(np.where(is_away[:, None], -normals, normals))
    return cloud.voxel_down_sample(voxel)


def _write_mesh(path: Path, mesh: Any) -> str:
    open3d = load_open3d()

    if not len(mesh.triangles):
        raise NoConfidentPointsError(f"no surface for {path.name}: the static points are too few or too far apart")
    mesh.compute_vertex_normals()
    if not open3d.io.write_triangle_mesh(str(path), mesh):
        raise UserError(f"Open3D cannot write {path}")
    return f"{len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles"
