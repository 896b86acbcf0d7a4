"""Pose graph optimization over similarities (Sim(3)) between windows.

Reconstructions from a single camera drift in scale as well as in pose, so rigid pose graphs (as in Open3D) cannot close
their loops. The method follows Strasdat, Montiel and Davison, "Scale Drift-Aware Large Scale Monocular SLAM", RSS 2010:
Gauss-Newton over tangent vectors. Each step solves one sparse linear system, so the cost is linear in the number of
windows. `scipy.optimize.least_squares` has no direct sparse solver and is tens of times slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    invert,
    rotation_from_axis_angle,
    similarity,
    similarity_scale,
)
from recon4d.geometry.rotations import quaternion_from_rotation

MAX_STEPS = 50
"""Largest number of Gauss-Newton steps. Hand-tuned."""
CONVERGED = 1e-10
"""Largest component of the last step, in radians, log scale and units of length, at convergence."""


@dataclass(frozen=True)
class Edge:
    """A measured similarity between the worlds of two windows."""

    a: int
    """Number of the first window."""
    b: int
    """Number of the second window."""
    a_from_b: Float[Tensor, "4 4"]
    """Similarity transform (4, 4) in float64 from the world of window b to that of window a."""


def optimize_pose_graph(
    world_from_window: Float[Tensor, "window 4 4"], edges: Sequence[Edge], length: float
) -> Float[Tensor, "window 4 4"]:
    """Minimize the sum over edges of ||log(measured^-1 estimated)||^2; the first window is fixed.

    Args:
        world_from_window: Initial similarity transforms (window, 4, 4).
        edges: Measured similarities. They must connect all windows.
        length: Translation that has the same weight as a rotation by one radian or a scale factor of e, in the unit of
            the world.

    Returns:
        The optimized transforms (window, 4, 4) in float64.
    """
    assert length > 0
    first = [edge.a for edge in edges]
    second = [edge.b for edge in edges]
    measured = torch.stack([edge.a_from_b for edge in edges]).double()
    # In units of `length`, translations have the same weight as angles. Every window's own unit is converted as well.
    scales = similarity_scale(world_from_window.double())
    identity, origin = torch.eye(3).double(), torch.zeros(len(scales), 3).double()
    own_from_common = similarity(scales.reciprocal() * length, identity.expand(len(scales), 3, 3), origin)
    common_from_world = similarity(torch.tensor(1 / length).double(), identity, origin[0])
    estimate = common_from_world @ world_from_window.double() @ own_from_common
    measured = invert(own_from_common[first]) @ measured @ own_from_common[second]

    for _ in range(MAX_STEPS):
        step = _gauss_newton_step(estimate, first, second, measured)
        estimate = estimate @ similarity_from_tangent(step)
        if step.abs().max() < CONVERGED:
            break
    return invert(common_from_world) @ estimate @ invert(own_from_common)


def optimize_scales(
    edges: Sequence[tuple[int, int, float]],
    prior_log_scales: Float[Tensor, "window"],
    weights: Float[Tensor, "window"],
) -> Float[Tensor, "window"]:
    """Minimize the sum over edges of (x_b - x_a - d)^2 plus the sum over windows of w (x - prior)^2 over log scales x.

    Args:
        edges: Measured differences (a, b, d) of the log scales of windows a and b. They must connect all windows.
        prior_log_scales: Prior of each log scale (window); ignored if its weight is 0.
        weights: Weight of each prior (window) relative to weight 1 of an edge. At least one must be above 0.

    Returns:
        The log scales (window) in float64.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    assert float(weights.max()) > 0
    count, rows = len(prior_log_scales), np.arange(len(edges))
    first, second = (np.array([edge[k] for edge in edges], dtype=np.int64) for k in (0, 1))
    signs = np.concatenate([-np.ones(len(edges)), np.ones(len(edges))])
    indices = (np.concatenate([rows, rows]), np.concatenate([first, second]))
    differences = coo_matrix((signs, indices), shape=(len(edges), count)).tocsc()
    prior_weights = weights.double().numpy()
    diagonal = coo_matrix((prior_weights, (np.arange(count), np.arange(count))), shape=(count, count))
    right = differences.T @ np.array([edge[2] for edge in edges], dtype=np.float64)
    right = right + np.where(prior_weights > 0, prior_weights * prior_log_scales.double().numpy(), 0.0)
    left = (differences.T @ differences + diagonal).tocsc()
    return torch.from_numpy(np.asarray(spsolve(left, right)).reshape(count))


