"""Bundle adjustment with pycolmap (Ceres): cameras and points that minimize the robust reprojection error.

All results are in float64. Images have one observation per visible track; residuals have a Cauchy loss.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import (
    invert,
    project,
    rigid,
    transform_points,
)
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.pycolmap_loader import pycolmap_session

LOSS_SCALES = (8.0, 2.0, 0.5, 0.2)
"""Loss scales of successive rounds of adjustment, in pixels: large while the cameras are several pixels off, small at
the end. Hand-tuned."""
MIN_TRIANGULATION_ANGLE = math.radians(2)
"""Smallest triangulation angle of a point whose position is determined by its observations, in radians. Hand-tuned."""
FIRST_ID = 1
"""First index of COLMAP's cameras, images and points."""

FreeIntrinsics = Literal["none", "focal length", "all"]
"""Intrinsics that an adjustment may change; "all" are the focal length and the principal point."""


@dataclass(frozen=True)
class BundleProblem:
    """Initial cameras and points with their observations."""

    cameras: Cameras
    tracks: FeatureTracks
    """Observations, in pixels."""
    points: Float[Tensor, "track 3"]
    """Initial points in world coordinates."""
    size: tuple[int, int]
    """Height and width of the maps that pixels and intrinsics refer to."""
    loss_scale: float = 1.0
    """Scale of the Cauchy loss in pixels: larger residuals lose their influence, so that outliers cannot dominate."""


@dataclass(frozen=True)
class BundleResult:
    """Adjusted cameras and points, in float64."""

    cameras: Cameras
    """The first camera has its initial pose."""
    points: Float[Tensor, "track 3"]


def adjust(
    problem: BundleProblem, is_free: Bool[Tensor, " track"], intrinsics: FreeIntrinsics = "none"
) -> BundleResult:
    """Adjust cameras and free points jointly, with the first camera fixed.

    All frames share one camera, which starts at the mean of the initial intrinsics and keeps its ratio of focal
    lengths. If all points are free, the scale of the result is arbitrary: the caller has to fix it.

    Args:
        problem: Initial values close to the solution, with the observations.
        is_free: Whether each point may move.
        intrinsics: The intrinsics that may change.

    Returns:
        The adjusted cameras and points.

    Raises:
        NoSolution: If the solver does not return a usable solution.
    """
    shared = problem.cameras.intrinsics.double().mean(dim=0).expand(len(problem.cameras.intrinsics), 3, 3)
    aspect = float(shared[0, 0, 0] / shared[0, 1, 1])
    # In maps with square pixels, a single parameter is both focal lengths.
    square = _scale_height(replace(problem, cameras=replace(problem.cameras, intrinsics=shared)), aspect)
    with pycolmap_session() as pycolmap:
        reconstruction = _to_reconstruction(pycolmap, square)
        config = _config_with_all_images(pycolmap, reconstruction)
        if is_free.all():
            # Without a fixed scale, it could shrink through zero: the mirrored scene has the same pixels.
            config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        else:
            config.set_constant_rig_from_world_pose(FIRST_ID)
        for track in (~is_free).nonzero()[:, 0].tolist():
            config.add_constant_point(track + FIRST_ID)
        result = _solve(pycolmap, reconstruction, config, problem, intrinsics)
    return replace(result, cameras=_scale_camera_height(result.cameras, 1 / aspect))


def refine_points(problem: BundleProblem) -> Float[Tensor, "track 3"]:
    """Triangulate points by minimizing their robust reprojection error, with all cameras fixed.

    Args:
        problem: Fixed cameras, initial points and their observations.

    Returns:
        The points in world coordinates.

    Raises:
        NoSolution: If the solver does not return a usable solution.
    """
    with pycolmap_session() as pycolmap:
        reconstruction = _to_reconstruction(pycolmap, problem)
        config = _config_with_all_images(pycolmap, reconstruction)
        for frame_id in reconstruction.frames:
            config.set_constant_rig_from_world_pose(frame_id)
        return _solve(pycolmap, reconstruction, config, problem, "none").points


def triangulation_angles(
    cameras: Cameras, tracks: FeatureTracks, points: Float[Tensor, "track 3"]
) -> Float[Tensor, " track"]:
    """Compute the triangulation angle of each point.

    Args:
        cameras: Cameras of all frames.
        tracks: Observations of the points.
        points: Points in world coordinates.

    Returns:
        Largest angle at the point between the first camera that observes it and any other that does, in radians.
    """
    is_observed = tracks.visibility > 0
    rays = torch.nn.functional.normalize(points.double() - cameras.centers.double()[:, None], dim=-1)
    first = rays.gather(0, is_observed.int().argmax(dim=0)[None, :, None].expand(1, -1, 3))
    chord = torch.where(is_observed, (rays - first).norm(dim=-1), 0.0).amax(dim=0)
    return 2 * torch.asin((chord / 2).clamp(max=1))


