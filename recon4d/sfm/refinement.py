"""The hybrid: a network's cameras, made precise by bundle adjustment over what stands still, and only if that helps.

Two starts are tried: the network's own cameras, and those that COLMAP's global mapper finds for the tracks alone. A
fifth of the tracks is held out. They judge all cameras: each gets the best points it can, and the cameras with the
smallest reprojection error stay. Points and tracks follow them; depth is then bent through the triangulated points, if
that brings it nearer to those held out.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from recon4d.geometry import transform_points
from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.sfm.bending import PointDepths, bending, bent, disagreement
from recon4d.sfm.bundle_adjustment import Problem, adjust_points, parallax, residuals
from recon4d.sfm.candidates import LocatedTracks, RefineConfig, candidates, located, select, track_errors
from recon4d.sfm.epipolar import consistent_tracks
from recon4d.sfm.following import follow_corners, scene_guides


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

    def __str__(self) -> str:
        if not self.accepted:
            return f"cameras are as predicted: {self.reason}"
        cameras = (
            f"cameras refined on {self.num_tracks} tracks: {self.error_before:.2f} to {self.error_after:.2f} pixels "
            "on held-out ones"
        )
        if not self.depth_after < self.depth_before:
            return cameras
        return f"{cameras}, depth {self.depth_before:.0%} to {self.depth_after:.0%} off"


def refine(scene: Scene, tracks: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """The scene with cameras that were bundle-adjusted over `tracks`, in the world of its first camera.

    `tracks` should be of what stands still and exact to a fraction of a pixel (`follow_corners`); those that break the
    epipolar geometry are left out. Where its own held-out tracks are not fitted better, and three quarters of them
    exactly, the scene is answered as it was, with the reason. Deterministic. Raises ``ValueError`` for a batch, for
    cameras that are not finite, and for tracks of another number of frames.
    """
    config = config or RefineConfig()
    _check(scene, tracks)
    if scene.num_frames < 2:
        return _unchanged(scene, "one frame has nothing to agree with")
    all_tracks, is_located = located(scene, tracks)
    usable = _usable(scene, all_tracks, is_located, config)
    if len(usable) < config.least_tracks:
        return _unchanged(scene, f"{len(usable)} static tracks agree, {config.least_tracks} are needed")
    held_out, fitted = _split(usable, config)
    judges = all_tracks.take(held_out)
    before = track_errors(scene.cameras, judges, scene.size)

    best, after, reasons = scene.cameras, before, []
    for candidate in candidates(scene, all_tracks.take(fitted), config):
        if isinstance(candidate, str):
            reasons.append(candidate)
            continue
        errors = track_errors(candidate.cameras, judges, scene.size)
        gain = after - errors
        needed = 0.0 if candidate.keeps_lens else config.significance * gain.std() / math.sqrt(len(gain))
        if gain.mean() > needed:
            best, after = candidate.cameras, errors
    found = Refinement(scene, False, float(before.mean()), float(after.mean()), len(fitted))
    if best is scene.cameras:
        none_is_better = f"no others are better on held-out tracks, which they fit to {found.error_before:.2f} pixels"
        return replace(found, reason=reasons[0] if reasons else none_is_better)
    exact = float((after <= config.exact_error * max(scene.size)).float().mean())
    if exact < config.least_exact_share:
        needed = f"{config.least_exact_share:.0%} are needed"
        return replace(found, reason=f"others fit {exact:.0%} of the held-out tracks exactly, {needed}")
    refined = replace(found, scene=scene.with_cameras(best), accepted=True)
    return _with_bent_depth(refined, all_tracks.take(fitted), judges, config)


def refine_clip(clip: Clip, scene: Scene, matches: FeatureTracks, config: RefineConfig | None = None) -> Refinement:
    """`refine` on corners of `clip`, followed from the rough `matches` of a network (`reconstruct_and_match`).

    Where few of them are found again, they are followed once more from where the refined scene itself has them, and
    refinement goes on from there. Focal lengths stay where the clip's lens is known. Raises ``ValueError`` as `refine`
    and `follow_corners` do.
    """
    config = config or RefineConfig()
    if clip.known is not None and clip.known.intrinsics.isfinite().all():
        config = replace(config, focal_lengths=False)
    corners = follow_corners(clip, scene, matches)
    first = refine(scene, corners, config)
    if scene.num_frames < 2 or not corners.seen.numel() or corners.seen.mean() >= config.plenty:
        return first
    again = refine(first.scene, follow_corners(clip, first.scene, scene_guides(first.scene)), config)
    if not again.accepted:
        return first
    return replace(again, error_before=first.error_before) if first.accepted else again


def _with_bent_depth(
    refined: Refinement, fitted: LocatedTracks, judges: LocatedTracks, config: RefineConfig
) -> Refinement:
    """The same with depth that goes through the points of `fitted`, if it then agrees better with those of `judges`."""
    scene = refined.scene
    seen, unseen = (_point_depths(scene, tracks, config) for tracks in (fitted, judges))
    if not unseen.known.any():
        return refined
    before = float(disagreement(scene.depths, unseen).mean())
    if before > config.largest_disagreement:
        return replace(refined, depth_before=before, depth_after=before)
    better = bent(scene, bending(scene.depths, seen))
    after = float(disagreement(better.depths, unseen).mean())
    if after >= before:
        return replace(refined, depth_before=before, depth_after=before)
    return replace(refined, scene=better, depth_before=before, depth_after=after)


def _point_depths(scene: Scene, located: LocatedTracks, config: RefineConfig) -> PointDepths:
    """How deep the tracks' points are in the frames that see them, where parallax tells and all frames agree."""
    cameras, tracks = scene.cameras, located.tracks
    problem = Problem(cameras, tracks, located.points(cameras), scene.size, config.loss_scales[-1])
    points = adjust_points(problem)
    distance, seen = residuals(cameras, tracks, points)
    agrees = torch.where(seen, distance, 0.0).amax(dim=0) <= config.largest_point_error * max(scene.size)
    is_told = agrees & (parallax(cameras, tracks, points) >= config.least_parallax)
    in_camera = transform_points(cameras.cam_from_world.double(), points.double().expand(len(seen), -1, -1))
    return PointDepths(tracks.pixels, in_camera[..., 2].to(scene.depths), seen & is_told)


