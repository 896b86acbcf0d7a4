"""Refinement of a predicted scene: cameras by bundle adjustment, depth by triangulated points and plane-sweep stereo.

The steps have the numbers of the section "Refinement" of docs/evaluation.md.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError
from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.refine.cameras.bundle_adjustment import triangulation_angles
from recon4d.refine.cameras.hypotheses import build_hypotheses
from recon4d.refine.cameras.model_selection import (
    CameraSelection,
    chance_gain,
    predicted_selection,
    select_model,
)
from recon4d.refine.cameras.rig_adjustment import CommonLens, select_rig
from recon4d.refine.config import RefineConfig
from recon4d.refine.depth.multiview_consistency import plane_sweep_depth
from recon4d.refine.depth.plane_sweep import StereoConfig
from recon4d.refine.depth.steps import align_depth, align_scale_and_depth, is_depth_plausible, verify_depth
from recon4d.refine.depth.triangulation import SparseDepths, triangulate_depths
from recon4d.refine.depth.upsampling import output_size, upsample_scene
from recon4d.refine.dynamic.dynamic_mask import find_dynamic_pixels
from recon4d.refine.dynamic.dynamic_tracks import track_dynamic_pixels
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.refinement import Refinement
from recon4d.refine.threads import single_thread
from recon4d.refine.track_transfer import hold_static_tracks, transfer_tracks
from recon4d.refine.tracks.corner_tracking import scene_guides, track_corners
from recon4d.refine.tracks.located_tracks import LocatedTracks, locate_tracks
from recon4d.refine.tracks.selection import hold_out, num_distinct_corners, sample_tracks, select_static_tracks
from recon4d.refine.undistortion import undistort_clip, undistort_scene, undistort_tracks

SUFFICIENT_COVERAGE = 0.5
"""Smallest mean visibility of corner tracks for which no second tracking pass runs. Hand-tuned."""
MIN_CORNERS = 8
"""Smallest number of different corners in an image: seven points leave several epipolar geometries."""
MIN_EXPLAINED_FRACTION = 0.3
"""Smallest fraction of all corner tracks, moving ones included, that accepted cameras explain: a few tracks on a moving
object or on repeated texture agree on wrong cameras too. Hand-tuned."""
MIN_DETERMINED_FRACTION = 0.6
"""Smallest fraction of frames whose cameras tracks determine, for cameras to be accepted. Hand-tuned."""
CONTRADICTED = "most of the picture moves against these cameras (a large object, or wrong cameras)"
"""Reason if the pictures tell nothing about what moves."""
OnStage = Callable[[str], None]
"""Function that is called with the name of each stage when it starts."""


def _ignore_stage(stage: str) -> None:
    """Report no stages."""


def refine_clip(
    clip: Clip,
    scene: Scene,
    matches: FeatureTracks,
    config: RefineConfig | None = None,
    on_stage: OnStage = _ignore_stage,
) -> Refinement:
    """Refine the cameras and the depth of a predicted scene with the images of its clip.

    Intrinsics in the clip's priors are kept. If its priors contain the cameras too, only depth is refined. Otherwise,
    radial lens distortion may be found: the refined scene is then that of undistorted images (`Refinement.clip`). The
    result is deterministic.

    Args:
        clip: The clip, without batch axes.
        scene: The prediction to refine, in the world of its first camera.
        matches: Approximate tracks of the network in pixels of the scene's maps (`recon4d.reconstruct_and_match`).
        config: Settings; None for the defaults.
        on_stage: Called with the name of each stage when it starts.

    Returns:
        The refined scene, or the unchanged scene with the reason.

    Raises:
        UserError: If the priors do not allow refinement (`has_camera_priors`), or if the scene has cameras that are
            not finite.
        NoPycolmapError: If pycolmap is not installed.
        ValueError: If one of the inputs is a batch, or if their numbers of frames differ.
    """
    config = config or RefineConfig()
    has_cameras = has_camera_priors(clip)
    if clip.num_frames > 1 and (clip.images == clip.images[:1]).all():
        return _unchanged(clip, scene, "all frames are the same picture")
    # 1. Track corners.
    on_stage("tracking corners")
    tracks = _track_along_rig(clip, scene, matches)
    # 2. to 8. Refine the cameras, and align depth to their points. With given cameras only steps 3 and 8 run.
    on_stage("fitting cameras")
    if has_cameras:
        refinement, points = _align_to_given_cameras(clip, scene, tracks, config)
    else:
        refine_intrinsics = config.refine_intrinsics and not _has_intrinsics_priors(clip)
        refinement, points = _refine_cameras(clip, scene, tracks, config, refine_intrinsics)
        if _found_few_corners(tracks):
            on_stage("tracking corners again")
            straight, first = refinement.clip or clip, refinement
            tracks = _track_along_rig(straight, first.scene, scene_guides(first.scene))
            on_stage("fitting cameras again")
            again, again_points = _refine_cameras(straight, first.scene, tracks, config, refine_intrinsics)
            if again.is_accepted:
                refinement, points = again.after(first), again_points
    if not refinement.is_accepted:
        return refinement
    clip = refinement.clip or clip
    # The network's displacements mean something only where it expects motion.
    refinement = replace(refinement, scene=hold_static_tracks(refinement.scene))
    predicted_size = refinement.scene.size
    if config.map_side is not None:
        size = output_size(clip.size, predicted_size, config.map_side)
        refinement = replace(refinement, scene=upsample_scene(refinement.scene, clip, size))
    verified = None
    if points is not None and is_depth_plausible(refinement):
        # 9. Compute depth by a plane sweep, and verify it with the held-out points.
        on_stage("computing depth")
        stereo = StereoConfig()
        if config.map_side is not None:
            stereo = replace(stereo, side=math.ceil(math.prod(refinement.scene.size) ** 0.5))
        dense = plane_sweep_depth(clip, refinement.scene, stereo)
        held_out = points.held_out.resized(predicted_size, refinement.scene.size)
        before, refinement = refinement, verify_depth(refinement, dense, held_out)
        verified = None if refinement is before else dense.verified
    return find_what_moves(clip, refinement, verified, on_stage)


def refine_scene(
    scene: Scene, tracks: FeatureTracks, config: RefineConfig | None = None, clip: Clip | None = None
) -> Refinement:
    """Refine the cameras of a predicted scene with given tracks, and align its depth to the triangulated points.

    These are steps 2 to 8 of `refine_clip`. The first camera keeps its pose. The result is deterministic.

    Args:
        scene: A single predicted scene.
        tracks: Tracks through its frames with sub-pixel accuracy, in pixels of its maps (`track_corners`). Tracks of
            dynamic objects are filtered out.
        config: Settings; None for the defaults.
        clip: The images of the scene, from which lens distortion is removed if there is any. None assumes that there is
            none.

    Returns:
        The refined scene, or the unchanged scene with the reason.

    Raises:
        UserError: If the scene has cameras that are not finite.
        ValueError: If the scene is a batch, or if the tracks have another number of frames.
    """
    config = config or RefineConfig()
    refinement = _refine_cameras(clip, scene, tracks, config, config.refine_intrinsics)[0]
    return replace(refinement, scene=hold_static_tracks(refinement.scene)) if refinement.is_accepted else refinement


def find_what_moves(
    clip: Clip,
    refinement: Refinement,
    verified: Bool[Tensor, "time height width"] | None,
    on_stage: OnStage = _ignore_stage,
) -> Refinement:
    """Run steps 10 and 11 of `refine_clip`: the mask of what moves, and its tracks.

    Args:
        clip: The clip, without lens distortion.
        refinement: An accepted refinement.
        verified: Pixels whose depth several frames verify; None if there are none.
        on_stage: Called with the name of each stage when it starts.

    Returns:
        The refinement with this mask and these tracks, or with the predicted ones and the reason.
    """
    # 10. Find what moves.
    on_stage("finding what moves")
    scene = refinement.scene
    dynamic = find_dynamic_pixels(clip, scene, verified, refinement.is_rotation_only)
    if dynamic is None:
        return replace(refinement, scene=hold_static_tracks(scene), dynamic_reason=CONTRADICTED)
    # 11. Track it.
    on_stage("tracking what moves")
    scene = track_dynamic_pixels(clip, hold_static_tracks(replace(scene, dynamic=dynamic)))
    return replace(refinement, scene=scene)


def has_camera_priors(clip: Clip) -> bool:
    """Check whether the cameras of a clip are given by its priors, so that refinement keeps them.

    Args:
        clip: The clip, without batch axes.

    Returns:
        Whether the priors contain the pose and the intrinsics of every frame.

    Raises:
        UserError: If the clip cannot be refined: its priors contain depth, which refinement would change, or the poses
            of some frames only, or poses without intrinsics.
    """
    if clip.priors is None:
        return False
    if clip.priors.depths is not None and (clip.priors.depths > 0).any():
        raise UserError(
            "the depth of this clip is given, and refinement would change it: give no depth, or do not refine"
        )
    has_pose = clip.priors.world_from_cam.isfinite().all(dim=-1).all(dim=-1)
    if not has_pose.any():
        return False
    has_intrinsics = _has_intrinsics_priors(clip)
    if not has_pose.all() or not has_intrinsics:
        raise UserError(
            f"the poses of {int(has_pose.sum())} of {clip.num_frames} frames are given, "
            f"{'with' if has_intrinsics else 'without'} the intrinsics of all frames; to refine this clip, give the "
            "poses and the intrinsics of all frames, or no poses"
        )
    return True


def _track_along_rig(clip: Clip, scene: Scene, guides: FeatureTracks) -> FeatureTracks:
    """Track corners; of a rig, camera after camera, so that consecutive frames show much the same."""
    if clip.rig is None:
        return track_corners(clip, scene, guides)
    order = clip.rig.serpentine()
    ordered = FeatureTracks(guides.pixels[order], guides.visibility[order])
    found = track_corners(clip.frames(order), replace(scene, tracks=None).frames(order), ordered)
    back = torch.tensor(order).argsort()
    return FeatureTracks(found.pixels[back], found.visibility[back])


def _refine_cameras(
    clip: Clip | None, scene: Scene, tracks: FeatureTracks, config: RefineConfig, refine_intrinsics: bool
) -> tuple[Refinement, SparseDepths | None]:
    """Run steps 2 to 8; also return the points of the accepted cameras, if parallax determines any."""
    _check_input(scene, tracks)
    if scene.num_frames < 2:
        return _unchanged(clip, scene, "refinement needs at least 2 frames"), None
    try:
        with single_thread():
            return _camera_steps(clip, scene, tracks, config, refine_intrinsics)
    except NoSolution as failure:
        return _unchanged(clip, scene, str(failure)), None


def _camera_steps(
    clip: Clip | None, scene: Scene, tracks: FeatureTracks, config: RefineConfig, refine_intrinsics: bool
) -> tuple[Refinement, SparseDepths | None]:
    # 2. Select static tracks.
    located = locate_tracks(scene, tracks)
    static = select_static_tracks(scene, located, config)
    if len(static) < config.min_tracks:
        return _unchanged(
            clip,
            scene,
            f"only {len(static)} tracks are consistent with a static scene, at least {config.min_tracks} are needed",
        ), None
    if (num_corners := num_distinct_corners(static.tracks, scene.size)) < MIN_CORNERS:
        return _unchanged(clip, scene, f"only {num_corners} different corners, at least {MIN_CORNERS} are needed"), None
    # 3. Hold out a share.
    fitted, held_out = hold_out(static, config)
    # 4. Build hypotheses. They have one lens, so that the tracks of the cameras of a rig are brought to a common one.
    rig = None if clip is None else clip.rig
    lens = None if rig is None else CommonLens.of(scene, rig)
    common = (scene, fitted, held_out)
    if lens is not None:
        common = (lens.scene(scene), lens.tracks(fitted), lens.tracks(held_out))
    focal_ratio = None if clip is None else _focal_ratio(clip.size, scene.size)
    find_distortion = clip is not None and rig is None
    hypotheses = build_hypotheses(common[0], common[1], config, refine_intrinsics, focal_ratio, find_distortion)
    # 5. Select the model.
    predicted = predicted_selection(hypotheses, common[2], config.inlier_threshold)
    selection, rig_report = select_model(hypotheses, common[2], config.inlier_threshold), ""
    static_fraction = len(static) / min(len(located), config.num_tracks)
    reason = _reason_to_reject(predicted, selection, static_fraction)
    if lens is not None and reason is None:
        fixed = select_rig(selection, lens, fitted, held_out, scene, config, refine_intrinsics)
        selection, rig_report = fixed.selection, fixed.report
    reason = reason or _reason_of_unknown_frames(selection)
    # 6. Check acceptance.
    refinement = _measure(clip, scene, fitted, predicted, selection)
    refinement = replace(refinement, static_fraction=static_fraction, rig_report=rig_report)
    if reason is not None:
        return replace(refinement, reason=reason), None
    # 7. Remove lens distortion, replace the cameras and transfer tracks.
    straight = scene
    if not selection.distortion.is_none and clip is not None:
        straight = undistort_scene(scene, selection.cameras.intrinsics, selection.distortion)
        clip = undistort_clip(clip, selection.cameras.resized(scene.size, clip.size).intrinsics, selection.distortion)
        fitted, held_out = (
            undistort_tracks(part, selection.cameras.intrinsics, selection.distortion) for part in (fitted, held_out)
        )
    refined = straight.with_cameras(selection.cameras).without_frames(~selection.is_determined)
    points = triangulate_depths(refined, fitted, held_out)
    refined = replace(refined, tracks=transfer_tracks(straight, refined))
    refinement = replace(refinement, clip=clip, scene=refined, is_accepted=True)
    # 8. Align depth.
    return align_depth(refinement, points), points


def _align_to_given_cameras(
    clip: Clip, scene: Scene, tracks: FeatureTracks, config: RefineConfig
) -> tuple[Refinement, SparseDepths | None]:
    """Align depth to points that are triangulated with given cameras, which also determine the scale."""
    _check_input(scene, tracks)
    fitted, held_out = hold_out(sample_tracks(locate_tracks(scene, tracks), config), config)
    refinement = _unchanged(clip, scene, "too few corners have sufficient parallax")
    refinement = replace(refinement, num_tracks=len(fitted), is_depth_only=True)
    try:
        points = triangulate_depths(scene, fitted, held_out)
    except NoSolution as failure:
        return replace(refinement, reason=str(failure)), None
    if points is None:
        return refinement, None
    return align_scale_and_depth(refinement, points), points


def _measure(
    clip: Clip | None,
    scene: Scene,
    fitted: LocatedTracks,
    predicted: CameraSelection,
    selection: CameraSelection,
) -> Refinement:
    """Describe a selection by its scores, as a refinement that is not accepted yet."""
    angles = triangulation_angles(selection.cameras, fitted.tracks, selection.points)
    return Refinement(
        scene=scene,
        is_accepted=False,
        error_before=float(predicted.errors.mean()),
        error_after=float(selection.errors.mean()),
        num_tracks=len(fitted),
        clip=clip,
        inlier_fraction_before=predicted.inlier_fraction,
        inlier_fraction=selection.inlier_fraction,
        parallax=0.0 if selection.is_rotation_only else float(angles.median().rad2deg()),
        is_rotation_only=selection.is_rotation_only,
        unknown_frames=tuple((~selection.is_determined).nonzero()[:, 0].tolist()),
    )


def _reason_to_reject(predicted: CameraSelection, selection: CameraSelection, static_fraction: float) -> str | None:
    """Explain why selected cameras are not accepted; None if they are."""
    gains = predicted.held_out_costs - selection.held_out_costs
    if selection.cameras is predicted.cameras or not gains.mean() > chance_gain(gains):
        return (
            selection.failures[0]
            if selection.failures
            else "no other cameras explain significantly more of the held-out corners than the predicted ones "
            f"({predicted.inlier_fraction:.0%})"
        )
    explained = static_fraction * selection.inlier_fraction
    if explained < MIN_EXPLAINED_FRACTION:
        return (
            f"the best other cameras explain only {explained:.0%} of all corners, and at least "
            f"{MIN_EXPLAINED_FRACTION:.0%} are needed"
        )
    return None


def _reason_of_unknown_frames(selection: CameraSelection) -> str | None:
    """Explain why cameras are not accepted of which too few are determined; None if enough are."""
    num_determined, num_frames = int(selection.is_determined.sum()), len(selection.is_determined)
    if num_determined < MIN_DETERMINED_FRACTION * num_frames:
        return f"corner tracks determine the cameras of only {num_determined} of {num_frames} frames"
    return None


def _found_few_corners(tracks: FeatureTracks) -> bool:
    """Check whether corners should be tracked again from the refined scene."""
    visibility = tracks.visibility
    return len(visibility) > 1 and visibility.numel() > 0 and float(visibility.mean()) < SUFFICIENT_COVERAGE


def _has_intrinsics_priors(clip: Clip) -> bool:
    return clip.priors is not None and bool(clip.priors.intrinsics.isfinite().all())


def _focal_ratio(image_size: tuple[int, int], map_size: tuple[int, int]) -> float:
    """Compute the ratio of horizontal to vertical focal length in maps of images with square pixels."""
    (height, width), (map_height, map_width) = image_size, map_size
    return (map_width / width) / (map_height / height)


def _unchanged(clip: Clip | None, scene: Scene, reason: str) -> Refinement:
    return Refinement(scene, False, float("nan"), float("nan"), 0, clip, reason)


def _check_input(scene: Scene, tracks: FeatureTracks) -> None:
    if scene.batch_shape or len(tracks.visibility) != scene.num_frames:
        raise ValueError(
            f"expected one scene and tracks through its frames, got {tuple(scene.depths.shape[:-2])} frames and "
            f"tracks through {len(tracks.visibility)}"
        )
    if not (scene.cameras.world_from_cam.isfinite().all() and scene.cameras.intrinsics.isfinite().all()):
        raise UserError("the cameras of some frames are unknown (NaN) and cannot be refined; leave those frames out")
