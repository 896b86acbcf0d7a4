"""Bundle adjustment of a rig: one pose of the rig for each moment, one relative pose and lens for each camera.

The hypotheses of free cameras come first, as for any clip. They assume one lens, so that the tracks of each camera are
first moved to where a common lens would have recorded them (`CommonLens`). The rig is then fitted to the selected
cameras (`recon4d.geometry.fit_rig`), and adjusted with pycolmap's rigs.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import RigFit, fit_rig, invert
from recon4d.records import Cameras, FeatureTracks, Rig, Scene
from recon4d.refine.cameras.bundle_adjustment import (
    MIN_TRIANGULATION_ANGLE,
    BundleProblem,
    FreeIntrinsics,
    bundle_options,
    reprojection_errors,
    triangulation_angles,
)
from recon4d.refine.cameras.hypotheses import FINE_LOSS_SCALES, MAX_RESIDUAL, CameraHypothesis
from recon4d.refine.cameras.model_selection import CameraSelection
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.cameras.scoring import score_tracks
from recon4d.refine.config import RefineConfig
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.pycolmap_loader import FIRST_ID, add_points, matrix_of, pycolmap_session
from recon4d.refine.tracks.located_tracks import MIN_OBSERVATIONS, LocatedTracks


@dataclass(frozen=True)
class CommonLens:
    """A lens that all cameras of a rig are brought to."""

    rig: Rig
    """The rig of the frames."""
    own: Float[Tensor, "time 3 3"]
    """Intrinsics of each frame, equal for all frames of a camera."""
    common: Float[Tensor, "3 3"]
    """Mean intrinsics."""

    @classmethod
    def of(cls, scene: Scene, rig: Rig) -> "CommonLens":
        """Average the predicted intrinsics.

        Args:
            scene: The predicted scene.
            rig: The rig of its frames.

        Returns:
            The lens.
        """
        numbers, own = torch.tensor(rig.cameras), scene.cameras.intrinsics.double().clone()
        for camera in set(rig.cameras):
            own[numbers == camera] = own[numbers == camera].mean(dim=0)
        return cls(rig, own, own.mean(dim=0))

    def scene(self, scene: Scene) -> Scene:
        """Give the cameras of a scene the common lens; maps stay as they are."""
        intrinsics = self.common.to(scene.cameras.intrinsics).expand_as(scene.cameras.intrinsics)
        return replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics.clone()))

    def tracks(self, tracks: LocatedTracks) -> LocatedTracks:
        """Move tracks to where the common lens would have recorded them."""
        map_to_common = self.common @ torch.linalg.inv(self.own)
        pixels = tracks.tracks.pixels.double()
        moved = pixels @ map_to_common[:, :2, :2].mT + map_to_common[:, None, :2, 2]
        return replace(tracks, tracks=FeatureTracks(moved.to(tracks.tracks.pixels), tracks.tracks.visibility))

    def restore(self, cameras: Cameras) -> Cameras:
        """Give cameras the lenses of their own, changed as the common one was."""
        intrinsics = self.own @ torch.linalg.inv(self.common) @ cameras.intrinsics.double()
        return replace(cameras, intrinsics=intrinsics)


@dataclass(frozen=True)
class RigSelection:
    """Cameras that are fixed to each other."""

    selection: CameraSelection
    """The cameras and their scores."""
    report: str
    """What was fixed, and how far free cameras differ from it, in a line for the user."""


def select_rig(
    free: CameraSelection,
    lens: CommonLens,
    fitted: LocatedTracks,
    held_out: LocatedTracks,
    scene: Scene,
    config: RefineConfig,
    refine_intrinsics: bool,
) -> RigSelection:
    """Fix selected cameras to each other, and adjust them again.

    Args:
        free: The selected free cameras, with the common lens.
        lens: The common lens of the rig.
        fitted: The tracks that cameras are fitted to, in pixels of their own lenses.
        held_out: The other tracks.
        scene: The predicted scene, whose cameras are fixed to each other. Cameras that no tracks determine start there.
        config: `inlier_threshold` and `min_tracks` are used.
        refine_intrinsics: Whether the focal length of each camera may change.

    Returns:
        The fixed cameras.

    Raises:
        NoSolution: If they cannot be adjusted.
    """
    rig, size = lens.rig, scene.size
    numbers, moments = torch.tensor(rig.cameras), torch.tensor(rig.moments)
    cameras = _placed_by_moment(lens.restore(free.cameras), scene.cameras, free.is_determined, moments)
    fit = fit_rig(cameras.world_from_cam, numbers, moments, free.is_determined, rig.known_poses)
    points = fitted.points(cameras)
    depth = float(fitted.reference_depths(points, cameras).median())
    report = _describe(rig, fit, free.is_determined, depth)
    # A moment is determined by any of its cameras.
    is_determined = free.is_determined.clone()
    for moment in set(rig.moments):
        is_determined[moments == moment] = bool(free.is_determined[moments == moment].any())
    fixed = Cameras(fit.world_from_cam, cameras.intrinsics)
    choice = FreeIntrinsics(focal_length=refine_intrinsics and not free.is_rotation_only)
    if not free.is_rotation_only:
        fixed = _adjust(fixed, fit, rig, fitted, size, config, choice)
    first = torch.eye(4, dtype=torch.float64)
    fixed = fixed.transformed(first @ free.cameras.world_from_cam[0].double() @ invert(fixed.world_from_cam[0]))
    scores, others = score_tracks(fixed, fitted, size), score_tracks(fixed, held_out, size)
    is_inlier = others.errors <= config.inlier_threshold * max(size)
    return RigSelection(
        replace(
            free,
            hypothesis=CameraHypothesis(fixed, choice, is_determined),
            errors=others.errors,
            inlier_fraction=float(is_inlier.double().mean()),
            costs=scores.costs,
            held_out_costs=others.costs,
            points=scores.points,
        ),
        f"{report}; fixed ones explain {float(is_inlier.double().mean()):.0%} of the held-out corners, free ones "
        f"{free.inlier_fraction:.0%}",
    )


def _placed_by_moment(
    cameras: Cameras, predicted: Cameras, is_determined: Bool[Tensor, " time"], moments: Tensor
) -> Cameras:
    """Place cameras that no tracks determine beside those of the same moment, as they are predicted."""
    poses, old = cameras.world_from_cam.double().clone(), predicted.world_from_cam.double()
    for frame in (~is_determined).nonzero()[:, 0].tolist():
        beside = (is_determined & (moments == moments[frame])).nonzero()[:, 0]
        if len(beside):
            other = int(beside[0])
            poses[frame] = poses[other] @ invert(old[other]) @ old[frame]
    return replace(cameras, world_from_cam=poses)


def _describe(rig: Rig, fit: RigFit, is_known: Bool[Tensor, " time"], depth: float) -> str:
    kind = "estimated" if rig.rig_from_cam is None else "known"
    angle = math.degrees(float(fit.angles[is_known].median()))
    distance = 100 * float(fit.distances[is_known].median()) / depth
    return (
        f"rig: {len(set(rig.cameras))} cameras at {len(set(rig.moments))} moments are fixed to each other, with {kind} "
        f"relative poses; free cameras differ by {angle:.2g} degrees and {distance:.2g} % of the median depth (median)"
    )


def _adjust(
    cameras: Cameras,
    fit: RigFit,
    rig: Rig,
    tracks: LocatedTracks,
    size: tuple[int, int],
    config: RefineConfig,
    free: FreeIntrinsics,
) -> Cameras:
    """Adjust a rig in rounds with a decreasing loss scale, at the scale of the predicted depths."""
    used, rig_from_cam, world_from_rig = tracks, fit.rig_from_cam, fit.world_from_rig
    for loss_scale in FINE_LOSS_SCALES:
        points = refine_points(cameras, used.tracks, used.points(cameras), loss_scale)
        has_parallax = triangulation_angles(cameras, used.tracks, points) >= MIN_TRIANGULATION_ANGLE
        if int(has_parallax.sum()) < config.min_tracks // 2:
            return cameras
        problem = BundleProblem(cameras, used.tracks, points, size, loss_scale)
        cameras, points, rig_from_cam, world_from_rig = adjust_rig(problem, rig, rig_from_cam, world_from_rig, free)
        errors, is_observed = reprojection_errors(cameras, used.tracks, points)
        is_observed = is_observed & (errors <= max(MAX_RESIDUAL * max(size), 2 * loss_scale))
        is_kept = is_observed.sum(dim=0) >= MIN_OBSERVATIONS
        if int(is_kept.sum()) < config.min_tracks // 2:
            raise NoSolution(f"only {int(is_kept.sum())} of {len(is_kept)} tracks fit cameras that are fixed to a rig")
        inliers = FeatureTracks(used.tracks.pixels, used.tracks.visibility * is_observed)
        used, points = replace(used, tracks=inliers).take(is_kept.nonzero()[:, 0]), points[is_kept]
        ratio = float((used.depths / used.reference_depths(points, cameras)).median())
        rig_from_cam, world_from_rig = _scaled(rig_from_cam, ratio), _scaled(world_from_rig, ratio)
        numbers, moments = torch.tensor(rig.cameras), torch.tensor(rig.moments)
        cameras = replace(cameras, world_from_cam=world_from_rig[moments] @ rig_from_cam[numbers])
    return cameras


def _scaled(poses: Float[Tensor, "n 4 4"], factor: float) -> Float[Tensor, "n 4 4"]:
    scaled = poses.clone()
    scaled[:, :3, 3] *= factor
    return scaled


def adjust_rig(
    problem: BundleProblem,
    rig: Rig,
    rig_from_cam: Float[Tensor, "camera 4 4"],
    world_from_rig: Float[Tensor, "moment 4 4"],
    free: FreeIntrinsics,
) -> tuple[Cameras, Float[Tensor, "track 3"], Float[Tensor, "camera 4 4"], Float[Tensor, "moment 4 4"]]:
    """Adjust the poses of a rig, the relative poses and focal lengths of its cameras, and all points.

    Known relative poses stay fixed. The scale of the result is arbitrary.

    Args:
        problem: Observations and points; of its cameras, only the intrinsics are used, of which each camera of the rig
            takes those of its first frame.
        rig: The rig of the frames.
        rig_from_cam: Initial pose of each camera relative to the rig.
        world_from_rig: Initial pose of the rig at each moment.
        free: Whether the focal length of each camera may change; other intrinsics do not.

    Returns:
        Cameras of all frames, points, relative poses and poses of the rig, in float64.

    Raises:
        NoSolution: If the solver does not return a usable solution.
    """
    aspect = float(problem.cameras.intrinsics[0, 0, 0] / problem.cameras.intrinsics[0, 1, 1])
    with pycolmap_session() as pycolmap:
        model = _to_model(pycolmap, problem, rig, rig_from_cam, world_from_rig, aspect)
        config = pycolmap.BundleAdjustmentConfig()
        for image_id in model.images:
            config.add_image(image_id)
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        options = bundle_options(pycolmap, problem.loss_scale, free)
        options.refine_sensor_from_rig = rig.rig_from_cam is None
        summary = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
        if not summary.is_solution_usable():
            raise NoSolution(f"bundle adjustment of the rig failed: {summary.brief_report()}")
        return _from_model(model, problem, rig, rig_from_cam, aspect)


def _to_model(
    pycolmap: Any, problem: BundleProblem, rig: Rig, rig_from_cam: Tensor, world_from_rig: Tensor, aspect: float
) -> Any:
    """Make a pycolmap `Reconstruction` of maps with square pixels: frame t is image t + 1."""
    model, (height, width) = pycolmap.Reconstruction(), problem.size
    used = sorted(set(rig.cameras))
    sensors = {}
    stored_rig = pycolmap.Rig(rig_id=FIRST_ID)
    for camera in used:
        first = rig.cameras.index(camera)
        (focal, _, center_x), (_, _, center_y), _ = problem.cameras.intrinsics[first].tolist()
        sensors[camera] = pycolmap.Camera(
            camera_id=camera + FIRST_ID,
            model="SIMPLE_PINHOLE",
            width=width,
            height=round(height * aspect),
            params=[focal, center_x, center_y * aspect],
        )
        model.add_camera(sensors[camera])
        if camera == used[0]:
            stored_rig.add_ref_sensor(sensors[camera].sensor_id)
        else:
            # The first camera in use is the frame of pycolmap's rig.
            cam_from_first = invert(rig_from_cam[camera]) @ rig_from_cam[used[0]]
            stored_rig.add_sensor(sensors[camera].sensor_id, pycolmap.Rigid3d(cam_from_first[:3].numpy()))
    model.add_rig(stored_rig)
    is_observed = (problem.tracks.visibility > 0).numpy()
    pixels = problem.tracks.pixels.double().numpy() * np.array([1, aspect])
    for moment in sorted(set(rig.moments)):
        stored_frame, images = pycolmap.Frame(frame_id=moment + FIRST_ID, rig_id=FIRST_ID), []
        for frame in (frame for frame, other in enumerate(rig.moments) if other == moment):
            image = pycolmap.Image(
                name=f"{frame:06d}",
                image_id=frame + FIRST_ID,
                camera_id=rig.cameras[frame] + FIRST_ID,
                keypoints=pixels[frame, is_observed[frame]],
            )
            image.frame_id = moment + FIRST_ID
            stored_frame.add_data_id(image.data_id)
            images.append(image)
        first_from_world = invert(world_from_rig[moment] @ rig_from_cam[used[0]])
        stored_frame.rig_from_world = pycolmap.Rigid3d(first_from_world[:3].numpy())
        model.add_frame(stored_frame)
        for image in images:
            model.add_image(image)
    add_points(pycolmap, model, problem.points.double().numpy(), is_observed)
    return model


def _from_model(
    model: Any, problem: BundleProblem, rig: Rig, rig_from_cam: Tensor, aspect: float
) -> tuple[Cameras, Tensor, Tensor, Tensor]:
    used = sorted(set(rig.cameras))
    new_rig_from_cam, first_from_rig = rig_from_cam.clone(), invert(rig_from_cam[used[0]])
    intrinsics = problem.cameras.intrinsics.double().clone()
    numbers = torch.tensor(rig.cameras)
    for camera in used:
        sensor = model.cameras[camera + FIRST_ID]
        focal, center_x, center_y = sensor.params.tolist()
        own = torch.tensor([[focal, 0, center_x], [0, focal / aspect, center_y / aspect], [0, 0, 1]])
        intrinsics[numbers == camera] = own.double()
        if camera != used[0]:
            cam_from_first = matrix_of(model.rigs[FIRST_ID].sensor_from_rig(sensor.sensor_id))
            new_rig_from_cam[camera] = rig_from_cam[used[0]] @ invert(cam_from_first)
    world_from_rig = torch.eye(4, dtype=torch.float64).repeat(max(rig.moments) + 1, 1, 1)
    for moment in set(rig.moments):
        first_from_world = matrix_of(model.frames[moment + FIRST_ID].rig_from_world)
        world_from_rig[moment] = invert(first_from_world) @ first_from_rig
    world_from_cam = world_from_rig[torch.tensor(rig.moments)] @ new_rig_from_cam[numbers]
    points = np.stack([model.points3D[track + FIRST_ID].xyz for track in range(len(problem.points))])
    return Cameras(world_from_cam, intrinsics), torch.from_numpy(points), new_rig_from_cam, world_from_rig
