"""Bundle adjustment of one camera against fixed cameras: its pose, its focal length and the points that it shares.

Points from the depth of a single frame are too inaccurate to fix a camera. Each point is therefore free: its positions
in the pictures of the scene, whose cameras are exact, and its depth there, with the assumed error, determine it
together with its position in the new picture. Points are eliminated from the normal equations (Schur complement), whose
inverse is the covariance of the camera.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import rotation_from_axis_angle

MAX_STEPS = 30
"""Largest number of Levenberg-Marquardt steps. Hand-tuned."""
LOSS_WIDTH = 2.0
"""Residual in standard deviations at which the weight of an observation is one half (Cauchy loss). Hand-tuned."""
MIN_DEPTH = 1e-6
"""Smallest depth in the projection, so that points behind a camera have finite residuals."""


@dataclass(frozen=True)
class PointObservations:
    """Points that the new picture shares with the scene. All values are in float64."""

    features: Int[Tensor, " point"]
    """Feature of the new picture that shows each point."""
    query_pixels: Float[Tensor, "point 2"]
    """Position of each point in the new picture."""
    pixel_error: float
    """Standard deviation of positions in the new picture."""
    points: Int[Tensor, " observation"]
    """Point of each observation in a picture of the scene."""
    view: Int[Tensor, " observation"]
    """Picture of the scene."""
    pixels: Float[Tensor, "observation 2"]
    """Position in that picture."""
    pixel_errors: Float[Tensor, " observation"]
    """Standard deviation of the position."""
    cam_from_world: Float[Tensor, "observation 4 4"]
    """Pose of its camera."""
    intrinsics: Float[Tensor, "observation 3 3"]
    """Intrinsics of its camera."""
    log_depths: Float[Tensor, " observation"]
    """Logarithm of the depth of the point there."""
    depth_errors: Float[Tensor, " observation"]
    """Standard deviation of that logarithm."""

    def take(
        self, kept: Bool[Tensor, " observation"], points: Int[Tensor, " kept"], index: Int[Tensor, " taken"]
    ) -> "PointObservations":
        """Select observations and points.

        Args:
            kept: Observations to keep.
            points: Points to keep.
            index: Position in `points` of the point of each kept observation.

        Returns:
            The selected observations.
        """
        return PointObservations(
            self.features[points],
            self.query_pixels[points],
            self.pixel_error,
            index,
            self.view[kept],
            self.pixels[kept],
            self.pixel_errors[kept],
            self.cam_from_world[kept],
            self.intrinsics[kept],
            self.log_depths[kept],
            self.depth_errors[kept],
        )


@dataclass(frozen=True)
class AdjustedCamera:
    """A camera, the points that it sees, and how well they determine it. All values are in float64."""

    rotation: Float[Tensor, "3 3"]
    """Rotation from world to camera."""
    center: Float[Tensor, "3"]
    """Optical center in the world."""
    log_focal: float
    """Logarithm of the ratio of the focal length to that of `intrinsics`."""
    intrinsics: Float[Tensor, "3 3"]
    """Initial intrinsics."""
    points: Float[Tensor, "point 3"]
    """World points."""
    cost: float = math.inf
    """Half the sum of robust squared residuals, in multiples of the standard deviations."""
    covariance: Float[Tensor, "7 7"] | None = None
    """Covariance of the rotation (axis-angle in the camera), the center and `log_focal`; None before adjustment."""

    @property
    def current_intrinsics(self) -> Float[Tensor, "3 3"]:
        """Intrinsics with the adjusted focal length."""
        focal = math.exp(self.log_focal)
        return self.intrinsics * self.intrinsics.new_tensor([[focal, focal, 1.0], [1.0, focal, 1.0], [1.0, 1.0, 1.0]])

    def project(self) -> tuple[Float[Tensor, "point 2"], Float[Tensor, " point"]]:
        """Project the points.

        Returns:
            Pixels, and depths in the frame of the camera.
        """
        in_camera = (self.points - self.center) @ self.rotation.T
        return _pixels(in_camera, self.current_intrinsics), in_camera[:, 2]


def adjust_camera(camera: AdjustedCamera, observations: PointObservations, focal_error: float) -> AdjustedCamera:
    """Minimize the residuals of all observations over the camera and the points.

    Args:
        camera: Initial camera and points.
        observations: Observations of the points.
        focal_error: Standard deviation of the logarithm of the focal length around the initial one; 0 keeps it.

    Returns:
        The adjusted camera with its cost and covariance. The covariance is scaled by the variance of the residuals if
        they are larger than assumed.
    """
    damping = 1e-4
    system = _NormalEquations(camera, observations, focal_error)
    camera = replace(camera, cost=system.cost)
    for _ in range(MAX_STEPS):
        changed = system.step(camera, damping)
        proposed = _NormalEquations(changed, observations, focal_error)
        if proposed.cost < camera.cost:
            converged = camera.cost - proposed.cost < 1e-9 * camera.cost
            camera, system, damping = replace(changed, cost=proposed.cost), proposed, max(damping / 10, 1e-9)
            if converged:
                break
        elif damping > 1e6:
            break
        else:
            damping *= 10
    return replace(camera, covariance=system.covariance())


class _NormalEquations:
    """Gauss-Newton approximation of the cost around a camera and its points."""

    def __init__(self, camera: AdjustedCamera, observations: PointObservations, focal_error: float) -> None:
        count = len(camera.points)
        self._has_focal = focal_error > 0
        query = _query_residuals(camera, observations)
        scene = _scene_residuals(camera, observations)
        own_weights, weights = (_weights(one[0]) for one in (query, scene))
        residuals, camera_rows, point_rows = query
        weighted = own_weights[:, None, None] * point_rows
        self.points = weighted.mT @ point_rows
        self.point_gradient = (weighted.mT @ residuals[..., None])[..., 0]
        self.cross = (own_weights[:, None, None] * camera_rows).mT @ point_rows
        self.camera = torch.einsum("nki,nkj->ij", own_weights[:, None, None] * camera_rows, camera_rows)
        self.camera_gradient = torch.einsum("nki,nk->i", own_weights[:, None, None] * camera_rows, residuals)
        scene_residuals, scene_rows = scene
        weighted = weights[:, None, None] * scene_rows
        self.points = self.points.index_add(0, observations.points, weighted.mT @ scene_rows)
        gradient = (weighted.mT @ scene_residuals[..., None])[..., 0]
        self.point_gradient = self.point_gradient.index_add(0, observations.points, gradient)
        self.cost = _cost(residuals) + _cost(scene_residuals)
        num_residuals = float(2 * own_weights.sum() + 3 * weights.sum())
        self._degrees_of_freedom = max(1.0, num_residuals - 3 * count - 6 - self._has_focal)
        squares = (own_weights * residuals.square().sum(-1)).sum() + (weights * scene_residuals.square().sum(-1)).sum()
        self._squares = float(squares)
        if self._has_focal:
            self.camera[6, 6] += focal_error**-2
            self.camera_gradient[6] += camera.log_focal * focal_error**-2
            self.cost += 0.5 * (camera.log_focal / focal_error) ** 2

    def step(self, camera: AdjustedCamera, damping: float) -> AdjustedCamera:
        """Return the camera and points after one damped step."""
        identity = torch.eye(3).to(self.points)
        damped = self.points + damping * self.points.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * identity
        reduced, eliminated = self._reduced(damped)
        reduced = reduced + damping * torch.diag(reduced.diagonal())
        gradient = self.camera_gradient - torch.einsum("nij,nj->i", eliminated, self.point_gradient)
        used = slice(0, 7 if self._has_focal else 6)
        delta = torch.zeros(7).to(gradient)
        delta[used] = -torch.linalg.solve(reduced[used, used], gradient[used])
        moves = -torch.linalg.solve(damped, (self.point_gradient + delta @ self.cross)[..., None])[..., 0]
        return replace(
            camera,
            rotation=rotation_from_axis_angle(delta[:3]) @ camera.rotation,
            center=camera.center + delta[3:6],
            log_focal=camera.log_focal + float(delta[6]),
            points=camera.points + moves,
        )

    def covariance(self) -> Float[Tensor, "7 7"]:
        """Return the covariance of rotation, center and focal length."""
        reduced, _ = self._reduced(self.points)
        used = slice(0, 7 if self._has_focal else 6)
        covariance = torch.zeros(7, 7).to(reduced)
        covariance[used, used] = torch.linalg.pinv(reduced[used, used], hermitian=True)
        return covariance * max(1.0, self._squares / self._degrees_of_freedom)

    def _reduced(self, points: Float[Tensor, "point 3 3"]) -> tuple[Tensor, Tensor]:
        """Return the Schur complement of the points, and the product that eliminates them."""
        eliminated = torch.linalg.solve(points, self.cross.mT).mT
        return self.camera - torch.einsum("nij,nkj->ik", eliminated, self.cross), eliminated


def _query_residuals(camera: AdjustedCamera, observations: PointObservations) -> tuple[Tensor, Tensor, Tensor]:
    """Return residuals (point, 2), and derivatives by the camera (point, 2, 7) and by the point (point, 2, 3)."""
    in_camera = (camera.points - camera.center) @ camera.rotation.T
    intrinsics = camera.current_intrinsics
    by_point = _projection_derivative(in_camera, intrinsics)
    pixels = _pixels(in_camera, intrinsics)
    by_rotation = -by_point @ _cross_matrices(in_camera)
    by_world = by_point @ camera.rotation
    by_focal = (pixels - intrinsics[:2, 2])[..., None]
    scale = 1 / observations.pixel_error
    rows = torch.cat([by_rotation, -by_world, by_focal], dim=-1)
    return scale * (pixels - observations.query_pixels), scale * rows, scale * by_world


def _scene_residuals(camera: AdjustedCamera, observations: PointObservations) -> tuple[Tensor, Tensor]:
    """Return residuals (observation, 3) of pixels and log depth, and derivatives by the point (observation, 3, 3)."""
    rotation = observations.cam_from_world[:, :3, :3]
    points = camera.points[observations.points]
    in_camera = (rotation @ points[..., None])[..., 0] + observations.cam_from_world[:, :3, 3]
    pixels = _pixels(in_camera, observations.intrinsics)
    derivative = _projection_derivative(in_camera, observations.intrinsics) @ rotation
    depths = in_camera[:, 2].clamp(min=MIN_DEPTH)
    log_errors = (depths.log() - observations.log_depths) / observations.depth_errors
    by_depth = rotation[:, 2] / (depths * observations.depth_errors)[:, None]
    scales = 1 / observations.pixel_errors
    residuals = torch.cat([scales[:, None] * (pixels - observations.pixels), log_errors[:, None]], dim=1)
    return residuals, torch.cat([scales[:, None, None] * derivative, by_depth[:, None]], dim=1)


def _pixels(in_camera: Float[Tensor, "n 3"], intrinsics: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "n 2"]:
    projected = (intrinsics @ in_camera[..., None])[..., 0]
    return projected[:, :2] / projected[:, 2:].clamp(min=MIN_DEPTH)


def _projection_derivative(
    in_camera: Float[Tensor, "n 3"], intrinsics: Float[Tensor, "*shape 3 3"]
) -> Float[Tensor, "n 2 3"]:
    inverse = 1 / in_camera[:, 2].clamp(min=MIN_DEPTH)
    directions = torch.zeros(len(in_camera), 2, 3).to(in_camera)
    directions[:, 0, 0] = directions[:, 1, 1] = inverse
    directions[:, :, 2] = -in_camera[:, :2] * inverse[:, None].square()
    return intrinsics[..., :2, :2] @ directions


def _cross_matrices(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)


def _weights(residuals: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    return 1 / (1 + residuals.square().sum(dim=1) / LOSS_WIDTH**2)


def _cost(residuals: Float[Tensor, "n k"]) -> float:
    squares = residuals.square().sum(dim=1)
    return 0.5 * float((LOSS_WIDTH**2 * (squares / LOSS_WIDTH**2).log1p()).sum())
