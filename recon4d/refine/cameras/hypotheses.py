"""What refinement chooses from: cameras adjusted to tracks, and those that only turn."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import (
    field_of_view,
    given_or_beside,
    invert,
    rows_and_columns,
    transform_points,
    unproject,
)
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine.cameras.bundle_adjustment import (
    FreeLens,
    Problem,
    adjust,
    adjust_points,
    parallax,
    residuals,
)
from recon4d.refine.cameras.colmap_models import PLAUSIBLE_ANGLES
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.cameras.rotation_only import rotation_only_cameras


@dataclass(frozen=True)
class RefineConfig:
    """How cameras are refined."""

    most_tracks: int = 1200
    least_tracks: int = 30
    held_out_share: float = 0.2
    least_frames: int = 2
    """A track must be seen in so many frames to say anything."""
    loss_scales: tuple[float, ...] = (8.0, 2.0, 0.5, 0.2)
    """Pixels, round by round: wide while cameras are still wrong by several, narrow in the end."""
    largest_residual: float = 0.015
    """Of the longer side: what is seen farther off after a round is left out of the next."""
    largest_point_error: float = 0.004
    """Of the longer side: a point that any frame sees farther off says nothing of depth."""
    largest_disagreement: float = 0.5
    """Of log depth: if points contradict the network's depth more, something else is wrong, and depth stays."""
    least_correlation: float = -0.3
    """Of log depth: if what is near by the points is far by the network's, the cameras are a mirror image. Where there
    is little perspective, as through a long lens, one fits nearly as well as the truth."""
    edge_allowance: float = 0.02
    """Of log depth: so much farther from held-out points than bent depth, which goes through their neighbors, depth
    from stereo may be; corners often are where a surface ends, and their pixel may show either side."""
    least_links: int = 8
    """Tracks that a frame must share with another one, so that they hold its camera."""
    plenty: float = 0.5
    """Of the places where corners may be: if so many are found, they are followed once only."""
    least_parallax: float = math.radians(2)
    """Of a point, so that its place can be told from its pixels."""
    least_parallax_share: float = 0.3
    """Of the points, so that any are free to move."""
    rival_share: float = 0.4
    """Of the tracks that agree: so many others that agree among themselves may be what truly stands still."""
    rival_error: float = 0.5
    """Of the network's error on most tracks: what it must be at most on their rivals, to prefer them."""
    exact_error: float = 0.0016
    """Of the longer side: what held-out tracks fit to is theirs, and no compromise."""
    plenty_exact_share: float = 0.9
    """With so many no more starts are tried than the network's and the mapper's."""
    least_exact_share: float = 0.75
    """Of the held-out tracks: with fewer that fit exactly, cameras stay as predicted."""
    turning_share: float = 0.85
    """Of the held-out tracks that the best cameras fit exactly: if cameras that only turn fit so many, those are
    taken; a way through space, and a depth for each track, explain more than there is to explain."""
    finds_lens: bool = True
    """Whether focal length and principal point may change; not where the lens is known."""
    focal_ratio: float | None = None
    """Of the focal lengths across and down, in pixels of the maps: pictures have square pixels, and are resized to
    whole patches. None: as predicted."""
    principal_point_scale: float = 0.5
    """Pixels, of the loss: the principal point may move in rounds with this one and smaller."""
    largest_shift: float = 0.1
    """Of the longer side: how far from the middle the principal point may be."""
    noise: float = 0.0005
    """Of the longer side: how far off tracks are seen that fit exactly."""
    significance: float = 2.0
    """The lens stays as predicted unless another makes the tracks likelier by so many standard errors: a camera that
    hardly moves does not tell it."""
    least_gain: float = 0.05
    """Of log likelihood: so much likelier cameras that only turn must be with another focal length, too. Where they
    hardly turn, the lens's own distortion says more of it than the truth."""
    seed: int = 0


@dataclass(frozen=True)
class LocatedTracks:
    """Tracks, and how deep the scene says that each is where it was first seen."""

    tracks: FeatureTracks
    frames: Int[Tensor, " track"]
    depths: Float[Tensor, " track"]

    def points(self, cameras: Cameras) -> Float[Tensor, "track 3"]:
        """The world points at those pixels and depths of `cameras`."""
        pixels = self.tracks.pixels[self.frames, torch.arange(len(self.frames))]
        in_camera = unproject(pixels[:, None], self.depths[:, None], cameras.intrinsics[self.frames])
        return transform_points(cameras.world_from_cam[self.frames], in_camera)[:, 0]

    def depths_of(self, points: Float[Tensor, "track 3"], cameras: Cameras) -> Float[Tensor, " track"]:
        """How deep any points are for those cameras."""
        cam_from_world = cameras.cam_from_world[self.frames].to(points)
        return transform_points(cam_from_world, points[:, None])[:, 0, 2]

    def take(self, chosen: Tensor) -> "LocatedTracks":
        """Some of the tracks."""
        return LocatedTracks(select_tracks(self.tracks, chosen), self.frames[chosen], self.depths[chosen])


