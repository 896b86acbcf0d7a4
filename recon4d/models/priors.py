"""Prior encoder: known intrinsics, cameras and depth as additions to the tokens of the network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.geometry import (
    field_of_view,
    resized_intrinsics,
    rotation_to_6d,
    transform_cameras,
)
from recon4d.geometry import invert as invert_transform
from recon4d.records import Priors

CAMERA_FEATURES = 3 + 6 + 1 + 2 + 2 + 1
"""Input channels of each frame.

Center (3), 6D rotation (6), pose is known (1), field of view (2), principal point (2), intrinsics are known (1).
"""


class PriorEncoder(nn.Module):
    """Encodes known intrinsics and cameras as an addition to the camera tokens, and known depth to the patch tokens.

    Both additions are zero where nothing is known, and everywhere before training (zero initialization). Lengths are
    divided by the mean known depth or, without depth, by the mean distance of the known cameras from the first.

    Args:
        width: Number of channels of the tokens.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.cameras = nn.Linear(CAMERA_FEATURES, width, bias=False)
        self.depths = nn.Conv2d(2, width, patch_size, stride=patch_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all weights to zero: a model that was trained without priors is unchanged by this encoder."""
        nn.init.zeros_(self.cameras.weight)
        nn.init.zeros_(self.depths.weight)

    def forward(
        self, priors: Priors, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch time tokens width"] | None]:
        """Encode priors.

        Args:
            priors: Priors of a batch of clips; NaN where unknown.
            size: Height and width of the images in pixels.

        Returns:
            Additions to the camera tokens, and to the patch tokens (None without known depth).
        """
        world_from_cam = _from_first_camera(priors.world_from_cam)
        scale = _length_scale(priors, world_from_cam)
        for_camera_tokens = self.cameras(_camera_features(priors.intrinsics, world_from_cam, scale, size))
        if priors.depths is None:
            return for_camera_tokens, None
        maps = _depth_features(priors.depths, scale)
        for_patch_tokens = self.depths(maps.flatten(0, 1)).flatten(2).transpose(1, 2)
        return for_camera_tokens, for_patch_tokens.unflatten(0, maps.shape[:2])


def _from_first_camera(world_from_cam: Tensor) -> Tensor:
    """Express cameras relative to the first camera; all NaN if the first is unknown."""
    return transform_cameras(invert_transform(world_from_cam[..., 0, :, :]), world_from_cam)


def _length_scale(known: Priors, world_from_cam: Tensor) -> Tensor:
    """Return the length unit of each clip: mean known depth, mean camera distance, or 1 if neither is known."""
    distances = world_from_cam[..., :3, 3].norm(dim=-1)
    scale = torch.where(distances > 0, distances, torch.nan).nanmean(dim=-1)
    if known.depths is not None:
        depth = known.depths.flatten(-3).nanmean(dim=-1)
        scale = torch.where(torch.isfinite(depth), depth, scale)
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))


def _camera_features(
    intrinsics: Tensor, world_from_cam: Tensor, scale: Tensor, size: tuple[int, int]
) -> Float[Tensor, "batch time features"]:
    unit_intrinsics = resized_intrinsics(intrinsics, size, (1, 1))
    camera = torch.cat(
        [world_from_cam[..., :3, 3] / scale[..., None, None], rotation_to_6d(world_from_cam[..., :3, :3])], dim=-1
    )
    intrinsic = torch.cat([field_of_view(intrinsics, *size), unit_intrinsics[..., :2, 2] - 0.5], dim=-1)
    return torch.cat([_with_validity(camera), _with_validity(intrinsic)], dim=-1)


def _with_validity(features: Tensor) -> Tensor:
    """Append a channel that is 1 where all features are known; set all channels to 0 where any is unknown."""
    is_known = torch.isfinite(features).all(dim=-1, keepdim=True)
    return torch.cat([torch.where(is_known, features, torch.zeros_like(features)), is_known.to(features.dtype)], dim=-1)


def _depth_features(depths: Tensor, scale: Tensor) -> Float[Tensor, "batch time 2 height width"]:
    """Return log depth relative to the scale (0 where unknown), and whether it is known."""
    is_known = torch.isfinite(depths) & (depths > 0)
    ratio = torch.where(is_known, depths / scale[..., None, None, None], torch.ones_like(depths))
    return torch.stack([ratio.log(), is_known.to(depths.dtype)], dim=-3)
