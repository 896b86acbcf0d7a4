"""Small patches of one picture found in others, to a fraction of a pixel: affine Lucas-Kanade alignment.

Inverse compositional (Baker and Matthews 2004): slopes and Hessian are those of the template, made once for all frames.
Patches are compared with their mean taken away and their contrast divided out, so exposure and shading do not matter.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST_CONTRAST = 1e-4
"""Of gray values in [0, 1]: what a patch's standard deviation is at least taken for."""
LONGEST_STEP = 2.0
"""Pixels that one step may move a patch by: a linear guess holds no farther."""
LARGEST_BEND = 0.1
"""How much one step may change the shape of a patch."""
DAMPING = 1e-4
"""Of the mean of the Hessian's diagonal: directions that a patch does not tell stay as they are."""
_EPSILON = 1e-12


@dataclass(frozen=True)
class Templates:
    """Patches as they are to be found again, `pixel` values each, weighed by a Gaussian about the center."""

    offsets: Float[Tensor, "pixel 2"]
    weights: Float[Tensor, " pixel"]
    """Of sum one."""
    values: Float[Tensor, "patch pixel"]
    """Of mean zero and variance one."""
    weighed_slopes: Float[Tensor, "patch pixel 6"]
    """By x, y and the four entries of the shape, over offsets in radii; times the weights."""
    inverse_hessian: Float[Tensor, "patch 6 6"]
    inverse_hessian_of_shift: Float[Tensor, "patch 2 2"]
    radius: int

    def take(self, chosen: Int[Tensor, " chosen"]) -> "Templates":
        """Some of the patches."""
        return Templates(
            self.offsets,
            self.weights,
            self.values[chosen],
            self.weighed_slopes[chosen],
            self.inverse_hessian[chosen],
            self.inverse_hessian_of_shift[chosen],
            self.radius,
        )


@dataclass(frozen=True)
class Placement:
    """Where patches are in another picture: an offset o from a template's center is seen at ``center + shape @ o``."""

    centers: Float[Tensor, "patch 2"]
    """Pixels (x, y); the first pixel's center is (0.5, 0.5)."""
    shapes: Float[Tensor, "patch 2 2"]

    @classmethod
    def upright(cls, centers: Float[Tensor, "patch 2"]) -> "Placement":
        """Patches that look as they did."""
        return cls(centers, torch.eye(2).to(centers).expand(len(centers), 2, 2))

    def where(self, chosen: Tensor, other: "Placement") -> "Placement":
        """These patches where `chosen`, those of `other` elsewhere."""
        return Placement(
            torch.where(chosen[:, None], self.centers, other.centers),
            torch.where(chosen[:, None, None], self.shapes, other.shapes),
        )


def make_templates(
    pictures: Float[Tensor, "time height width"],
    frames: Int[Tensor, " patch"],
    centers: Float[Tensor, "patch 2"],
    radius: int,
) -> Templates:
    """Patches of 2 `radius` + 1 pixels a side about pixels (x, y) of gray pictures, one of `frames` for each."""
    side = torch.arange(-radius, radius + 1, dtype=pictures.dtype)
    offsets = torch.cartesian_prod(side, side).flip(-1)
    weights = torch.exp(-offsets.square().sum(dim=-1) / (2 * (0.6 * radius) ** 2))
    weights = weights / weights.sum()
    pixels = centers[:, None] + offsets
    values, contrast = _normalized(read_bilinear(pictures, frames, pixels), weights)

    half = 0.5 * torch.eye(2, dtype=pictures.dtype)
    by_axis = [
        read_bilinear(pictures, frames, pixels + step) - read_bilinear(pictures, frames, pixels - step) for step in half
    ]
    over_shape = [slope * offset / radius for slope in by_axis for offset in offsets.unbind(-1)]
    slopes = torch.stack([*by_axis, *over_shape], dim=-1) / contrast[..., None]
    # What normalizing takes away (mean and contrast) no parameter may explain.
    slopes = slopes - (slopes * weights[:, None]).sum(dim=1, keepdim=True)
    along = (slopes * (values * weights)[..., None]).sum(dim=1, keepdim=True)
    slopes = slopes - values[..., None] * along
    weighed = slopes * weights[:, None]
    hessian = weighed.transpose(1, 2) @ slopes
    return Templates(
        offsets, weights, values, weighed, _damped_inverse(hessian), _damped_inverse(hessian[:, :2, :2]), radius
    )