def locate_tracks(scene: Scene, tracks: FeatureTracks) -> tuple[LocatedTracks, Bool[Tensor, " track"]]:
    """Every track with the scene's depth in the first frame that knows it, and where there is one."""
    height, width = scene.size
    inside = (tracks.pixels >= 0).all(dim=-1) & (tracks.pixels < tracks.pixels.new_tensor([width, height])).all(dim=-1)
    row, column = rows_and_columns(tracks.pixels, scene.size)
    frame = torch.arange(scene.num_frames)[:, None]
    depths = scene.depths[frame, row, column]
    known = (tracks.visibility > 0) & inside & (scene.depth_confidence[frame, row, column] > 0) & (depths > 0)
    # One frame's depth, the first that knows it: its errors are smooth, and cameras can agree with it as a whole.
    first = known.int().argmax(dim=0)
    return LocatedTracks(tracks, first, depths.gather(0, first[None])[0]), known.any(dim=0)


@dataclass(frozen=True)
class CameraHypothesis:
    """Cameras that may be better than the predicted ones."""

    cameras: Cameras
    keeps_lens: bool
    """Whether all frames have the mean of the predicted intrinsics."""


LENSES: tuple[FreeLens, ...] = ("kept", "focal length", "whole")

Start = Callable[[Scene, LocatedTracks, RefineConfig], tuple[Cameras, Float[Tensor, "track 3"]]]
"""Cameras and points to adjust from. Raises ``ValueError`` where there are none."""


def starts(config: RefineConfig) -> tuple[Start, ...]:
    """The network's cameras; those that the mapper finds; and where it may choose a lens, those with the network's.

    A lens that fits the tracks nearly as well as the true one, with other cameras, is where the mapper goes wrong.
    """
    return (_predicted, _mapped, _mapped_with_lens) if config.finds_lens else (_predicted, _mapped_with_lens)


def hypotheses(
    start: Start, scene: Scene, fitted: LocatedTracks, config: RefineConfig
) -> Iterator[CameraHypothesis | str]:
    """Cameras adjusted from a start, with the lens as it was and with others; or why there are none."""
    try:
        cameras, points = start(scene, fitted, config)
    except ValueError as error:
        yield str(error)
        return
    for lens in LENSES if config.finds_lens else LENSES[:1]:
        try:
            adjusted, is_firm = _adjusted(cameras, points, fitted, scene.size, lens, config)
        except ValueError as error:
            yield str(error)
            continue
        keeps_lens = lens == "kept" and start is not _mapped
        yield CameraHypothesis(_loose_beside_firm(adjusted, scene.cameras, is_firm), keeps_lens)


def rotation_only_hypotheses(scene: Scene, fitted: LocatedTracks, config: RefineConfig) -> Iterator[CameraHypothesis]:
    """Cameras that only turn, with focal lengths as they were and with others."""
    is_firm = firm_frames(fitted.tracks.visibility > 0, config.least_links)
    for lens in LENSES[:2] if config.finds_lens else LENSES[:1]:
        turned = rotation_only_cameras(scene.cameras, fitted.tracks, scene.size, lens != "kept", config.loss_scales)
        yield CameraHypothesis(_loose_beside_firm(turned, scene.cameras, is_firm), keeps_lens=lens == "kept")


def _predicted(scene: Scene, fitted: LocatedTracks, config: RefineConfig) -> tuple[Cameras, Float[Tensor, "track 3"]]:
    """The network's cameras, turned toward the points where the scene's depth has them."""
    points = fitted.points(scene.cameras)
    still = torch.zeros(len(points), dtype=torch.bool)
    problem = Problem(scene.cameras, fitted.tracks, points, scene.size, config.loss_scales[0])
    return adjust(problem, still).cameras, points


def _mapped(
    scene: Scene, fitted: LocatedTracks, config: RefineConfig, keeps_lens: bool = False
) -> tuple[Cameras, Float[Tensor, "track 3"]]:
    """The cameras that COLMAP's mapper finds without any start. Raises ``ValueError`` where it places not all."""
    mapped = map_tracks(scene.cameras, fitted.tracks, scene.size, config.seed, keeps_lens)
    if not mapped.world_from_cam.isfinite().all():
        raise ValueError("COLMAP's mapper could not place all frames")
    if keeps_lens:
        mapped = replace(mapped, intrinsics=scene.cameras.intrinsics)
    cameras = mapped.transformed(scene.cameras.world_from_cam[0] @ invert(mapped.world_from_cam[0]))
    problem = Problem(cameras, fitted.tracks, fitted.points(cameras), scene.size, config.loss_scales[0])
    return cameras, adjust_points(problem)


