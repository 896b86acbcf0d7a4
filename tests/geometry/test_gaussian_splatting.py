"""The rasterizer of Gaussians against closed forms, sampling, automatic differentiation and a slow reference."""

import math

import pytest
import torch
from torch import Tensor

from recon4d.geometry import pixel_grid, project, rigid, rotation_from_axis_angle, transform_points
from recon4d.geometry.gaussian_splatting import (
    LOW_PASS_VARIANCE,
    MAX_ALPHA,
    gaussian_covariances,
    project_covariances,
    rasterize_gaussians,
)

INTRINSICS = torch.tensor([[40.0, 0.5, 18.0], [0.0, 36.0, 13.0], [0.0, 0.0, 1.0]])
SIZE = (27, 37)  # not divisible by the side of a tile
POSE = rigid(rotation_from_axis_angle(torch.tensor([0.1, -0.3, 0.2])), torch.tensor([0.2, -0.1, 0.5]))


def random_gaussians(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centers before the camera of `POSE`, covariances, opacities and colors."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 3, generator=generator) * torch.tensor([4.0, 3.0, 3.0]) + torch.tensor([-2, -1.5, 2.5])
    scales = 0.02 + 0.2 * torch.rand(count, 3, generator=generator)
    covariances = gaussian_covariances(scales, torch.randn(count, 4, generator=generator))
    world = transform_points(torch.linalg.inv(POSE), centers)
    return world, covariances, torch.rand(count, generator=generator), torch.rand(count, 3, generator=generator)


def blended_one_by_one(centers: Tensor, covariances: Tensor, opacities: Tensor, colors: Tensor) -> Tensor:
    """Blend every Gaussian at every pixel, from far to near."""
    in_camera = transform_points(POSE, centers)
    means = project(in_camera, INTRINSICS)
    projected = project_covariances(in_camera, covariances, POSE, INTRINSICS, SIZE) + LOW_PASS_VARIANCE * torch.eye(2)
    image = torch.zeros(*SIZE, 3)
    for one in in_camera[:, 2].argsort(descending=True).tolist():
        off = pixel_grid(*SIZE) - means[one]
        density = torch.exp(-torch.einsum("hwi,ij,hwj->hw", off, torch.linalg.inv(projected[one]), off) / 2)
        alpha = (opacities[one] * density).clamp(max=MAX_ALPHA)[..., None]
        image = image * (1 - alpha) + alpha * colors[one]
    return image


def test_a_ball_on_the_axis_is_a_round_gaussian_in_the_image() -> None:
    """At the principal point the standard deviation is focal / depth times that of the ball."""
    intrinsics = torch.tensor([[40.0, 0.0, 18.5], [0.0, 40.0, 13.5], [0.0, 0.0, 1.0]])
    image, opacity = rasterize_gaussians(
        torch.tensor([[0.0, 0.0, 2.0]]),
        0.1**2 * torch.eye(3)[None],
        torch.tensor([0.8]),
        torch.tensor([[1.0, 0.5, 0.0]]),
        torch.eye(4),
        intrinsics,
        SIZE,
    )
    variance = (0.1 * 40 / 2) ** 2 + LOW_PASS_VARIANCE
    squared = (pixel_grid(*SIZE) - torch.tensor([18.5, 13.5])).square().sum(dim=-1)
    wanted = 0.8 * torch.exp(-squared / (2 * variance))
    torch.testing.assert_close(opacity, torch.where(wanted < 1 / 255, 0.0, wanted), atol=1e-5, rtol=0)
    torch.testing.assert_close(image[..., 1], opacity / 2)


def test_the_near_one_hides_the_far_one() -> None:
    """In whichever order they are given."""
    centers = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 2.0]])
    covariances, opacities = 0.2**2 * torch.eye(3).expand(2, 3, 3), torch.tensor([0.9, 0.6])
    colors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    intrinsics = torch.tensor([[40.0, 0.0, 18.5], [0.0, 40.0, 13.5], [0.0, 0.0, 1.0]])
    for order in ([0, 1], [1, 0]):
        image, opacity = rasterize_gaussians(
            centers[order], covariances, opacities[order], colors[order], torch.eye(4), intrinsics, SIZE
        )
        torch.testing.assert_close(image[13, 18], torch.tensor([0.4 * 0.9, 0.6]))
        torch.testing.assert_close(opacity[13, 18], torch.tensor(1 - 0.1 * 0.4))


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    _, opacity = rasterize_gaussians(
        torch.tensor([[0.0, 0.0, -2.0]]),
        torch.eye(3)[None],
        torch.ones(1),
        torch.ones(1, 3),
        torch.eye(4),
        INTRINSICS,
        SIZE,
    )
    assert not opacity.any()


def test_covariances_are_projected_by_the_jacobian_of_the_projection() -> None:
    """Also with skew and off the axis, for a camera that is rotated."""
    centers, covariances, _, _ = random_gaussians(20)

    def pixels(world: Tensor) -> Tensor:
        return project(transform_points(POSE, world[None]), INTRINSICS)[0]

    in_camera = transform_points(POSE, centers)
    inside = (project(in_camera, INTRINSICS) > 0).all(dim=1)
    found = project_covariances(in_camera, covariances, POSE, INTRINSICS, SIZE)
    assert inside.sum() > 10
    for one in inside.nonzero()[:, 0].tolist():
        jacobian = torch.autograd.functional.jacobian(pixels, centers[one])
        assert isinstance(jacobian, Tensor)
        torch.testing.assert_close(found[one], jacobian @ covariances[one] @ jacobian.T, atol=1e-3, rtol=1e-3)


def test_projected_samples_have_the_projected_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    center, axes = torch.tensor([0.4, -0.3, 4.0]), 0.02 * torch.randn(3, 3, generator=generator)
    samples = center + torch.randn(20_000, 3, generator=generator) @ axes.T
    found = project_covariances(center[None], (axes @ axes.T)[None], torch.eye(4), INTRINSICS, SIZE)[0]
    torch.testing.assert_close(project(samples, INTRINSICS).T.cov(), found, atol=0.02 * float(found.max()), rtol=0)


@pytest.mark.parametrize("count", [1, 40, 600])
def test_tiles_and_chunks_change_nothing(count: int) -> None:
    """The image equals that of blending all Gaussians at all pixels, but for alphas below 1 / 255."""
    gaussians = random_gaussians(count)
    image, _ = rasterize_gaussians(*gaussians, POSE, INTRINSICS, SIZE)
    assert image.any()
    assert (image - blended_one_by_one(*gaussians)).abs().max() < 0.05
    assert (image - blended_one_by_one(*gaussians)).abs().mean() < 0.005


def test_gradients_reach_every_parameter() -> None:
    gaussians = random_gaussians(5)
    for values in gaussians:
        values.requires_grad_()
    image, _ = rasterize_gaussians(*gaussians, POSE, INTRINSICS, SIZE)
    image.square().sum().backward()
    for values in gaussians:
        assert values.grad is not None
        assert math.isfinite(float(values.grad.abs().sum()))
        assert values.grad.abs().sum() > 0
