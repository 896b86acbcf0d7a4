"""Refinement of a predicted scene: cameras by bundle adjustment, depth by triangulated points and plane-sweep stereo.

The steps have the numbers of the section "Refinement" of docs/evaluation.md.
"""

from dataclasses import replace

from recon4d.errors import UserError
from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.refine.cameras.hypotheses import build_hypotheses
from recon4d.refine.cameras.model_selection import CameraSelection, select_model
from recon4d.refine.cameras.scoring import track_errors
from recon4d.refine.config import RefineConfig
from recon4d.refine.depth.multiview_consistency import plane_sweep_depth
from recon4d.refine.depth.steps import align_depth, align_scale_and_depth, is_depth_plausible, is_mirrored, verify_depth
from recon4d.refine.depth.triangulation import SparseDepths, triangulate_depths
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.refinement import Refinement
from recon4d.refine.track_transfer import transfer_tracks
from recon4d.refine.tracks.corner_tracking import scene_guides, track_corners
from recon4d.refine.tracks.located_tracks import locate_tracks
from recon4d.refine.tracks.selection import hold_out, sample_tracks, select_static_tracks

SUFFICIENT_COVERAGE = 0.5
"""Smallest mean visibility of corner tracks for which no second tracking pass runs. Hand-tuned."""


