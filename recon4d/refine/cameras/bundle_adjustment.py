"""Bundle adjustment by pycolmap (Ceres): cameras and points that agree best with where points were seen."""

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
from recon4d.refine.pycolmap_loader import load_pycolmap

FIRST_ID = 1

FreeLens = Literal["kept", "focal length", "whole"]
"""What of the lens may change: nothing, its focal length, or that and its principal point."""


@dataclass(frozen=True)
class Problem:
    """What is seen where, by which cameras; the start of a bundle adjustment.

    Residuals beyond `loss_scale` pixels count less and less (Cauchy), so that a wrong match cannot pull a camera away.
    """

    cameras: Cameras
    tracks: FeatureTracks
    points: Float[Tensor, "track 3"]
    size: tuple[int, int]
    """Height and width of the maps that pixels and intrinsics are of."""
    loss_scale: float = 1.0


@dataclass(frozen=True)
class Adjusted:
    """Cameras and points after bundle adjustment, in float64; the first camera has not moved."""

    cameras: Cameras
    points: Float[Tensor, "track 3"]


def adjust(problem: Problem, free_points: Bool[Tensor, " track"], lens: FreeLens = "kept") -> Adjusted:
    """Cameras, and the points that are free, from a good start; the first camera stays.

    All frames have the mean intrinsics of the start, or as much of another `lens` as is asked for, one for all of them;
    the ratio of its two focal lengths stays. Where all points are free, so is the unit of length: callers fix it.
    Raises ``ValueError`` where there is nothing to solve.
    """
    shared = problem.cameras.intrinsics.double().mean(dim=0).expand(len(problem.cameras.intrinsics), 3, 3)
    aspect = float(shared[0, 0, 0] / shared[0, 1, 1])
    pycolmap = load_pycolmap()
    # In maps of square pixels one number is both focal lengths.
    model = _model(pycolmap, _stretched(replace(problem, cameras=replace(problem.cameras, intrinsics=shared)), aspect))
    config = _everything(pycolmap, model)
    if free_points.all():
        # Without a fixed unit of length it could shrink through zero: the mirrored scene has the same pixels.
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    else:
        config.set_constant_rig_from_world_pose(FIRST_ID)
    for track in (~free_points).nonzero()[:, 0].tolist():
        config.add_constant_point(track + FIRST_ID)
    adjusted = _solve(pycolmap, model, config, problem, lens)
    return replace(adjusted, cameras=_stretched_cameras(adjusted.cameras, 1 / aspect))


def adjust_points(problem: Problem) -> Float[Tensor, "track 3"]:
    """The points that fit best while every camera stays as it is."""
    pycolmap = load_pycolmap()
    model = _model(pycolmap, problem)
    config = _everything(pycolmap, model)
    for frame_id in model.frames:
        config.set_constant_rig_from_world_pose(frame_id)
    return _solve(pycolmap, model, config, problem, "kept").points


def parallax(cameras: Cameras, tracks: FeatureTracks, points: Float[Tensor, "track 3"]) -> Float[Tensor, " track"]:
    """The largest angle in radians at a point between the first camera that saw it and any other that did."""
    seen = tracks.visibility > 0
    rays = torch.nn.functional.normalize(points.double() - cameras.centers.double()[:, None], dim=-1)
    first = rays.gather(0, seen.int().argmax(dim=0)[None, :, None].expand(1, -1, 3))
    chord = torch.where(seen, (rays - first).norm(dim=-1), 0.0).amax(dim=0)
    return 2 * torch.asin((chord / 2).clamp(max=1))


