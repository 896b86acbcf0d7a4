"""Cameras that only rotate: the simplest explanation of tracks, under which nothing determines depth.

Two images from the same center are related by rotation and intrinsics alone (Hartley 1994, "Self-calibration from
multiple views with a rotating camera"): every track is one direction in the world. Rotations, one focal length and all
directions are estimated jointly by Gauss-Newton. The directions are eliminated from the normal equations with the Schur
complement, as points are in bundle adjustment (Triggs et al. 2000, "Bundle Adjustment -- A Modern Synthesis", 6.1).
`scipy.optimize.least_squares` cannot eliminate them: its iterative solver does not converge on this problem.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    field_of_view,
    project,
    rigid,
    rotation_from_axis_angle,
    unproject,
)
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.colmap_models import PLAUSIBLE_FIELD_OF_VIEW

MAX_STEPS = 12
"""Largest number of Gauss-Newton steps for each loss scale. Hand-tuned."""
MAX_ZOOM = 0.3
"""Largest change of the log focal length in one step: first steps are outside the range of the linearization.
Hand-tuned."""
CONVERGENCE = 1e-5
"""Steps of rotations (in radians) and log focal length below this are the last. Hand-tuned."""
DAMPING = 1e-9
"""Damping relative to the mean of a matrix's diagonal, so that a frame without tracks does not rotate. Hand-tuned."""


def rotation_only_cameras(
    cameras: Cameras,
    tracks: FeatureTracks,
    size: tuple[int, int],
    refine_focal_length: bool,
    loss_scales: Sequence[float],
) -> Cameras:
    """Fit cameras that rotate about the center of the first one to tracks.

    Args:
        cameras: Initial cameras. All frames share their mean intrinsics.
        tracks: Tracks through all frames, in pixels; each is observed in at least one frame.
        size: Height and width of the maps that pixels and intrinsics refer to.
        refine_focal_length: Whether a shared focal length is estimated, within `PLAUSIBLE_FIELD_OF_VIEW`.
        loss_scales: Scales of the Cauchy loss in pixels, one round each.

    Returns:
        Float64 cameras in the world of `cameras`; the pose of the first one is unchanged.
    """
    state = _initial_state(cameras, tracks)
    angle = float(field_of_view(state.intrinsics, *size).amax())
    widest, longest = (
        math.tan(angle / 2) / math.tan(math.radians(limit) / 2) for limit in reversed(PLAUSIBLE_FIELD_OF_VIEW)
    )
    lower, upper = (math.log(widest), math.log(longest)) if refine_focal_length else (0.0, 0.0)
    total_zoom = 0.0
    for loss_scale in loss_scales:
        for _ in range(MAX_STEPS):
            step = _gauss_newton_step(state, tracks, loss_scale, lower < upper)
            if not lower <= total_zoom + float(step.zoom) <= upper:
                lower = upper = total_zoom  # at the limit of plausible focal lengths: continue with rotations only
                continue
            state, total_zoom = state.after(step), total_zoom + float(step.zoom)
            if max(abs(float(step.zoom)), float(step.rotations.abs().max())) < CONVERGENCE:
                break
    centers = cameras.centers[:1].double().expand(len(tracks.visibility), 3)
    intrinsics = state.intrinsics.expand(len(tracks.visibility), 3, 3)
    return Cameras(rigid(state.world_from_cam, centers), intrinsics)


@dataclass(frozen=True)
class _Step:
    """A change of the state."""

    rotations: Float[Tensor, "time 3"]
    """Axis-angle rotations about the axes of each camera, in radians."""
    zoom: Float[Tensor, ""]
    """Change of the log focal length."""
    shifts: Float[Tensor, "track 2"]
    """Change of each direction along two axes orthogonal to it."""


@dataclass(frozen=True)
class _State:
    """The unknowns: rotations and shared intrinsics of the cameras, and the direction of each track in the world."""

    world_from_cam: Float[Tensor, "time 3 3"]
    intrinsics: Float[Tensor, "3 3"]
    directions: Float[Tensor, "track 3"]

    def after(self, step: _Step) -> "_State":
        return _State(
            self.world_from_cam @ rotation_from_axis_angle(step.rotations),
            self.intrinsics * torch.stack([step.zoom, step.zoom, torch.zeros_like(step.zoom)]).exp(),
            F.normalize(
                self.directions + (_orthogonal_basis(self.directions) @ step.shifts[..., None])[..., 0], dim=-1
            ),
        )

    def pixels(self) -> Float[Tensor, "time track 2"]:
        in_camera = torch.einsum("tji,kj->tki", self.world_from_cam, self.directions)
        return project(in_camera, self.intrinsics.expand(len(in_camera), 3, 3))


