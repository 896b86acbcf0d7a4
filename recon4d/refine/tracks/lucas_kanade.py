"""Affine Lucas-Kanade alignment: finds image templates in other images with sub-pixel accuracy.

Inverse compositional formulation (Baker and Matthews 2004, "Lucas-Kanade 20 Years On"): gradients and Hessian are those
of the template and are computed once for all frames. Templates and windows are normalized to mean zero and variance
one, so that exposure and shading have no influence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_CONTRAST = 1e-4
"""Lower bound of a window's standard deviation, in gray values of [0, 1]. Hand-tuned."""
MAX_SHIFT = 2.0
"""Largest translation of one step, in pixels; the linearization holds no farther. Hand-tuned."""
MAX_SHAPE_CHANGE = 0.1
"""Largest change of an entry of the 2x2 shape matrix in one step. Hand-tuned."""
DAMPING = 1e-4
"""Damping of the Hessian relative to the mean of its diagonal, so that directions without gradient do not change.
Hand-tuned."""
GAUSSIAN_SCALE = 0.6
"""Standard deviation of the window's Gaussian weights, relative to the radius. Hand-tuned."""
_EPSILON = 1e-12


@dataclass(frozen=True)
class Templates:
    """Square image templates, weighted by a Gaussian about their centers."""

    offsets: Float[Tensor, "pixel 2"]
    """Offsets (x, y) of the template pixels from the center, in pixels."""
    weights: Float[Tensor, " pixel"]
    """Gaussian weights with sum one."""
    values: Float[Tensor, "template pixel"]
    """Gray values, normalized to mean zero and variance one."""
    weighted_gradients: Float[Tensor, "template pixel 6"]
    """Derivatives by x, y and the four entries of the shape (per offset in radii), times the weights."""
    inverse_hessian: Float[Tensor, "template 6 6"]
    """Inverse of the damped Hessian of all six parameters."""
    inverse_shift_hessian: Float[Tensor, "template 2 2"]
    """Inverse of the damped Hessian of the translation alone."""
    radius: int
    """Pixels from the center to the border of the template."""

    def take(self, indices: Int[Tensor, " n"]) -> "Templates":
        """Select templates.

        Args:
            indices: Indices of the templates to keep, in the order of the result.

        Returns:
            The selected templates.
        """
        return Templates(
            self.offsets,
            self.weights,
            self.values[indices],
            self.weighted_gradients[indices],
            self.inverse_hessian[indices],
            self.inverse_shift_hessian[indices],
            self.radius,
        )


@dataclass(frozen=True)
class Placement:
    """Affine placement of templates in an image: the template's offset o lies at ``center + shape @ o``."""

    centers: Float[Tensor, "template 2"]
    """Pixel coordinates (x, y); the center of the first pixel is (0.5, 0.5)."""
    shapes: Float[Tensor, "template 2 2"]
    """Affine shapes; the identity is the appearance in the template's own image."""

    @classmethod
    def upright(cls, centers: Float[Tensor, "template 2"]) -> "Placement":
        """Place templates without any change of shape.

        Args:
            centers: Pixel coordinates (x, y).

        Returns:
            The placement with identity shapes.
        """
        return cls(centers, torch.eye(2).to(centers).expand(len(centers), 2, 2))

    def where(self, condition: Bool[Tensor, " template"], other: "Placement") -> "Placement":
        """Combine two placements.

        Args:
            condition: Whether to take this placement.
            other: The placement to take elsewhere.

        Returns:
            The combined placement.
        """
        return Placement(
            torch.where(condition[:, None], self.centers, other.centers),
            torch.where(condition[:, None, None], self.shapes, other.shapes),
        )


def make_templates(
    images: Float[Tensor, "time height width"],
    frames: Int[Tensor, " template"],
    centers: Float[Tensor, "template 2"],
    radius: int,
) -> Templates:
    """Cut templates out of images.

    Args:
        images: Gray images.
        frames: Index of each template's image.
        centers: Pixel coordinates (x, y) of each template's center.
        radius: Pixels from the center to the border; templates have 2 * `radius` + 1 pixels a side.

    Returns:
        The templates with their gradients and Hessians.
    """
    side = torch.arange(-radius, radius + 1, dtype=images.dtype)
    offsets = torch.cartesian_prod(side, side).flip(-1)
    weights = torch.exp(-offsets.square().sum(dim=-1) / (2 * (GAUSSIAN_SCALE * radius) ** 2))
    weights = weights / weights.sum()
    pixels = centers[:, None] + offsets
    values, contrast = _normalize(sample_bilinear(images, frames, pixels), weights)

    half = 0.5 * torch.eye(2, dtype=images.dtype)
    by_axis = [
        sample_bilinear(images, frames, pixels + step) - sample_bilinear(images, frames, pixels - step) for step in half
    ]
    by_shape = [gradient * offset / radius for gradient in by_axis for offset in offsets.unbind(-1)]
    gradients = torch.stack([*by_axis, *by_shape], dim=-1) / contrast[..., None]
    # Project out mean and contrast, which the normalization removes: no parameter may explain them.
    gradients = gradients - (gradients * weights[:, None]).sum(dim=1, keepdim=True)
    along = (gradients * (values * weights)[..., None]).sum(dim=1, keepdim=True)
    gradients = gradients - values[..., None] * along
    weighted = gradients * weights[:, None]
    hessian = weighted.transpose(1, 2) @ gradients
    return Templates(
        offsets, weights, values, weighted, _damped_inverse(hessian), _damped_inverse(hessian[:, :2, :2]), radius
    )