def align(
    templates: Templates,
    pictures: Float[Tensor, "time height width"],
    frames: Int[Tensor, " patch"],
    start: Placement,
    steps: int,
    bends: bool,
) -> Placement:
    """Each patch moved to where it looks most like its template near its `start`; where `bends`, its shape too."""
    centers, shapes = start.centers, start.shapes
    inverse = templates.inverse_hessian if bends else templates.inverse_hessian_of_shift
    slopes = templates.weighed_slopes if bends else templates.weighed_slopes[..., :2]
    identity = torch.eye(2).to(centers)
    for _ in range(steps):
        error = _values_at(templates, pictures, frames, Placement(centers, shapes)) - templates.values
        change = (inverse @ (slopes.transpose(1, 2) @ error[..., None]))[..., 0]
        shift = change[:, :2]
        shift = shift * (LONGEST_STEP / shift.norm(dim=-1, keepdim=True).clamp(min=LONGEST_STEP))
        if bends:
            bend = (change[:, 2:].unflatten(1, (2, 2)) / templates.radius).clamp(-LARGEST_BEND, LARGEST_BEND)
            shapes = shapes @ torch.linalg.inv(identity + bend)
        centers = centers - (shapes @ shift[..., None])[..., 0]
    return Placement(centers, shapes)


def ncc(
    templates: Templates, pictures: Float[Tensor, "time height width"], frames: Int[Tensor, " patch"], found: Placement
) -> Float[Tensor, " patch"]:
    """The correlation of each patch with its template, from -1 to 1: the same picture has 1, whatever its exposure."""
    return (_values_at(templates, pictures, frames, found) * templates.values * templates.weights).sum(dim=-1)


def read_bilinear(
    pictures: Float[Tensor, "time height width"], frames: Int[Tensor, " patch"], pixels: Float[Tensor, "patch pixel 2"]
) -> Float[Tensor, "patch pixel"]:
    """Values between pixels (x, y), of one of `frames` for each patch; beyond the picture its border goes on."""
    height, width = pictures.shape[1:]
    x, y = (
        (pixels[..., axis] - 0.5).clamp(0, side - 1 - 1e-3) for axis, side in ((0, float(width)), (1, float(height)))
    )
    left, top = x.floor(), y.floor()
    across, down = x - left, y - top
    place = (frames[:, None] * height + top.long()) * width + left.long()
    values = pictures.flatten()
    upper = torch.lerp(values[place], values[place + 1], across)
    lower = torch.lerp(values[place + width], values[place + width + 1], across)
    return torch.lerp(upper, lower, down)


def _values_at(templates: Templates, pictures: Tensor, frames: Tensor, at: Placement) -> Float[Tensor, "patch pixel"]:
    pixels = at.centers[:, None] + templates.offsets @ at.shapes.transpose(1, 2)
    return _normalized(read_bilinear(pictures, frames, pixels), templates.weights)[0]


def _normalized(values: Tensor, weights: Tensor) -> tuple[Float[Tensor, "patch pixel"], Float[Tensor, "patch 1"]]:
    """Values of mean zero and variance one, and the contrast that they were divided by."""
    centered = values - (values * weights).sum(dim=-1, keepdim=True)
    contrast = (centered.square() * weights).sum(dim=-1, keepdim=True).sqrt().clamp(min=LEAST_CONTRAST)
    return centered / contrast, contrast


def _damped_inverse(hessian: Float[Tensor, "patch n n"]) -> Float[Tensor, "patch n n"]:
    damping = DAMPING * hessian.diagonal(dim1=1, dim2=2).mean(dim=-1) + _EPSILON
    return torch.linalg.inv(hessian + damping[:, None, None] * torch.eye(hessian.shape[-1]).to(hessian))
