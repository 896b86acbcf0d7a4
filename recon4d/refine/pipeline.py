"""The hybrid: a network's cameras, made precise by bundle adjustment over what stands still, and only if that helps.

Corners are followed through the clip, those that stand still by most of the others are kept, and a fifth of these is
held out, to choose the best cameras by (`choosing`). Points and tracks follow the cameras; depth is then made exact as
far as cameras and pictures prove it (`depth_evidence`, `proving`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from recon4d.geometry import rows_and_columns
from recon4d.records import (
    Calibration,
    Clip,
    FeatureTracks,
    Scene,
)
from recon4d.refine.cameras.hypotheses import RefineConfig, locate_tracks, select_tracks
from recon4d.refine.cameras.model_selection import select_cameras
from recon4d.refine.cameras.scoring import track_errors
from recon4d.refine.depth.alignment import (
    PointDepths,
    correlation,
    disagreement,
    fit_depth_alignment,
    median_ratio,
    scale_depth,
)
from recon4d.refine.depth.consistency import VERIFIED_CONFIDENCE, VerifiedDepth, with_verified_depth
from recon4d.refine.depth.evidence import SparseDepths, sparse_depths
from recon4d.refine.depth.plane_sweep import StereoConfig
from recon4d.refine.track_transfer import transfer_tracks
from recon4d.refine.tracks.corner_tracking import scene_guides, track_corners
from recon4d.refine.tracks.selection import drawn_tracks, select_static_tracks, split

LEAST_ERROR = 1e-3
"""Of log depth: points themselves are no better known."""


@dataclass(frozen=True)
class Refinement:
    """A scene with refined cameras, or the same scene where they would have been worse."""

    scene: Scene
    accepted: bool
    error_before: float
    """Mean reprojection error of held-out tracks in pixels, no track counting more than `CAP`; NaN: not measured."""
    error_after: float
    num_tracks: int
    reason: str = ""
    depth_before: float = math.nan
    """Mean difference of log depth to held-out points; NaN: not measured, since no cameras prove a depth."""
    depth_after: float = math.nan
    """The same of the depth that is answered."""
    verified_share: float = 0.0
    """Of all pixels, those whose depth several pictures prove."""
    verified_error: float = math.nan
    """The median difference of log depth to held-out points on proven pixels; NaN: none are proven."""
    cameras_given: bool = False
    """Whether cameras were known, and depth alone is refined."""
    is_rotation_only: bool = False
    """Whether cameras that only turn explain the tracks: then these prove no depth, and are not sure of the lens."""

    def __str__(self) -> str:
        if not self.accepted:
            return f"{'depth is' if self.cameras_given else 'cameras are'} as predicted: {self.reason}"
        pixels = f"{self.error_before:.2f} to {self.error_after:.2f} pixels on held-out ones"
        refined = f"cameras refined on {self.num_tracks} tracks: {pixels}"
        refined += ", turning on the spot, which proves no depth" if self.is_rotation_only else ""
        cameras = "cameras are as given" if self.cameras_given else refined
        is_better = self.depth_after < self.depth_before
        depth = f", depth {self.depth_before:.0%} to {self.depth_after:.0%} off" if is_better else ""
        proven = f", that of {self.verified_share:.0%} of all pixels proven" if self.verified_share else ""
        return f"{cameras}{depth}{proven}"

    def calibration(self, of_model: Calibration | None) -> Calibration | None:
        """What the scene's confidences mean: what they mean of the model, and of proven pixels what was measured."""
        if of_model is None or not self.verified_share:
            return of_model
        return of_model.extended(
            VERIFIED_CONFIDENCE, self.verified_error, "proven pixels: held-out corners of this clip"
        )


