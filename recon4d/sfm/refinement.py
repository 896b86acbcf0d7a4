"""The hybrid: a network's cameras, made precise by bundle adjustment over what stands still, and only if that helps.

A fifth of the tracks is held out. They judge cameras before and after: each gets the best points it can, and the
cameras with the smaller reprojection error stay. Depth, points and tracks keep their pixels and depths and follow the
cameras.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import transform_points, unproject
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.sfm.bundle_adjustment import Problem, adjust, adjust_points, parallax, residuals
from recon4d.sfm.epipolar import consistent_tracks


@dataclass(frozen=True)
class RefineConfig:
    """How cameras are refined."""

    most_tracks: int = 2000
    least_tracks: int = 30
    held_out_share: float = 0.2
    least_frames: int = 2
    """A track must be seen in so many frames to say anything."""
    loss_scales: tuple[float, ...] = (8.0, 2.0, 1.0)
    """Pixels, round by round: wide while cameras are still wrong by several, narrow in the end."""
    largest_residual: float = 0.015
    """Of the longer side: what is seen farther off after a round is left out of the next."""
    least_parallax: float = math.radians(2)
    """Of a point, so that its place can be told from its pixels."""
    least_parallax_share: float = 0.3
    """Of the points, so that any are free to move."""
    significance: float = 1.0
    """Focal lengths stay as predicted unless others are better on held-out tracks by so many standard errors: a camera
    that hardly moves does not tell them."""
    seed: int = 0


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

    def __str__(self) -> str:
        if not self.accepted:
            return f"cameras are as predicted: {self.reason}"
        return (
            f"cameras refined on {self.num_tracks} tracks: {self.error_before:.2f} to {self.error_after:.2f} pixels "
            "on held-out ones"
        )


CAP = 10.0
"""Pixels."""


def refine(scene: Scene, tracks: FeatureTracks, config: RefineConfig = RefineConfig()) -> Refinement:
    """The scene with cameras that were bundle-adjusted over `tracks`, in the world of its first camera.

    `tracks` should be of what stands still; those that break the epipolar geometry are left out. Never worse by its
    own held-out tracks: then the scene is answered as it was, with the reason. Deterministic. Raises ``ValueError`` for
    a batch, for cameras that are not finite, and for tracks of another number of frames.
    """
    _check(scene, tracks)
    if scene.num_frames < 2:
        return _unchanged(scene, "one frame has nothing to agree with")
    points, located = _points_of(scene, tracks)
    usable = _usable(scene, tracks, located, config)
    if len(usable) < config.least_tracks:
        return _unchanged(scene, f"{len(usable)} static tracks agree, {config.least_tracks} are needed")
    held_out, fitted = _split(usable, config)
    judges = _select(tracks, held_out)
    before = _errors(scene.cameras, judges, points[held_out], scene.size)

    best, after, reasons = scene.cameras, before, []
    for refine_focal_length in (False, True):
        try:
            cameras = _adjusted_cameras(scene, _select(tracks, fitted), points[fitted], refine_focal_length, config)
        except ValueError as error:
            reasons.append(str(error))
            continue
        errors = _errors(cameras, judges, _carried(scene, cameras, points[held_out]), scene.size)
        gain = after - errors
        needed = config.significance * gain.std() / math.sqrt(len(gain)) if refine_focal_length else 0.0
        if gain.mean() > needed:
            best, after = cameras, errors
    error_before, error_after = float(before.mean()), float(after.mean())
    if best is not scene.cameras:
        return Refinement(scene.with_cameras(best), True, error_before, error_after, len(fitted))
    none_is_better = f"no others are better on held-out tracks, which they fit to {error_before:.2f} pixels"
    reason = reasons[0] if len(reasons) == 2 else none_is_better
    return Refinement(scene, False, error_before, error_after, len(fitted), reason)


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
    return _select(FeatureTracks(pixels, seen), torch.from_numpy(np.sort(drawn)))


def _adjusted_cameras(
    scene: Scene,
    tracks: FeatureTracks,
    points: Float[Tensor, "track 3"],
    refine_focal_length: bool,
    config: RefineConfig,
) -> Cameras:
    """Round after round, each without what the one before could not explain; lengths are those of the scene again.

    Cameras come first, to points where the scene's depth has them. From there points move too, where enough of them are
    seen under some parallax; the others are left out, since nothing would hold them in place. Where there is too little
    parallax, as before a still camera, all points stay where the depth has them, and so do focal lengths.
    """
    still = torch.zeros(len(points), dtype=torch.bool)
    adjusted = adjust(Problem(scene.cameras, tracks, points, scene.size, config.loss_scales[0]), still, False)
    moves = parallax(adjusted.cameras, tracks, points) >= config.least_parallax
    is_free = int(moves.sum()) >= max(config.least_tracks, config.least_parallax_share * len(moves))
    if refine_focal_length and not is_free:
        raise ValueError("too little parallax to tell focal lengths")
    if is_free:
        tracks, points = _select(tracks, moves), points[moves]
        adjusted = replace(adjusted, points=points)
    for loss_scale in config.loss_scales:
        problem = Problem(adjusted.cameras, tracks, adjusted.points, scene.size, loss_scale)
        adjusted = adjust(problem, torch.full((len(points),), is_free), refine_focal_length)
        distance, seen = residuals(adjusted.cameras, tracks, adjusted.points)
        seen = seen & (distance <= max(config.largest_residual * max(scene.size), 2 * loss_scale))
        kept = seen.sum(dim=0) >= config.least_frames
        if int(kept.sum()) < config.least_tracks // 2:
            raise ValueError(f"only {int(kept.sum())} of {len(points)} tracks fit any cameras")
        tracks = _select(FeatureTracks(tracks.pixels, tracks.seen * seen), kept)
        adjusted, points = replace(adjusted, points=adjusted.points[kept]), points[kept]
    origin = adjusted.cameras.centres[0]
    ratio = (points.double() - origin).norm(dim=-1) / (adjusted.points - origin).norm(dim=-1)
    world_from_cam = adjusted.cameras.world_from_cam.clone()
    world_from_cam[:, :3, 3] = origin + ratio.median() * (world_from_cam[:, :3, 3] - origin)
    return replace(adjusted.cameras, world_from_cam=world_from_cam)


def _errors(
    cameras: Cameras, tracks: FeatureTracks, points: Float[Tensor, "track 3"], size: tuple[int, int]
) -> Float[Tensor, " track"]:
    """For each track the mean distance in pixels, capped, to the best point that these cameras allow."""
    best = adjust_points(Problem(cameras, tracks, points, size))
    distance, seen = residuals(cameras, tracks, best)
    return torch.where(seen, distance.clamp(max=CAP), 0.0).sum(dim=0) / seen.sum(dim=0)


def _points_of(scene: Scene, tracks: FeatureTracks) -> tuple[Float[Tensor, "track 3"], Bool[Tensor, " track"]]:
    """The world point of each track, by the depth of the first frame that knows it, and where there is one."""
    height, width = scene.size
    inside = (tracks.pixels >= 0).all(dim=-1) & (tracks.pixels < tracks.pixels.new_tensor([width, height])).all(dim=-1)
    column = torch.nan_to_num(tracks.pixels[..., 0]).long().clamp(0, width - 1)
    row = torch.nan_to_num(tracks.pixels[..., 1]).long().clamp(0, height - 1)
    frame = torch.arange(scene.num_frames)[:, None]
    depths = scene.depths[frame, row, column]
    known = (tracks.seen > 0) & inside & (scene.depth_confidence[frame, row, column] > 0) & (depths > 0)
    in_camera = unproject(torch.nan_to_num(tracks.pixels), depths, scene.cameras.intrinsics)
    world = transform_points(scene.cameras.world_from_cam, in_camera)
    # One frame's depth, the first that knows it: its errors are smooth, and cameras can agree with it as a whole.
    first = known.int().argmax(dim=0)
    return world.gather(0, first[None, :, None].expand(1, -1, 3))[0], known.any(dim=0)


def _carried(scene: Scene, cameras: Cameras, points: Float[Tensor, "track 3"]) -> Float[Tensor, "track 3"]:
    """Where points seen by the first camera are in the refined world: at the same pixel and depth of that camera."""
    first = scene.cameras.frames([0])
    return first.points_reseen(points[None], cameras.frames([0]))[0]


def _usable(
    scene: Scene, tracks: FeatureTracks, located: Bool[Tensor, " track"], config: RefineConfig
) -> Int[Tensor, " usable"]:
    """Numbers of at most `most_tracks` tracks, drawn by the seed, that keep to the epipolar geometry of the clip."""
    seen_enough = (tracks.seen > 0).sum(dim=0) >= config.least_frames
    candidates = (located & seen_enough).nonzero()[:, 0].numpy()
    drawn = np.sort(np.random.default_rng(config.seed).permutation(candidates)[: config.most_tracks])
    chosen = torch.from_numpy(drawn)
    return chosen[consistent_tracks(scene.cameras, _select(tracks, chosen), scene.size, config.seed)]


def _split(
    usable: Int[Tensor, " usable"], config: RefineConfig
) -> tuple[Int[Tensor, " held_out"], Int[Tensor, " fitted"]]:
    """Numbers of the tracks that are held out, and of those that are fitted."""
    drawn = np.random.default_rng([config.seed, 1]).permutation(usable.numpy())
    count = max(1, round(config.held_out_share * len(drawn)))
    return torch.from_numpy(np.sort(drawn[:count])), torch.from_numpy(np.sort(drawn[count:]))


def _select(tracks: FeatureTracks, chosen: Tensor) -> FeatureTracks:
    return FeatureTracks(tracks.pixels[:, chosen], tracks.seen[:, chosen])


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