def reprojection_errors(
    cameras: Cameras, tracks: FeatureTracks, points: Float[Tensor, "track 3"]
) -> tuple[Float[Tensor, "time track"], Bool[Tensor, "time track"]]:
    """Compute the distance between each observation and the projection of its point.

    Args:
        cameras: Cameras of all frames.
        tracks: Observations, in pixels.
        points: Points in world coordinates.

    Returns:
        Distances in pixels (infinite for points behind a camera; meaningless without an observation), and whether
        there is an observation.
    """
    in_camera = transform_points(
        cameras.cam_from_world.double(), points.double().expand(len(tracks.visibility), -1, -1)
    )
    distance = (project(in_camera, cameras.intrinsics.double()) - tracks.pixels.double()).norm(dim=-1)
    return torch.where(in_camera[..., 2] > 0, distance, torch.inf), tracks.visibility > 0


def _config_with_all_images(pycolmap: Any, reconstruction: Any) -> Any:
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.images:
        config.add_image(image_id)
    return config


def _scale_height(problem: BundleProblem, factor: float) -> BundleProblem:
    """Resize the maps of a problem to `factor` times their height."""
    pixels = problem.tracks.pixels.double() * torch.tensor([1, factor], dtype=torch.float64)
    height, width = problem.size
    return replace(
        problem,
        cameras=_scale_camera_height(problem.cameras, factor),
        tracks=replace(problem.tracks, pixels=pixels),
        size=(round(height * factor), width),
    )


def _scale_camera_height(cameras: Cameras, factor: float) -> Cameras:
    return replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([[1], [factor], [1]], dtype=torch.float64))


def _solve(
    pycolmap: Any, reconstruction: Any, config: Any, problem: BundleProblem, intrinsics: FreeIntrinsics
) -> BundleResult:
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length, options.refine_principal_point = intrinsics != "none", intrinsics == "all"
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = problem.loss_scale
    options.ceres.solver_options.num_threads = 1  # a fixed order of summation makes the result deterministic
    summary = pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    if not summary.is_solution_usable():
        raise NoSolution(f"bundle adjustment failed: {summary.brief_report()}")
    return _from_reconstruction(reconstruction, len(problem.cameras.intrinsics), len(problem.points))


def _to_reconstruction(pycolmap: Any, problem: BundleProblem) -> Any:
    """Make a pycolmap `Reconstruction`: frame t is image t + 1, track i is point i + 1; equal intrinsics are shared."""
    reconstruction = pycolmap.Reconstruction()
    intrinsics = problem.cameras.intrinsics.double()
    is_shared = bool((intrinsics == intrinsics[:1]).all())
    cam_from_world = problem.cameras.cam_from_world.double().numpy()
    is_observed, pixels = (problem.tracks.visibility > 0).numpy(), problem.tracks.pixels.double().numpy()
    for frame, matrix in enumerate(intrinsics.tolist()):
        camera_id = FIRST_ID if is_shared else frame + FIRST_ID
        if camera_id not in reconstruction.cameras:
            reconstruction.add_camera_with_trivial_rig(_to_colmap_camera(pycolmap, camera_id, matrix, problem.size))
        image = pycolmap.Image(
            name=f"{frame:06d}",
            image_id=frame + FIRST_ID,
            camera_id=camera_id,
            keypoints=pixels[frame, is_observed[frame]],
        )
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(cam_from_world[frame, :3]))
    keypoint_indices = np.cumsum(is_observed, axis=1) - 1
    for track, point in enumerate(problem.points.double().numpy()):
        frames = np.flatnonzero(is_observed[:, track])
        elements = [
            pycolmap.TrackElement(int(frame) + FIRST_ID, int(keypoint_indices[frame, track])) for frame in frames
        ]
        reconstruction.add_point3D(point, pycolmap.Track(elements))
    return reconstruction


def _to_colmap_camera(pycolmap: Any, camera_id: int, matrix: list[list[float]], size: tuple[int, int]) -> Any:
    (focal_x, _, *center_x), (_, focal_y, *center_y), _ = matrix
    is_square = math.isclose(focal_x, focal_y, rel_tol=1e-12)
    focals = [focal_x] if is_square else [focal_x, focal_y]
    return pycolmap.Camera(
        camera_id=camera_id,
        model="SIMPLE_PINHOLE" if is_square else "PINHOLE",
        width=size[1],
        height=size[0],
        params=[*focals, *center_x, *center_y],
    )


def _from_reconstruction(reconstruction: Any, num_frames: int, num_points: int) -> BundleResult:
    images = [reconstruction.images[frame + FIRST_ID] for frame in range(num_frames)]
    matrices = torch.from_numpy(np.stack([np.array(image.cam_from_world().matrix()) for image in images]))
    intrinsics = torch.from_numpy(np.stack([np.array(image.camera.calibration_matrix()) for image in images]))
    world_from_cam = invert(rigid(matrices[:, :, :3], matrices[:, :, 3]))
    points = np.stack([reconstruction.points3D[track + FIRST_ID].xyz for track in range(num_points)])
    return BundleResult(Cameras(world_from_cam, intrinsics), torch.from_numpy(points))
