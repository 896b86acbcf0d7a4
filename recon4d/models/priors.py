"""What is known about a clip beforehand, told to the network: inputs that change nothing until they are trained."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.geometry import (
    field_of_view,
    rebase_cameras,
    resized_intrinsics,
    rotation_to_6d,
)
from recon4d.geometry import invert as invert_transform
from recon4d.records import Priors

CAMERA_FEATURES = 3 + 6 + 1 + 2 + 2 + 1
"""Center, 6D rotation, camera known; field of view, principal point, intrinsics known."""


class PriorEncoder(nn.Module):
    """Known intrinsics and cameras as an addition to the camera tokens, known depth to the patch tokens.

    Both are zero where nothing is known, and everywhere before training (zero-initialized). Lengths are divided by
    the mean known depth, or without depth by the mean distance of the known cameras from the first.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.cameras = nn.Linear(CAMERA_FEATURES, width, bias=False)
        self.depths = nn.Conv2d(2, width, patch_size, stride=patch_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero: a model that was trained without known quantities answers the same with this encoder."""
        nn.init.zeros_(self.cameras.weight)
        nn.init.zeros_(self.depths.weight)

    def forward(
        self, known: Priors, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch time width"], Float[Tensor, "batch time tokens width"] | None]:
        """Additions to camera tokens and to patch tokens (None without depth); `size` is that of the images."""
        world_from_cam = _from_first_camera(known.world_from_cam)
        scale = _known_scale(known, world_from_cam)
        for_cameras = self.cameras(_camera_features(known.intrinsics, world_from_cam, scale, size))
        if known.depths is None:
            return for_cameras, None
        maps = _depth_features(known.depths, scale)
        patches = self.depths(maps.flatten(0, 1)).flatten(2).transpose(1, 2)
        return for_cameras, patches.unflatten(0, maps.shape[:2])


def _from_first_camera(world_from_cam: Tensor) -> Tensor:
    """Cameras in the first camera's frame; all NaN where the first is not known."""
    return rebase_cameras(invert_transform(world_from_cam[..., 0, :, :]), world_from_cam)


def _known_scale(known: Priors, world_from_cam: Tensor) -> Tensor:
    """One length for each clip, 1 where nothing has a length."""
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
    lens = torch.cat([field_of_view(intrinsics, *size), unit_intrinsics[..., :2, 2] - 0.5], dim=-1)
    return torch.cat([_zero_where_unknown(camera), _zero_where_unknown(lens)], dim=-1)


def _zero_where_unknown(features: Tensor) -> Tensor:
    """The features and a 1 where all of them are known, zeros where any is not."""
    known = torch.isfinite(features).all(dim=-1, keepdim=True)
    return torch.cat([torch.where(known, features, torch.zeros_like(features)), known.to(features.dtype)], dim=-1)


def _depth_features(depths: Tensor, scale: Tensor) -> Float[Tensor, "batch time 2 height width"]:
    """Log depth over the scale, and where it is known."""
    known = torch.isfinite(depths) & (depths > 0)
    ratio = torch.where(known, depths / scale[..., None, None, None], torch.ones_like(depths))
    return torch.stack([ratio.log(), known.to(depths.dtype)], dim=-3)