def _initial_state(cameras: Cameras, tracks: FeatureTracks) -> _State:
    """Take the rotations of `cameras`, and the mean of the directions in which they observe each track."""
    world_from_cam = cameras.world_from_cam[:, :3, :3].double()
    intrinsics = cameras.intrinsics.double().mean(dim=0)
    pixels = tracks.pixels.double()
    rays = unproject(pixels, torch.ones_like(pixels[..., 0]), intrinsics.expand(len(pixels), 3, 3))
    in_world = F.normalize(rays, dim=-1) @ world_from_cam.transpose(1, 2)
    directions = (in_world * (tracks.visibility > 0)[..., None]).sum(dim=0)
    return _State(world_from_cam, intrinsics, F.normalize(directions, dim=-1))


def _jacobian(state: _State) -> Float[Tensor, "six time track 2"]:
    """Differentiate all pixels by the 3 rotations of their frame, the zoom, and the 2 shifts of their track."""
    in_camera = torch.einsum("tji,kj->tki", state.world_from_cam, state.directions)
    focal_lengths, depths = state.intrinsics.diagonal()[:2], in_camera[..., 2:]
    normalized = in_camera[..., :2] / depths
    # A rotation by the axis-angle vector a changes y = in_camera by the cross product of y and a.
    by_rotation = torch.linalg.cross(
        in_camera[None], torch.eye(3).to(in_camera)[:, None, None].expand(3, *in_camera.shape)
    )
    by_shift = torch.einsum("tji,kjs->stki", state.world_from_cam, _orthogonal_basis(state.directions))
    by_point = torch.cat([by_rotation, by_shift])
    pixels = focal_lengths * (by_point[..., :2] - normalized * by_point[..., 2:]) / depths
    by_zoom = focal_lengths * normalized
    return torch.cat([pixels[:3], by_zoom[None], pixels[3:]])


def _orthogonal_basis(directions: Float[Tensor, "track 3"]) -> Float[Tensor, "track 3 2"]:
    """Compute two unit vectors that are orthogonal to each direction and to each other."""
    smallest = F.one_hot(directions.abs().argmin(dim=-1), 3).to(directions)
    first = F.normalize(torch.linalg.cross(directions, smallest), dim=-1)
    return torch.stack([first, torch.linalg.cross(directions, first)], dim=-1)


def _gauss_newton_step(state: _State, tracks: FeatureTracks, loss_scale: float, refine_zoom: bool) -> _Step:
    """Solve the linearized, reweighted least squares problem; the first camera does not rotate."""
    jacobian, error = _jacobian(state), tracks.pixels.double() - state.pixels()
    weights = (tracks.visibility > 0) / (1 + error.square().sum(dim=-1) / loss_scale**2)
    jacobian, error = jacobian * weights.sqrt()[..., None], error * weights.sqrt()[..., None]
    by_rotation, by_zoom, by_shift = jacobian[:3], jacobian[3], jacobian[4:]

    rotations = torch.block_diag(*torch.einsum("atkx,btkx->tab", by_rotation, by_rotation))
    rotations_zoom = torch.einsum("atkx,tkx->ta", by_rotation, by_zoom).flatten()[:, None]
    cameras = torch.cat(
        [torch.cat([rotations, rotations_zoom], 1), torch.cat([rotations_zoom.T, _dot(by_zoom, by_zoom)], 1)]
    )
    cameras_right = torch.cat([torch.einsum("atkx,tkx->ta", by_rotation, error).flatten(), _dot(by_zoom, error)[0]])
    rotation_shift = torch.einsum("atkx,btkx->ktab", by_rotation, by_shift).flatten(1, 2)
    zoom_shift = torch.einsum("tkx,btkx->kb", by_zoom, by_shift)[:, None]
    mixed = torch.cat([rotation_shift, zoom_shift], dim=1)
    tracks_own = _damped(torch.einsum("atkx,btkx->kab", by_shift, by_shift))
    tracks_right = torch.einsum("atkx,tkx->ka", by_shift, error)

    # Schur complement: solve for the cameras first, then for each track.
    eliminated = torch.linalg.solve(tracks_own, mixed.transpose(1, 2))
    reduced = cameras - torch.einsum("kca,kad->cd", mixed, eliminated)
    reduced_right = cameras_right - torch.einsum("kac,ka->c", eliminated, tracks_right)
    free = torch.arange(3, len(cameras_right) - 1 + int(refine_zoom))
    solution = torch.zeros_like(cameras_right)
    solution[free] = torch.linalg.solve(_damped(reduced[free][:, free]), reduced_right[free])
    shifts = torch.linalg.solve(tracks_own, tracks_right - torch.einsum("kca,c->ka", mixed, solution))
    return _Step(solution[:-1].unflatten(0, (-1, 3)), solution[-1].clamp(-MAX_ZOOM, MAX_ZOOM), shifts)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "1 1"]:
    return (a * b).sum()[None, None]


def _damped(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    smallest = torch.finfo(matrices.dtype).tiny
    return matrices + torch.diag_embed((DAMPING * diagonal.mean(dim=-1, keepdim=True) + smallest).expand_as(diagonal))