def refine_scene(scene: Scene, tracks: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """The scene with cameras that were bundle-adjusted over `tracks`, in the world of its first camera.

    `tracks` should be of what stands still and exact to a fraction of a pixel (`follow_corners`); those that break the
    epipolar geometry are left out. Where its own held-out tracks are not fitted better, and three quarters of them
    exactly, the scene is answered as it was, with the reason. Deterministic. Raises ``ValueError`` for a batch, for
    cameras that are not finite, and for tracks of another number of frames.
    """
    return _refined(scene, tracks, config or RefineConfig())[0]


def _refined(scene: Scene, tracks: FeatureTracks, config: RefineConfig) -> tuple[Refinement, SparseDepths | None]:
    """The refinement, and how deep points are for its cameras, where those were taken and parallax tells."""
    _check(scene, tracks)
    if scene.num_frames < 2:
        return _unchanged(scene, "one frame has nothing to agree with"), None
    all_tracks, is_located = locate_tracks(scene, tracks)
    usable = select_static_tracks(scene, all_tracks, is_located, config)
    if len(usable) < config.least_tracks:
        return _unchanged(scene, f"{len(usable)} static tracks agree, {config.least_tracks} are needed"), None
    held_out, fitted = split(usable, config)
    judges = all_tracks.take(held_out)
    before = track_errors(scene.cameras, judges, scene.size)
    start = _with_focal_ratio(scene, config)
    choice = select_cameras(start, all_tracks.take(fitted), judges, config)
    means = float(before.mean()), float(choice.errors.mean())
    found = Refinement(scene, False, *means, len(fitted))
    if choice.cameras is start.cameras or not found.error_after < found.error_before:
        none_is_better = f"no others are better on held-out tracks, which they fit to {found.error_before:.2f} pixels"
        return replace(found, reason=choice.reasons[0] if choice.reasons else none_is_better), None
    if choice.exact_share < config.least_exact_share:
        needed = f"{config.least_exact_share:.0%} are needed"
        reason = f"others fit {choice.exact_share:.0%} of the held-out tracks exactly, {needed}"
        return replace(found, reason=reason), None
    placed = scene.with_cameras(choice.cameras)
    placed = replace(placed, tracks=transfer_tracks(scene, placed))
    refined = replace(found, scene=placed, accepted=True, is_rotation_only=choice.turns)
    evidence = sparse_depths(placed, all_tracks.take(fitted), judges, config)
    if evidence is not None and correlation(scene.depths, evidence.fitted) < config.least_correlation:
        return replace(found, reason="others would turn the depth inside out"), None
    return _with_bent_depth(refined, evidence, config), evidence


def refine_clip(clip: Clip, scene: Scene, matches: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """`refine` on corners of `clip`, followed from the rough `matches` of a network (`reconstruct_and_match`).

    Where few of them are found again, they are followed once more from where the refined scene itself has them, and
    refinement goes on from there. In the end depth is looked for at every pixel. The lens stays where it is
    known; where its cameras are known too, depth alone is refined. Raises ``ValueError`` as `refine` and
    `follow_corners` do, and where cameras are known without the lens, or those of some frames alone.
    """
    config = config or RefineConfig()
    corners = track_corners(clip, scene, matches)
    if knows_cameras(clip):
        return _with_proven_depth(clip, *_with_given_cameras(scene, corners, config), config)
    if clip.priors is not None and clip.priors.intrinsics.isfinite().all():
        config = replace(config, finds_lens=False)
    config = replace(config, focal_ratio=_focal_ratio(clip.size, scene.size))
    first, evidence = _refined(scene, corners, config)
    if scene.num_frames < 2 or not corners.visibility.numel() or corners.visibility.mean() >= config.plenty:
        return _with_proven_depth(clip, first, evidence, config)
    guides = scene_guides(first.scene)
    again, more_evidence = _refined(first.scene, track_corners(clip, first.scene, guides), config)
    if not again.accepted:
        return _with_proven_depth(clip, first, evidence, config)
    again = replace(again, error_before=first.error_before) if first.accepted else again
    return _with_proven_depth(clip, again, more_evidence, config)


def knows_cameras(clip: Clip) -> bool:
    """Whether a clip's cameras are known, so that refinement keeps them.

    Raises ``ValueError`` where those of some frames alone are, or no lens, and where depth is known, which refinement
    would move: such a clip cannot be refined.
    """
    if clip.priors is None:
        return False
    if clip.priors.depths is not None and (clip.priors.depths > 0).any():
        raise ValueError("depth of this clip is known, and refinement would change it: give no depth, or do not refine")
    is_placed = clip.priors.world_from_cam.isfinite().all(dim=-1).all(dim=-1)
    if not is_placed.any():
        return False
    if not is_placed.all() or not clip.priors.intrinsics.isfinite().all():
        lens = "known" if clip.priors.intrinsics.isfinite().all() else "not known"
        raise ValueError(
            f"the cameras of {int(is_placed.sum())} of {clip.num_frames} frames are known and the lens is {lens}; to "
            "refine this clip all cameras must be known with their lens, or none"
        )
    return True


def _focal_ratio(of_pictures: tuple[int, int], of_maps: tuple[int, int]) -> float:
    """Of the focal lengths across and down in maps of pictures with square pixels."""
    (height, width), (map_height, map_width) = of_pictures, of_maps
    return (map_width / width) / (map_height / height)


def _with_focal_ratio(scene: Scene, config: RefineConfig) -> Scene:
    """The scene with lenses of that ratio, as long in the mean as they were."""
    if config.focal_ratio is None or not config.finds_lens:
        return scene
    intrinsics = scene.cameras.intrinsics.clone()
    down = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1] / config.focal_ratio).sqrt()
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = config.focal_ratio * down, down
    return scene.with_cameras(replace(scene.cameras, intrinsics=intrinsics))


