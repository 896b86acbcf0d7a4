"""Difference from the background that the other frames of a turning or resting camera agree on."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import pixel_grid
from recon4d.records import Cameras, Clip
from recon4d.refine.local_contrast import window_mean

SAME_COLOR = 0.05
"""Difference of colors in [0, 1] that is as likely on static surfaces as on moving ones: noise, compression and small
changes of light are below. Hand-tuned."""
COLOR_SCALE = 0.02
"""Change of the difference that changes the evidence by 1. Hand-tuned."""
EVIDENCE_RANGE = (-1.5, 2.0)
"""Range of the log-likelihood ratio; a uniform object that moves has the same color as before. Hand-tuned."""
MIN_COLOR = 0.02
"""Smallest color in [0, 1] that the change of brightness is computed from."""
WINDOW = 3
"""Side of the window over which differences are averaged, in pixels."""
MIN_FRAMES = 3
"""Smallest number of frames that observe a place, for it to have a background."""


def background_evidence(clip: Clip, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "time height width"]:
    """Compare each frame with the median of all frames, as seen by its camera.

    Args:
        clip: A single clip.
        cameras: Cameras that only rotate, with intrinsics for `size`.
        size: Height and width at which colors are compared.

    Returns:
        Log-likelihood ratio of motion; 0 where fewer than `MIN_FRAMES` frames observe the background.
    """
    images = torch.cat(
        [
            F.interpolate(image[None].float() / 255, size, mode="bilinear", antialias=True, align_corners=False)
            for image in clip.images
        ]
    )
    evidence = [_frame_evidence(images, cameras, frame) for frame in range(len(images))]
    return torch.stack(evidence)


def _frame_evidence(
    images: Float[Tensor, "time 3 height width"], cameras: Cameras, frame: int
) -> Float[Tensor, "height width"]:
    height, width = images.shape[-2:]
    grid = pixel_grid(height, width)
    rays = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1)
    rotations = cameras.cam_from_world[:, :3, :3] @ cameras.world_from_cam[frame, :3, :3]
    homographies = cameras.intrinsics @ rotations @ torch.linalg.inv(cameras.intrinsics[frame])
    targets = torch.einsum("tij,hwj->thwi", homographies.to(rays), rays)
    coordinates = 2 * targets[..., :2] / targets[..., 2:].clamp(min=1e-6) / grid.new_tensor([width, height]) - 1
    is_inside = (coordinates.abs() <= 1).all(dim=-1) & (targets[..., 2] > 0)
    warped = F.grid_sample(images, coordinates, padding_mode="border", align_corners=False)
    background = torch.where(is_inside[:, None], warped, torch.nan).nanmedian(dim=0).values
    # Lamps flicker and cameras adapt their exposure: most of the picture tells the change of each color.
    gain = (background / images[frame].clamp(min=MIN_COLOR)).flatten(1).nanmedian(dim=1).values.nan_to_num(1.0)
    difference = (gain[:, None, None] * images[frame] - background).abs().nan_to_num(0.0).mean(dim=0)
    difference = window_mean(difference, WINDOW)
    ratio = ((difference - SAME_COLOR) / COLOR_SCALE).clamp(*EVIDENCE_RANGE)
    return torch.where(is_inside.sum(dim=0) >= MIN_FRAMES, ratio, 0.0)
