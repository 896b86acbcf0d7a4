"""Bundle adjustment with pycolmap (Ceres): cameras and points that minimize the robust reprojection error.

All results are in float64. Images have one observation per visible track; residuals have a Cauchy loss.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import (
    invert,
    project,
    transform_points,
)
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.radial_distortion import NO_DISTORTION, RadialDistortion
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.pycolmap_loader import FIRST_ID, add_points, matrix_of, pycolmap_session

LOSS_SCALES = (8.0, 2.0, 0.5, 0.2)
"""Loss scales of successive rounds of adjustment, in pixels: large while the cameras are several pixels off, small at
the end. Hand-tuned."""
MIN_TRIANGULATION_ANGLE = math.radians(2)
"""Smallest triangulation angle of a point whose position is determined by its observations, in radians. Hand-tuned."""
MAX_ITERATIONS = 30
"""Largest number of iterations of a round of adjustment: the next round continues. Hand-tuned."""
FUNCTION_TOLERANCE = 1e-6
"""Smallest relative decrease of the cost in an iteration; a round of adjustment ends after a smaller one. COLMAP's
default is 0, which takes all iterations. Hand-tuned."""
MAX_SCALE_OF_TOLERANCE = 0.5
"""Largest loss scale of a round that ends by `FUNCTION_TOLERANCE`, in pixels: in the coarser rounds, the cost of
cameras that are far off decreases slowly at first. Hand-tuned."""


@dataclass(frozen=True)
class FreeIntrinsics:
    """Intrinsics that an adjustment may change."""

    focal_length: bool = False
    """Whether the focal length may change."""
    principal_point: bool = False
    """Whether the principal point may change."""
    num_coefficients: int = 0
    """Number of coefficients of radial distortion that may change: 0, 1 or 2. With 1, the second one is 0."""


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
    distortion: RadialDistortion = NO_DISTORTION
    """Initial distortion of the lens."""


@dataclass(frozen=True)
class BundleResult:
    """Adjusted cameras and points, in float64."""

    cameras: Cameras
    """The first camera has its initial pose."""
    points: Float[Tensor, "track 3"]
    distortion: RadialDistortion = NO_DISTORTION


def adjust(
    problem: BundleProblem, is_free: Bool[Tensor, " track"], intrinsics: FreeIntrinsics = FreeIntrinsics()
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
        reconstruction = _to_reconstruction(pycolmap, square, intrinsics)
        config = pycolmap.BundleAdjustmentConfig()
        for image_id in reconstruction.images:
            config.add_image(image_id)
        if is_free.all():
            # Without a fixed scale, it could shrink through zero: the mirrored scene has the same pixels.
            config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        else:
            config.set_constant_rig_from_world_pose(FIRST_ID)
        for track in (~is_free).nonzero()[:, 0].tolist():
            config.add_constant_point(track + FIRST_ID)
        result = _solve(pycolmap, reconstruction, config, problem, intrinsics)
    return replace(result, cameras=_scale_camera_height(result.cameras, 1 / aspect))


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
    cameras: Cameras,
    tracks: FeatureTracks,
    points: Float[Tensor, "track 3"],
    distortion: RadialDistortion = NO_DISTORTION,
) -> tuple[Float[Tensor, "time track"], Bool[Tensor, "time track"]]:
    """Compute the distance between each observation and the projection of its point.

    Args:
        cameras: Cameras of all frames.
        tracks: Observations, in pixels.
        points: Points in world coordinates.
        distortion: Distortion of the lens.

    Returns:
        Distances in pixels (infinite for points behind a camera; meaningless without an observation), and whether
        there is an observation.
    """
    in_camera = transform_points(
        cameras.cam_from_world.double(), points.double().expand(len(tracks.visibility), -1, -1)
    )
    projected = project(in_camera, cameras.intrinsics.double())
    if not distortion.is_none:
        center = cameras.intrinsics[:, None, :2, 2].double()
        factors = distortion.factors(in_camera[..., :2] / in_camera[..., 2:])
        projected = center + factors * (projected - center)
    distance = (projected - tracks.pixels.double()).norm(dim=-1)
    return torch.where(in_camera[..., 2] > 0, distance, torch.inf), tracks.visibility > 0


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
    options = bundle_options(pycolmap, problem.loss_scale, intrinsics)
    summary = pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
    if not summary.is_solution_usable():
        raise NoSolution(f"bundle adjustment failed: {summary.brief_report()}")
    return _from_reconstruction(reconstruction, len(problem.cameras.intrinsics), len(problem.points))


def bundle_options(pycolmap: Any, loss_scale: float, intrinsics: FreeIntrinsics) -> Any:
    """Create the options of a round of adjustment.

    Args:
        pycolmap: The module.
        loss_scale: Scale of the Cauchy loss in pixels.
        intrinsics: The intrinsics that may change.

    Returns:
        pycolmap's `BundleAdjustmentOptions`.
    """
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length, options.refine_principal_point = intrinsics.focal_length, intrinsics.principal_point
    options.refine_extra_params = intrinsics.num_coefficients > 0
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    options.ceres.solver_options.max_num_iterations = MAX_ITERATIONS
    if loss_scale <= MAX_SCALE_OF_TOLERANCE:
        options.ceres.solver_options.function_tolerance = FUNCTION_TOLERANCE
    options.ceres.solver_options.num_threads = 1  # a fixed order of summation makes the result deterministic
    return options


def _to_reconstruction(pycolmap: Any, problem: BundleProblem, free: FreeIntrinsics) -> Any:
    """Make a pycolmap `Reconstruction`: frame t is image t + 1, track i is point i + 1; all frames share a camera."""
    reconstruction = pycolmap.Reconstruction()
    cam_from_world = problem.cameras.cam_from_world.double().numpy()
    is_observed, pixels = (problem.tracks.visibility > 0).numpy(), problem.tracks.pixels.double().numpy()
    reconstruction.add_camera_with_trivial_rig(_to_colmap_camera(pycolmap, problem, free))
    for frame in range(len(cam_from_world)):
        image = pycolmap.Image(
            name=f"{frame:06d}",
            image_id=frame + FIRST_ID,
            camera_id=FIRST_ID,
            keypoints=pixels[frame, is_observed[frame]],
        )
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(cam_from_world[frame, :3]))
    add_points(pycolmap, reconstruction, problem.points.double().numpy(), is_observed)
    return reconstruction


def _to_colmap_camera(pycolmap: Any, problem: BundleProblem, free: FreeIntrinsics) -> Any:
    """Make the shared camera; the maps of the problem have square pixels."""
    (focal, _, center_x), (_, _, center_y), _ = problem.cameras.intrinsics[0].tolist()
    distortion = problem.distortion
    if free.num_coefficients == 0 and distortion.is_none:
        model, coefficients = "SIMPLE_PINHOLE", []
    elif free.num_coefficients < 2 and distortion.k2 == 0:
        model, coefficients = "SIMPLE_RADIAL", [distortion.k1]
    else:
        model, coefficients = "RADIAL", [distortion.k1, distortion.k2]
    height, width = problem.size
    params = [focal, center_x, center_y, *coefficients]
    return pycolmap.Camera(camera_id=FIRST_ID, model=model, width=width, height=height, params=params)


def _from_reconstruction(reconstruction: Any, num_frames: int, num_points: int) -> BundleResult:
    images = [reconstruction.images[frame + FIRST_ID] for frame in range(num_frames)]
    world_from_cam = invert(torch.stack([matrix_of(image.cam_from_world()) for image in images]))
    intrinsics = torch.from_numpy(np.stack([np.array(image.camera.calibration_matrix()) for image in images]))
    points = np.stack([reconstruction.points3D[track + FIRST_ID].xyz for track in range(num_points)])
    # The parameters are focal length, principal point (x, y) and coefficients of distortion.
    distortion = RadialDistortion(*images[0].camera.params[3:].tolist())
    return BundleResult(Cameras(world_from_cam, intrinsics), torch.from_numpy(points), distortion)