def align(
    templates: Templates,
    images: Float[Tensor, "time height width"],
    frames: Int[Tensor, " template"],
    start: Placement,
    num_steps: int,
    refine_shape: bool,
) -> Placement:
    """Align templates to images by Gauss-Newton steps.

    Args:
        templates: The templates.
        images: Gray images.
        frames: Index of the image that each template is searched in.
        start: Initial placement.
        num_steps: Number of steps.
        refine_shape: Whether the affine shape is estimated too, or only the translation.

    Returns:
        The final placement. It may be a poor one: check it with `ncc`.
    """
    centers, shapes = start.centers, start.shapes
    inverse = templates.inverse_hessian if refine_shape else templates.inverse_shift_hessian
    gradients = templates.weighted_gradients if refine_shape else templates.weighted_gradients[..., :2]
    identity = torch.eye(2).to(centers)
    for _ in range(num_steps):
        error = _values_at(templates, images, frames, Placement(centers, shapes)) - templates.values
        change = (inverse @ (gradients.transpose(1, 2) @ error[..., None]))[..., 0]
        shift = change[:, :2]
        shift = shift * (MAX_SHIFT / shift.norm(dim=-1, keepdim=True).clamp(min=MAX_SHIFT))
        if refine_shape:
            deformation = change[:, 2:].unflatten(1, (2, 2)) / templates.radius
            deformation = deformation.clamp(-MAX_SHAPE_CHANGE, MAX_SHAPE_CHANGE)
            shapes = shapes @ torch.linalg.inv(identity + deformation)
        centers = centers - (shapes @ shift[..., None])[..., 0]
    return Placement(centers, shapes)


def ncc(
    templates: Templates,
    images: Float[Tensor, "time height width"],
    frames: Int[Tensor, " template"],
    placement: Placement,
) -> Float[Tensor, " template"]:
    """Compute the normalized cross-correlation of templates with images.

    Args:
        templates: The templates.
        images: Gray images.
        frames: Index of the image that each template is compared with.
        placement: Placement of the templates in these images.

    Returns:
        Gaussian-weighted correlation in [-1, 1]; 1 for equal appearance up to exposure.
    """
    return (_values_at(templates, images, frames, placement) * templates.values * templates.weights).sum(dim=-1)


def sample_bilinear(
    images: Float[Tensor, "time height width"],
    frames: Int[Tensor, " template"],
    pixels: Float[Tensor, "template pixel 2"],
) -> Float[Tensor, "template pixel"]:
    """Sample images bilinearly.

    Args:
        images: Gray images.
        frames: Index of each template's image.
        pixels: Pixel coordinates (x, y); outside the image, the value at the border is used.

    Returns:
        The interpolated values.
    """
    height, width = images.shape[1:]
    x, y = (
        (pixels[..., axis] - 0.5).clamp(0, side - 1 - 1e-3) for axis, side in ((0, float(width)), (1, float(height)))
    )
    left, top = x.floor(), y.floor()
    across, down = x - left, y - top
    place = (frames[:, None] * height + top.long()) * width + left.long()
    values = images.flatten()
    upper = torch.lerp(values[place], values[place + 1], across)
    lower = torch.lerp(values[place + width], values[place + width + 1], across)
    return torch.lerp(upper, lower, down)


def _values_at(
    templates: Templates, images: Tensor, frames: Tensor, placement: Placement
) -> Float[Tensor, "template pixel"]:
    """Sample the normalized gray values of the placed templates' pixels."""
    pixels = placement.centers[:, None] + templates.offsets @ placement.shapes.transpose(1, 2)
    return _normalize(sample_bilinear(images, frames, pixels), templates.weights)[0]


def _normalize(values: Tensor, weights: Tensor) -> tuple[Float[Tensor, "template pixel"], Float[Tensor, "template 1"]]:
    """Normalize values to mean zero and variance one; also return the standard deviations that divided them."""
    centered = values - (values * weights).sum(dim=-1, keepdim=True)
    contrast = (centered.square() * weights).sum(dim=-1, keepdim=True).sqrt().clamp(min=MIN_CONTRAST)
    return centered / contrast, contrast


def _damped_inverse(hessian: Float[Tensor, "template n n"]) -> Float[Tensor, "template n n"]:
    damping = DAMPING * hessian.diagonal(dim1=1, dim2=2).mean(dim=-1) + _EPSILON
    return torch.linalg.inv(hessian + damping[:, None, None] * torch.eye(hessian.shape[-1]).to(hessian))