def _with_given_cameras(
    scene: Scene, tracks: FeatureTracks, config: RefineConfig
) -> tuple[Refinement, SparseDepths | None]:
    """Depth alone refined, by cameras that are known: they also say how long a unit is."""
    _check(scene, tracks)
    all_tracks, is_located = locate_tracks(scene, tracks)
    is_seen = (tracks.visibility > 0).sum(dim=0) >= config.least_frames
    held_out, fitted = split(drawn_tracks(is_located & is_seen, config), config)
    evidence = sparse_depths(scene, all_tracks.take(fitted), all_tracks.take(held_out), config)
    found = replace(_unchanged(scene, "too few corners show parallax"), num_tracks=len(fitted), cameras_given=True)
    if evidence is None:
        return found, None
    before = float(disagreement(scene.depths, evidence.held_out).mean())
    scaled = scale_depth(scene, torch.full_like(scene.depths, median_ratio(scene.depths, evidence.fitted)))
    refined = _with_bent_depth(replace(found, scene=scaled, accepted=True), evidence, config)
    return replace(refined, depth_before=before), evidence


def _with_bent_depth(refined: Refinement, evidence: SparseDepths | None, config: RefineConfig) -> Refinement:
    """The same with depth that goes through the fitted points, if it then agrees better with those held out."""
    if evidence is None:
        return refined
    scene = refined.scene
    before = float(disagreement(scene.depths, evidence.held_out).mean())
    unbent = replace(refined, depth_before=before, depth_after=before)
    if before > config.largest_disagreement:
        return unbent
    better = scale_depth(scene, fit_depth_alignment(scene.depths, evidence.fitted))
    after = float(disagreement(better.depths, evidence.held_out).mean())
    return replace(unbent, scene=better, depth_after=after) if after < before else unbent


def _with_proven_depth(
    clip: Clip, refined: Refinement, evidence: SparseDepths | None, config: RefineConfig
) -> Refinement:
    """The same with the depth that pictures prove, unless it contradicts the points held out."""
    if evidence is None or not refined.depth_after <= config.largest_disagreement:
        return refined
    proven = with_verified_depth(clip, refined.scene)
    after = float(disagreement(proven.scene.depths, evidence.held_out).mean())
    if after > refined.depth_after + config.edge_allowance:
        return refined
    return replace(
        refined,
        scene=proven.scene,
        depth_after=after,
        verified_share=float(proven.verified.float().mean()),
        verified_error=_error_where(proven, evidence.held_out),
    )


def _error_where(proven: VerifiedDepth, points: PointDepths) -> float:
    """The median disagreement with points on proven pixels; what stereo calls agreement where there are none."""
    row, column = rows_and_columns(points.pixels, proven.scene.size)
    on_proven = points.known & proven.verified[torch.arange(len(row))[:, None], row, column]
    if not on_proven.any():
        return StereoConfig().agreement
    return float(disagreement(proven.scene.depths, replace(points, known=on_proven)).median().clamp(min=LEAST_ERROR))


def static_tracks(scene: Scene, count: int = 4000, seed: int = 0) -> FeatureTracks:
    """Where the scene's own tracks of still things are seen, `count` of them drawn by `seed`.

    Still is what its `moving` says is still at the anchor's pixel, or says nothing of. A network's tracks project where
    its own cameras say, and refine nothing: this is for tracks that were measured. Raises ``ValueError`` for a scene
    without tracks.
    """
    tracks = scene.tracks
    if tracks is None:
        raise ValueError("this scene has no tracks to refine its cameras with")
    row, column = rows_and_columns(tracks.pixels, scene.size)
    moves = scene.dynamic[tracks.anchors[:, None], row, column] > 0.5
    seen = tracks.visibility * (tracks.visibility > 0.5) * (tracks.confidence > 0) * ~moves[:, None]
    pixels = scene.track_pixels.movedim(1, 0).flatten(1, 2)
    seen = seen.movedim(1, 0).flatten(1, 2)
    known = (seen > 0).any(dim=0).nonzero()[:, 0].numpy()
    drawn = np.random.default_rng(seed).permutation(known)[:count]
    return select_tracks(FeatureTracks(pixels, seen), torch.from_numpy(np.sort(drawn)))


def _unchanged(scene: Scene, reason: str) -> Refinement:
    return Refinement(scene, False, float("nan"), float("nan"), 0, reason)


def _check(scene: Scene, tracks: FeatureTracks) -> None:
    if scene.batch_shape or len(tracks.visibility) != scene.num_frames:
        raise ValueError(
            f"wanted one scene and tracks through its frames, given {tuple(scene.depths.shape[:-2])} frames and "
            f"tracks through {len(tracks.visibility)}"
        )
    if not (scene.cameras.world_from_cam.isfinite().all() and scene.cameras.intrinsics.isfinite().all()):
        raise ValueError("cameras of frames that are not placed cannot be refined; leave those frames out")