def static_tracks(scene: Scene, count: int = 4000, seed: int = 0) -> FeatureTracks:
    """Where the scene's own tracks of still things are seen, `count` of them drawn by `seed`.

    Still is what its `moving` says is still at the anchor's pixel, or says nothing of. A network's tracks project where
    its own cameras say, and refine nothing: this is for tracks that were measured. Raises ``ValueError`` for a scene
    without tracks.
    """
    tracks = scene.tracks
    if tracks is None:
        raise ValueError("this scene has no tracks to refine its cameras with")
    height, width = scene.size
    column = tracks.pixels[..., 0].long().clamp(0, width - 1)
    row = tracks.pixels[..., 1].long().clamp(0, height - 1)
    moves = scene.moving[tracks.anchors[:, None], row, column] > 0.5
    seen = tracks.visible * (tracks.visible > 0.5) * (tracks.confidence > 0) * ~moves[:, None]
    pixels = scene.track_pixels.movedim(1, 0).flatten(1, 2)
    seen = seen.movedim(1, 0).flatten(1, 2)
    known = (seen > 0).any(dim=0).nonzero()[:, 0].numpy()
    drawn = np.random.default_rng(seed).permutation(known)[:count]
    return select(FeatureTracks(pixels, seen), torch.from_numpy(np.sort(drawn)))


def _usable(
    scene: Scene, located: LocatedTracks, is_located: Bool[Tensor, " track"], config: RefineConfig
) -> Int[Tensor, " usable"]:
    """Numbers of at most `most_tracks` tracks, drawn by the seed, that keep to the epipolar geometry of the clip.

    Something large that moves keeps to a geometry of its own. Where those left out agree among themselves too, and are
    nearly as many, the network decides: they are taken if its cameras fit them far better.
    """
    tracks = located.tracks
    seen_enough = (tracks.seen > 0).sum(dim=0) >= config.least_frames
    numbers = (is_located & seen_enough).nonzero()[:, 0].numpy()
    drawn = np.sort(np.random.default_rng(config.seed).permutation(numbers)[: config.most_tracks])
    chosen = torch.from_numpy(drawn)
    agree = _consistent(scene, tracks, chosen, config)
    rivals = chosen[~torch.isin(chosen, agree)]
    least = max(config.least_tracks, config.rival_share * len(agree))
    if len(rivals) < least:
        return agree
    rivals = _consistent(scene, tracks, rivals, config)
    if len(rivals) < least:
        return agree
    of_most, of_rivals = (
        track_errors(scene.cameras, located.take(group), scene.size, cap=torch.inf).median()
        for group in (agree, rivals)
    )
    return rivals if of_rivals < config.rival_error * of_most else agree


def _consistent(
    scene: Scene, tracks: FeatureTracks, chosen: Int[Tensor, " chosen"], config: RefineConfig
) -> Int[Tensor, " consistent"]:
    return chosen[consistent_tracks(scene.cameras, select(tracks, chosen), scene.size, config.seed)]


def _split(
    usable: Int[Tensor, " usable"], config: RefineConfig
) -> tuple[Int[Tensor, " held_out"], Int[Tensor, " fitted"]]:
    """Numbers of the tracks that are held out, and of those that are fitted."""
    drawn = np.random.default_rng([config.seed, 1]).permutation(usable.numpy())
    count = max(1, round(config.held_out_share * len(drawn)))
    return torch.from_numpy(np.sort(drawn[:count])), torch.from_numpy(np.sort(drawn[count:]))


def _unchanged(scene: Scene, reason: str) -> Refinement:
    return Refinement(scene, False, float("nan"), float("nan"), 0, reason)


def _check(scene: Scene, tracks: FeatureTracks) -> None:
    if scene.batch_shape or len(tracks.seen) != scene.num_frames:
        raise ValueError(
            f"wanted one scene and tracks through its frames, given {tuple(scene.depths.shape[:-2])} frames and "
            f"tracks through {len(tracks.seen)}"
        )
    if not (scene.cameras.world_from_cam.isfinite().all() and scene.cameras.intrinsics.isfinite().all()):
        raise ValueError("cameras of frames that are not placed cannot be refined; leave those frames out")