def refine_clip(clip: Clip, scene: Scene, matches: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """Refine the cameras and the depth of a predicted scene with the images of its clip.

    Intrinsics in the clip's priors are kept. If its priors contain the cameras too, only depth is refined. The result
    is deterministic.

    Args:
        clip: The clip, without batch axes.
        scene: The prediction to refine, in the world of its first camera.
        matches: Approximate tracks of the network in pixels of the scene's maps (`recon4d.reconstruct_and_match`).
        config: Settings; None for the defaults.

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
    # 1. Track corners.
    tracks = track_corners(clip, scene, matches)
    # 2. to 8. Refine the cameras, and align depth to their points. With given cameras only steps 3 and 8 run.
    if has_cameras:
        refinement, points = _align_to_given_cameras(scene, tracks, config)
    else:
        refine_intrinsics = config.refine_intrinsics and not _has_intrinsics_priors(clip)
        focal_ratio = _focal_ratio(clip.size, scene.size)
        refinement, points = _refine_cameras(scene, tracks, config, refine_intrinsics, focal_ratio)
        if _found_few_corners(tracks):
            tracks = track_corners(clip, refinement.scene, scene_guides(refinement.scene))
            again, again_points = _refine_cameras(refinement.scene, tracks, config, refine_intrinsics, focal_ratio)
            if again.is_accepted:
                error_before = refinement.error_before if refinement.is_accepted else again.error_before
                refinement, points = replace(again, error_before=error_before), again_points
    if points is None or not is_depth_plausible(refinement):
        return refinement
    # 9. Compute depth by a plane sweep.
    dense = plane_sweep_depth(clip, refinement.scene)
    # 10. Verify it with the held-out points.
    return verify_depth(refinement, dense, points.held_out)


def refine_scene(scene: Scene, tracks: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """Refine the cameras of a predicted scene with given tracks, and align its depth to the triangulated points.

    These are steps 2 to 8 of `refine_clip`. The first camera keeps its pose. The result is deterministic.

    Args:
        scene: A single predicted scene.
        tracks: Tracks through its frames with sub-pixel accuracy, in pixels of its maps (`track_corners`). Tracks of
            dynamic objects are filtered out.
        config: Settings; None for the defaults.

    Returns:
        The refined scene, or the unchanged scene with the reason.

    Raises:
        UserError: If the scene has cameras that are not finite.
        ValueError: If the scene is a batch, or if the tracks have another number of frames.
    """
    config = config or RefineConfig()
    return _refine_cameras(scene, tracks, config, config.refine_intrinsics)[0]


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


def _refine_cameras(
    scene: Scene,
    tracks: FeatureTracks,
    config: RefineConfig,
    refine_intrinsics: bool,
    focal_ratio: float | None = None,
) -> tuple[Refinement, SparseDepths | None]:
    """Run steps 2 to 8; also return the points of the accepted cameras, if parallax determines any."""
    _check_input(scene, tracks)
    if scene.num_frames < 2:
        return _unchanged(scene, "refinement needs at least 2 frames"), None
    try:
        return _camera_steps(scene, tracks, config, refine_intrinsics, focal_ratio)
    except NoSolution as failure:
        return _unchanged(scene, str(failure)), None


def _camera_steps(
    scene: Scene, tracks: FeatureTracks, config: RefineConfig, refine_intrinsics: bool, focal_ratio: float | None
) -> tuple[Refinement, SparseDepths | None]:
    # 2. Select static tracks.
    static = select_static_tracks(scene, locate_tracks(scene, tracks), config)
    if len(static) < config.min_tracks:
        return _unchanged(
            scene,
            f"only {len(static)} tracks are consistent with a static scene, at least {config.min_tracks} are needed",
        ), None
    # 3. Hold out a share.
    fitted, held_out = hold_out(static, config)
    # 4. Build hypotheses.
    hypotheses = build_hypotheses(scene, fitted, config, refine_intrinsics, focal_ratio)
    # 5. Select the model.
    selection = select_model(hypotheses, held_out, config.inlier_threshold)
    # 6. Check acceptance.
    error_before = float(track_errors(scene.cameras, held_out, scene.size).mean())
    refinement = Refinement(scene, False, error_before, float(selection.errors.mean()), len(fitted))
    keeps_prediction = selection.cameras is hypotheses.scene.cameras  # selection returns the same object
    if reason := _reason_to_reject(refinement, selection, keeps_prediction, config):
        return replace(refinement, reason=reason), None
    refined = scene.with_cameras(selection.cameras)
    points = triangulate_depths(refined, fitted, held_out)
    if is_mirrored(scene, points):
        return replace(refinement, reason="the best hypothesis is depth-reversed, with near and far interchanged"), None
    # 7. Transfer tracks.
    refined = replace(refined, tracks=transfer_tracks(scene, refined))
    refinement = replace(refinement, scene=refined, is_accepted=True, is_rotation_only=selection.is_rotation_only)
    # 8. Align depth.
    return align_depth(refinement, points), points


def _align_to_given_cameras(
    scene: Scene, tracks: FeatureTracks, config: RefineConfig
) -> tuple[Refinement, SparseDepths | None]:
    """Align depth to points that are triangulated with given cameras, which also determine the scale."""
    _check_input(scene, tracks)
    fitted, held_out = hold_out(sample_tracks(locate_tracks(scene, tracks), config), config)
    refinement = _unchanged(scene, "too few corners have sufficient parallax")
    refinement = replace(refinement, num_tracks=len(fitted), is_depth_only=True)
    try:
        points = triangulate_depths(scene, fitted, held_out)
    except NoSolution as failure:
        return replace(refinement, reason=str(failure)), None
    if points is None:
        return refinement, None
    return align_scale_and_depth(refinement, points), points


def _reason_to_reject(
    refinement: Refinement, selection: CameraSelection, keeps_prediction: bool, config: RefineConfig
) -> str | None:
    """Explain why selected cameras are not accepted; None if they are."""
    if keeps_prediction or not refinement.error_after < refinement.error_before:
        error = f"{refinement.error_before:.2f} pixels"
        none_better = f"no hypothesis has a lower held-out error than the predicted cameras ({error})"
        return selection.failures[0] if selection.failures else none_better
    if selection.inlier_fraction < config.min_inlier_fraction:
        return (
            f"the best other cameras fit {selection.inlier_fraction:.0%} of the held-out tracks exactly, "
            f"{config.min_inlier_fraction:.0%} are needed"
        )
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


def _unchanged(scene: Scene, reason: str) -> Refinement:
    return Refinement(scene, False, float("nan"), float("nan"), 0, reason)


def _check_input(scene: Scene, tracks: FeatureTracks) -> None:
    if scene.batch_shape or len(tracks.visibility) != scene.num_frames:
        raise ValueError(
            f"expected one scene and tracks through its frames, got {tuple(scene.depths.shape[:-2])} frames and "
            f"tracks through {len(tracks.visibility)}"
        )
    if not (scene.cameras.world_from_cam.isfinite().all() and scene.cameras.intrinsics.isfinite().all()):
        raise UserError("the cameras of some frames are unknown (NaN) and cannot be refined; leave those frames out")