def similarity_from_tangent(tangent: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """Convert tangent vectors to similarities. Rotation and scale are exponentiated; the translation is used as it is.

    Args:
        tangent: Axis-angle rotation, translation and log scale (*batch, 7).

    Returns:
        Similarity transforms (*batch, 4, 4).
    """
    rotation = rotation_from_axis_angle(tangent[..., :3])
    return similarity(tangent[..., 6].exp(), rotation, tangent[..., 3:6])


def tangent_from_similarity(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Invert `similarity_from_tangent`, for angles below pi. The function is differentiable at the identity.

    Args:
        b_from_a: Similarity transforms (*batch, 4, 4).

    Returns:
        Axis-angle rotation, translation and log scale (*batch, 7).
    """
    scale = similarity_scale(b_from_a)
    quaternion = quaternion_from_rotation(b_from_a[..., :3, :3] / scale[..., None, None])
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = vector.square().sum(dim=-1, keepdim=True)
    small = sine < 1e-12
    safe = torch.where(small, torch.ones_like(sine), sine).sqrt()
    # angle / sin(angle / 2), and the first terms of its series for small angles, where the quotient is 0 / 0.
    factor = torch.where(small, 2 + sine / 3, 2 * torch.atan2(safe, w) / safe)
    return torch.cat([factor * vector, b_from_a[..., :3, 3], scale.log()[..., None]], dim=-1)


def _residual(step_a: Tensor, step_b: Tensor, estimate_a: Tensor, estimate_b: Tensor, measured: Tensor) -> Tensor:
    a = estimate_a @ similarity_from_tangent(step_a)
    b = estimate_b @ similarity_from_tangent(step_b)
    return tangent_from_similarity(invert(measured) @ invert(a) @ b)


def _gauss_newton_step(
    estimate: Tensor, first: list[int], second: list[int], measured: Tensor
) -> Float[Tensor, "window 7"]:
    """Solve the normal equations of the linearized residuals for the step of every window (zero for the first)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    zero_step = torch.zeros(len(measured), 7, dtype=torch.double)
    arguments = (zero_step, zero_step, estimate[first], estimate[second], measured)
    residuals = _residual(*arguments)
    jacobians = torch.func.vmap(torch.func.jacfwd(_residual, argnums=(0, 1)))(*arguments)

    num_edges, num_windows = len(measured), len(estimate)
    rows = np.arange(7 * num_edges).reshape(num_edges, 7, 1).repeat(7, axis=2)
    values, row_numbers, columns = [], [], []
    for windows, jacobian in zip((first, second), jacobians, strict=True):
        own_columns = 7 * np.array(windows)[:, None, None] + np.arange(7)[None, None]
        values.append(jacobian.numpy().ravel())
        row_numbers.append(rows.ravel())
        columns.append(np.broadcast_to(own_columns, rows.shape).ravel())
    jacobian = coo_matrix(
        (np.concatenate(values), (np.concatenate(row_numbers), np.concatenate(columns))),
        shape=(7 * num_edges, 7 * num_windows),
    ).tocsc()[:, 7:]
    free = np.asarray(spsolve((jacobian.T @ jacobian).tocsc(), -(jacobian.T @ residuals.numpy().ravel())))
    return torch.from_numpy(np.concatenate([np.zeros(7), free]).reshape(num_windows, 7))
