"""Cameras that turn on the spot: the simplest that tracks may show, and then no parallax tells any depth.

Two pictures from one place are related by rotation and lens alone (Hartley 1994, "Self-calibration from multiple views
with a rotating camera"): every track is one direction, and frames only turn and magnify it. The rotations, one focal
length and the directions follow from all tracks together by Gauss-Newton; directions are eliminated from its normal
equations as points are in bundle adjustment (Triggs et al. 2000, section 6.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from recon4d.geometry import (
    field_of_view,
    project,
    rigid,
    rotation_from_axis_angle,
    unproject,
)
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.colmap_models import PLAUSIBLE_ANGLES

MOST_STEPS = 12
"""Of Gauss-Newton for each loss scale."""
LONGEST_ZOOM = 0.3
"""Of log focal length in one step: the first are taken far from where pictures are linear in it."""
SMALLEST_STEP = 1e-5
"""Radians, and log focal length: a smaller step is the last."""
DAMPING = 1e-9
"""Of the mean of a diagonal, added to it: a frame without tracks stays as it is."""


def rotation_only_cameras(
    cameras: Cameras,
    tracks: FeatureTracks,
    size: tuple[int, int],
    refine_focal_length: bool,
    loss_scales: Sequence[float],
) -> Cameras:
    """The cameras that turn about the first one's center and fit `tracks` best, from a start and in its world; float64.

    All frames have the mean intrinsics of `cameras`; where asked for, another focal length is found for all of them, as
    long as a lens plausibly is. Residuals beyond `loss_scales` pixels of maps of `size` count less and less (Cauchy),
    round by round. Every track must be seen somewhere.
    """
    turning = _start(cameras, tracks)
    angle = float(field_of_view(turning.intrinsics, *size).amax())
    widest, longest = (math.tan(angle / 2) / math.tan(math.radians(limit) / 2) for limit in reversed(PLAUSIBLE_ANGLES))
    least, most = (math.log(widest), math.log(longest)) if refine_focal_length else (0.0, 0.0)
    zoomed = 0.0
    for loss_scale in loss_scales:
        for _ in range(MOST_STEPS):
            step = _gauss_newton_step(turning, tracks, loss_scale, least < most)
            if not least <= zoomed + float(step.zoom) <= most:
                least = most = zoomed  # at the last lens that is plausible: from here on cameras turn alone
                continue
            turning, zoomed = turning.after(step), zoomed + float(step.zoom)
            if max(abs(float(step.zoom)), float(step.turns.abs().max())) < SMALLEST_STEP:
                break
    centers = cameras.centers[:1].double().expand(len(tracks.visibility), 3)
    intrinsics = turning.intrinsics.expand(len(tracks.visibility), 3, 3)
    return Cameras(rigid(turning.world_from_cam, centers), intrinsics)


@dataclass(frozen=True)
class _Step:
    turns: Float[Tensor, "time 3"]
    """Radians about the axes of each camera."""
    zoom: Float[Tensor, ""]
    """Of log focal length."""
    shifts: Float[Tensor, "track 2"]
    """Of each direction along two axes across it."""

    @classmethod
    def none(cls, num_frames: int, num_tracks: int) -> "_Step":
        sizes = (num_frames, 3), (), (num_tracks, 2)
        return cls(*(torch.zeros(size, dtype=torch.float64) for size in sizes))


@dataclass(frozen=True)
class _Turning:
    """What is looked for: how cameras of one center turn, their lens, and the direction of each track in the world."""

    world_from_cam: Float[Tensor, "time 3 3"]
    intrinsics: Float[Tensor, "3 3"]
    directions: Float[Tensor, "track 3"]

    def after(self, step: _Step) -> "_Turning":
        across = torch.linalg.svd(self.directions[:, None])[2][:, 1:]
        return _Turning(
            self.world_from_cam @ rotation_from_axis_angle(step.turns),
            self.intrinsics * torch.stack([step.zoom, step.zoom, torch.zeros_like(step.zoom)]).exp(),
            F.normalize(self.directions + (step.shifts[:, None] @ across)[:, 0], dim=-1),
        )

    def pixels(self) -> Float[Tensor, "time track 2"]:
        in_camera = torch.einsum("tji,kj->tki", self.world_from_cam, self.directions)
        return project(in_camera, self.intrinsics.expand(len(in_camera), 3, 3))


def _start(cameras: Cameras, tracks: FeatureTracks) -> _Turning:
    """As `cameras` turn; every track lies in the mean of the directions in which they see it."""
    world_from_cam = cameras.world_from_cam[:, :3, :3].double()
    intrinsics = cameras.intrinsics.double().mean(dim=0)
    pixels = tracks.pixels.double()
    rays = unproject(pixels, torch.ones_like(pixels[..., 0]), intrinsics.expand(len(pixels), 3, 3))
    in_world = F.normalize(rays, dim=-1) @ world_from_cam.transpose(1, 2)
    directions = (in_world * (tracks.visibility > 0)[..., None]).sum(dim=0)
    return _Turning(world_from_cam, intrinsics, F.normalize(directions, dim=-1))


def _slopes(turning: _Turning) -> Float[Tensor, "six time track 2"]:
    """How pixels change with the three turns of their frame, with the zoom, and with the two shifts of their track.

    A pixel depends on its own frame and track alone, so that each derivative is taken for all of them at once.
    """
    none = _Step.none(len(turning.world_from_cam), len(turning.directions))
    one = torch.ones_like(none.zoom)
    ways = [_Step(none.turns + axis, none.zoom, none.shifts) for axis in torch.eye(3).double()]
    ways += [_Step(none.turns, one, none.shifts)]
    ways += [_Step(none.turns, none.zoom, none.shifts + axis) for axis in torch.eye(2).double()]

    def pixels(turns: Tensor, zoom: Tensor, shifts: Tensor) -> Tensor:
        return turning.after(_Step(turns, zoom, shifts)).pixels()

    at = (none.turns, none.zoom, none.shifts)
    return torch.stack([jvp(pixels, at, (way.turns, way.zoom, way.shifts))[1] for way in ways])


def _gauss_newton_step(turning: _Turning, tracks: FeatureTracks, loss_scale: float, zooms: bool) -> _Step:
    """The step to where pixels, linear in it, fit best; the first camera does not turn."""
    slopes, off = _slopes(turning), tracks.pixels.double() - turning.pixels()
    certain = (tracks.visibility > 0) / (1 + off.square().sum(dim=-1) / loss_scale**2)
    slopes, off = slopes * certain.sqrt()[..., None], off * certain.sqrt()[..., None]
    by_turn, by_zoom, by_shift = slopes[:3], slopes[3], slopes[4:]

    frames = torch.block_diag(*torch.einsum("atkx,btkx->tab", by_turn, by_turn))
    frames_zoom = torch.einsum("atkx,tkx->ta", by_turn, by_zoom).flatten()[:, None]
    cameras = torch.cat([torch.cat([frames, frames_zoom], 1), torch.cat([frames_zoom.T, _dot(by_zoom, by_zoom)], 1)])
    right = torch.cat([torch.einsum("atkx,tkx->ta", by_turn, off).flatten(), _dot(by_zoom, off)[0]])
    turn_shift = torch.einsum("atkx,btkx->ktab", by_turn, by_shift).flatten(1, 2)
    zoom_shift = torch.einsum("tkx,btkx->kb", by_zoom, by_shift)[:, None]
    mixed = torch.cat([turn_shift, zoom_shift], dim=1)
    own = _damped(torch.einsum("atkx,btkx->kab", by_shift, by_shift))
    own_right = torch.einsum("atkx,tkx->ka", by_shift, off)

    eliminated = torch.linalg.solve(own, mixed.transpose(1, 2))
    reduced = cameras - torch.einsum("kca,kad->cd", mixed, eliminated)
    reduced_right = right - torch.einsum("kac,ka->c", eliminated, own_right)
    free = torch.arange(3, len(right) - 1 + int(zooms))
    found = torch.zeros_like(right)
    found[free] = torch.linalg.solve(_damped(reduced[free][:, free]), reduced_right[free])
    shifts = torch.linalg.solve(own, own_right - torch.einsum("kca,c->ka", mixed, found))
    return _Step(found[:-1].unflatten(0, (-1, 3)), found[-1].clamp(-LONGEST_ZOOM, LONGEST_ZOOM), shifts)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "1 1"]:
    return (a * b).sum()[None, None]


def _damped(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    least = torch.finfo(matrices.dtype).tiny
    return matrices + torch.diag_embed((DAMPING * diagonal.mean(dim=-1, keepdim=True) + least).expand_as(diagonal))
