"""A pose graph of similarities: windows are moved so that all joints between them agree as well as they can.

Windows of one camera drift in scale as well as in place, so rigid pose graphs (as in Open3D) cannot close their loops:
the graph is one of Sim(3), after Strasdat, Montiel and Davison, "Scale Drift-Aware Large Scale Monocular SLAM", RSS
2010. Gauss-Newton over tangent vectors, each step one sparse linear system, so that cost grows with the number of
windows and not with its cube.
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
CONVERGED = 1e-10
"""Length of a step, in radians, log scale and units of length, below which nothing changes any more."""


@dataclass(frozen=True)
class Edge:
    """A measured similarity (float64) ``a_from_b`` between the worlds of the windows a and b."""

    a: int
    b: int
    a_from_b: Float[Tensor, "4 4"]


def optimize_pose_graph(
    world_from_window: Float[Tensor, "window 4 4"], edges: Sequence[Edge], length: float
) -> Float[Tensor, "window 4 4"]:
    """The placement minimizing the sum over edges of ||log(measured^-1 placed)||^2; the first window stays.

    `length` (in the world's unit) is the shift that weighs as much as a radian or a factor of e. Windows that no edge
    reaches would be free, so the edges must join all of them.
    """
    assert length > 0
    first = [edge.a for edge in edges]
    second = [edge.b for edge in edges]
    measured = torch.stack([edge.a_from_b for edge in edges]).double()
    # In this unit of length shifts weigh as much as angles; every window's own unit is brought to it as well.
    scales = similarity_scale(world_from_window.double())
    own_from_common = similarity(
        scales.reciprocal() * length, _identities(len(scales)), torch.zeros(len(scales), 3).double()
    )
    common_from_world = similarity(torch.tensor(1 / length).double(), torch.eye(3).double(), torch.zeros(3).double())
    placed = common_from_world @ world_from_window.double() @ own_from_common
    measured = invert(own_from_common[first]) @ measured @ own_from_common[second]

    for _ in range(MAX_STEPS):
        step = _gauss_newton_step(placed, first, second, measured)
        placed = placed @ similarity_from_tangent(step)
        if step.abs().max() < CONVERGED:
            break
    return invert(common_from_world) @ placed @ invert(own_from_common)


def optimize_scales(
    edges: Sequence[tuple[int, int, float]],
    told: Float[Tensor, "window"],
    weights: Float[Tensor, "window"],
) -> Float[Tensor, "window"]:
    """Log scales x with the least sum over edges (a, b, d) of (x_b - x_a - d)^2 and over windows of w (x - told)^2.

    Edges count 1 each. The edges must reach every window, and at least one weight must be above 0.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    assert float(weights.max()) > 0
    count, rows = len(told), np.arange(len(edges))
    first, second = (np.array([edge[k] for edge in edges], dtype=np.int64) for k in (0, 1))
    signs = np.concatenate([-np.ones(len(edges)), np.ones(len(edges))])
    places = (np.concatenate([rows, rows]), np.concatenate([first, second]))
    differences = coo_matrix((signs, places), shape=(len(edges), count)).tocsc()
    pull = weights.double().numpy()
    own = coo_matrix((pull, (np.arange(count), np.arange(count))), shape=(count, count))
    wanted = differences.T @ np.array([edge[2] for edge in edges], dtype=np.float64)
    wanted = wanted + np.where(pull > 0, pull * told.double().numpy(), 0.0)
    return torch.from_numpy(np.asarray(spsolve((differences.T @ differences + own).tocsc(), wanted)).reshape(count))


def similarity_from_tangent(tangent: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """The similarity of (rotation as axis-angle, shift, log scale): R and s of their own, and the shift as it is."""
    rotation = rotation_from_axis_angle(tangent[..., :3])
    return similarity(tangent[..., 6].exp(), rotation, tangent[..., 3:6])


def tangent_from_similarity(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """The inverse of `similarity_from_tangent` for angles below pi; differentiable at the identity."""
    scale = similarity_scale(b_from_a)
    quaternion = quaternion_from_rotation(b_from_a[..., :3, :3] / scale[..., None, None])
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = vector.square().sum(dim=-1, keepdim=True)
    small = sine < 1e-12
    safe = torch.where(small, torch.ones_like(sine), sine).sqrt()
    # angle / sin(angle / 2), and the first terms of its series where the quotient would be 0 / 0.
    factor = torch.where(small, 2 + sine / 3, 2 * torch.atan2(safe, w) / safe)
    return torch.cat([factor * vector, b_from_a[..., :3, 3], scale.log()[..., None]], dim=-1)


def _residual(step_a: Tensor, step_b: Tensor, placed_a: Tensor, placed_b: Tensor, measured: Tensor) -> Tensor:
    a = placed_a @ similarity_from_tangent(step_a)
    b = placed_b @ similarity_from_tangent(step_b)
    return tangent_from_similarity(invert(measured) @ invert(a) @ b)


def _gauss_newton_step(
    placed: Tensor, first: list[int], second: list[int], measured: Tensor
) -> Float[Tensor, "window 7"]:
    """The step of every window (zero for the first) that solves the normal equations of the linearized residuals."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    still = torch.zeros(len(measured), 7, dtype=torch.double)
    arguments = (still, still, placed[first], placed[second], measured)
    residuals = _residual(*arguments)
    jacobians = torch.func.vmap(torch.func.jacfwd(_residual, argnums=(0, 1)))(*arguments)

    num_edges, num_windows = len(measured), len(placed)
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


def _identities(count: int) -> Tensor:
    return torch.eye(3, dtype=torch.double).expand(count, 3, 3)