def residuals(
    cameras: Cameras, tracks: FeatureTracks, points: Float[Tensor, "track 3"]
) -> tuple[Float[Tensor, "time track"], Bool[Tensor, "time track"]]:
    """Pixels between where points were seen and where they project, and where they were seen at all.

    A point behind a camera is infinitely far off.
    """
    in_camera = transform_points(
        cameras.cam_from_world.double(), points.double().expand(len(tracks.visibility), -1, -1)
    )
    distance = (project(in_camera, cameras.intrinsics.double()) - tracks.pixels.double()).norm(dim=-1)
    return torch.where(in_camera[..., 2] > 0, distance, torch.inf), tracks.visibility > 0


def _everything(pycolmap: Any, model: Any) -> Any:
    """A configuration in which all images and points take part."""
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.images:
        config.add_image(image_id)
    return config


def _stretched(problem: Problem, factor: float) -> Problem:
    """The same seen in maps of `factor` times the height."""
    pixels = problem.tracks.pixels.double() * torch.tensor([1, factor], dtype=torch.float64)
    height, width = problem.size
    return replace(
        problem,
        cameras=_stretched_cameras(problem.cameras, factor),
        tracks=replace(problem.tracks, pixels=pixels),
        size=(round(height * factor), width),
    )


def _stretched_cameras(cameras: Cameras, factor: float) -> Cameras:
    return replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([[1], [factor], [1]], dtype=torch.float64))


def _solve(pycolmap: Any, model: Any, config: Any, problem: Problem, lens: FreeLens) -> Adjusted:
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length, options.refine_principal_point = lens != "kept", lens == "whole"
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = problem.loss_scale
    options.ceres.solver_options.num_threads = 1  # sums in one order: the same answer every time
    summary = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    if not summary.is_solution_usable():
        raise ValueError(f"bundle adjustment found no answer: {summary.brief_report()}")
    return _read(model, len(problem.cameras.intrinsics), len(problem.points))


def _model(pycolmap: Any, problem: Problem) -> Any:
    """A pycolmap `Reconstruction`: frame t is image t + 1, track i is point i + 1; equal intrinsics are one camera."""
    model = pycolmap.Reconstruction()
    intrinsics = problem.cameras.intrinsics.double()
    is_shared = bool((intrinsics == intrinsics[:1]).all())
    cam_from_world = problem.cameras.cam_from_world.double().numpy()
    seen, pixels = (problem.tracks.visibility > 0).numpy(), problem.tracks.pixels.double().numpy()
    height, width = problem.size
    for frame, matrix in enumerate(intrinsics.tolist()):
        camera_id = FIRST_ID if is_shared else frame + FIRST_ID
        if camera_id not in model.cameras:
            model.add_camera_with_trivial_rig(_lens(pycolmap, camera_id, matrix, (height, width)))
        image = pycolmap.Image(
            name=f"{frame:06d}", image_id=frame + FIRST_ID, camera_id=camera_id, keypoints=pixels[frame, seen[frame]]
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(cam_from_world[frame, :3]))
    places = np.cumsum(seen, axis=1) - 1
    for track, point in enumerate(problem.points.double().numpy()):
        frames = np.flatnonzero(seen[:, track])
        elements = [pycolmap.TrackElement(int(frame) + FIRST_ID, int(places[frame, track])) for frame in frames]
        model.add_point3D(point, pycolmap.Track(elements))
    return model


def _lens(pycolmap: Any, camera_id: int, matrix: list[list[float]], size: tuple[int, int]) -> Any:
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


def _read(model: Any, num_frames: int, num_points: int) -> Adjusted:
    images = [model.images[frame + FIRST_ID] for frame in range(num_frames)]
    matrices = torch.from_numpy(np.stack([np.array(image.cam_from_world().matrix()) for image in images]))
    intrinsics = torch.from_numpy(np.stack([np.array(image.camera.calibration_matrix()) for image in images]))
    world_from_cam = invert(rigid(matrices[:, :, :3], matrices[:, :, 3]))
    found = torch.from_numpy(np.stack([model.points3D[track + FIRST_ID].xyz for track in range(num_points)]))
    return Adjusted(Cameras(world_from_cam, intrinsics), found)