def _mapped_with_lens(
    scene: Scene, fitted: LocatedTracks, config: RefineConfig
) -> tuple[Cameras, Float[Tensor, "track 3"]]:
    """The same with the lens of the scene, predicted or known."""
    return _mapped(scene, fitted, config, keeps_lens=True)


def _adjusted(
    cameras: Cameras,
    points: Float[Tensor, "track 3"],
    fitted: LocatedTracks,
    size: tuple[int, int],
    lens: FreeLens,
    config: RefineConfig,
) -> tuple[Cameras, Bool[Tensor, " time"]]:
    """Round after round, each without what the one before could not explain; lengths are those of the scene again.

    Answers which cameras the tracks hold firmly, too.

    Points move too, where enough of them are seen under some parallax; the others are left out, since nothing would
    hold them in place. Where there is too little parallax, as before a still camera, all points stay where the depth
    has them, and so do focal lengths.
    """
    moves = parallax(cameras, fitted.tracks, points) >= config.least_parallax
    is_free = int(moves.sum()) >= max(config.least_tracks, config.least_parallax_share * len(moves))
    if lens != "kept" and not is_free:
        raise ValueError("too little parallax to tell the lens")
    if is_free:
        fitted, points = fitted.take(moves.nonzero()[:, 0]), points[moves]
    for loss_scale in config.loss_scales:
        problem = Problem(cameras, fitted.tracks, points, size, loss_scale)
        free = "focal length" if lens == "whole" and loss_scale > config.principal_point_scale else lens
        adjusted = adjust(problem, torch.full((len(points),), is_free), free)
        distance, seen = residuals(adjusted.cameras, fitted.tracks, adjusted.points)
        seen = seen & (distance <= max(config.largest_residual * max(size), 2 * loss_scale))
        kept = seen.sum(dim=0) >= config.least_frames
        if int(kept.sum()) < config.least_tracks // 2:
            raise ValueError(f"only {int(kept.sum())} of {len(points)} tracks fit any cameras")
        pruned = FeatureTracks(fitted.tracks.pixels, fitted.tracks.visibility * seen)
        fitted = replace(fitted, tracks=pruned).take(kept.nonzero()[:, 0])
        cameras, points = adjusted.cameras, adjusted.points[kept]
    if lens != "kept":
        _check_lens(cameras, size, config)
    ratio = fitted.depths / fitted.depths_of(points, cameras)
    origin = cameras.centers[0]
    world_from_cam = cameras.world_from_cam.clone()
    world_from_cam[:, :3, 3] = origin + ratio.median() * (world_from_cam[:, :3, 3] - origin)
    return replace(cameras, world_from_cam=world_from_cam), firm_frames(
        fitted.tracks.visibility > 0, config.least_links
    )


def _check_lens(cameras: Cameras, size: tuple[int, int], config: RefineConfig) -> None:
    """Raises ``ValueError`` where a lens is not plausible."""
    angle = float(field_of_view(cameras.intrinsics, *size).amax().rad2deg())
    if not PLAUSIBLE_ANGLES[0] <= angle <= PLAUSIBLE_ANGLES[1]:
        raise ValueError(f"a field of view of {angle:.0f} degrees is hardly true")
    height, width = size
    shift = float((cameras.intrinsics[:, :2, 2] - torch.tensor([width / 2, height / 2])).norm(dim=-1).amax())
    if shift > config.largest_shift * max(size):
        raise ValueError(f"a principal point {shift:.0f} pixels from the middle is hardly true")


def firm_frames(seen: Bool[Tensor, "time track"], least_links: int) -> Bool[Tensor, " time"]:
    """The largest group of frames of which each shares at least so many tracks with another one."""
    links = (seen.double() @ seen.double().T >= least_links) | torch.eye(len(seen), dtype=torch.bool)
    for _ in range(len(seen).bit_length()):
        links = (links.double() @ links.double()) > 0  # twice as far each time
    return links[links.sum(dim=1).argmax()]


def _loose_beside_firm(cameras: Cameras, predicted: Cameras, is_firm: Bool[Tensor, " time"]) -> Cameras:
    """Cameras that no tracks hold, where they were predicted beside the nearest frame that is held; the first stays."""
    if is_firm.all():
        return cameras
    old = predicted.world_from_cam.to(cameras.world_from_cam)
    placed = replace(cameras, world_from_cam=given_or_beside(old, cameras.world_from_cam, is_firm))
    return placed.transformed(old[0] @ invert(placed.world_from_cam[0]))


def select_tracks(tracks: FeatureTracks, chosen: Tensor) -> FeatureTracks:
    return FeatureTracks(tracks.pixels[:, chosen], tracks.visibility[:, chosen])
