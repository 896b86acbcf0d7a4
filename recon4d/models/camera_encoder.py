"""Camera encoder of Depth Anything 3: given cameras replace the camera tokens of the aggregator."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.geometry import invert, transform_cameras
from recon4d.heads import encode_transforms
from recon4d.layers import Block, BlockConfig
from recon4d.records import Priors, full_precision

ENCODING_WIDTH = 9
"""Center (3), quaternion x y z w (4), vertical and horizontal field of view in radians (2)."""
MIN_SCALE = 0.1
"""Smallest length by which the centers of given cameras are divided (as published)."""


@dataclass(frozen=True)
class CameraEncoderConfig:
    """Configuration of the camera encoder."""

    block: BlockConfig
    """Configuration of the self-attention blocks over the cameras of all frames; their width is that of the tokens."""
    blocks: int = 4
    """Number of blocks."""


class CameraEncoder(nn.Module):
    """Encodes the intrinsics and poses of all frames of a clip as camera tokens.

    Poses are relative to the first camera. Their unit is the median distance of all centers from the first, of which
    the distance 0 of the first itself is one.

    Args:
        config: Configuration of the encoder.
    """

    def __init__(self, config: CameraEncoderConfig) -> None:
        super().__init__()
        width = config.block.width
        self.fc1 = nn.Linear(ENCODING_WIDTH, width // 2)
        self.fc2 = nn.Linear(width // 2, width)
        self.token_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)

    def forward(
        self, priors: Priors, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch time width"], Bool[Tensor, "batch"]]:
        """Encode cameras.

        Args:
            priors: Priors of a batch of clips.
            size: Height and width of the images in pixels.

        Returns:
            Camera tokens, and the clips for which they are valid: those with intrinsics and poses of all frames.
        """
        is_given = has_all_cameras(priors)
        identity = torch.eye(4, device=priors.intrinsics.device, dtype=priors.intrinsics.dtype)
        poses = torch.where(is_given[:, None, None, None], priors.world_from_cam, identity)
        intrinsics = torch.where(is_given[:, None, None, None], priors.intrinsics, identity[:3, :3])
        # As published, cameras are encoded in float32, whatever the precision of the network.
        with torch.autocast(poses.device.type, enabled=False):
            encoding = encode_transforms(normalized_cameras(full_precision(poses)), full_precision(intrinsics), size)
            tokens = self.token_norm(self.fc2(F.gelu(self.fc1(encoding.to(self.fc1.weight.dtype)))))
            for block in self.blocks:
                tokens = block(tokens)
            return self.norm(tokens), is_given


def has_all_cameras(priors: Priors) -> Bool[Tensor, "*batch"]:
    """Check which clips have intrinsics and poses of all frames.

    Args:
        priors: Priors of one clip or of a batch of clips.

    Returns:
        True for these clips.
    """
    has_intrinsics, has_pose = (
        values.isfinite().flatten(-3).all(dim=-1) for values in (priors.intrinsics, priors.world_from_cam)
    )
    return has_intrinsics & has_pose


def check_cameras(priors: Priors) -> None:
    """Check that no camera pose is given without intrinsics, which the encoder requires.

    Args:
        priors: Priors of one clip or of a batch of clips.

    Raises:
        UserError: If a frame has a pose but no intrinsics.
    """
    has_intrinsics, has_pose = (
        values.isfinite().flatten(-2).all(dim=-1) for values in (priors.intrinsics, priors.world_from_cam)
    )
    if count := int((has_pose & ~has_intrinsics).sum()):
        raise UserError(
            f"{count} of {has_pose.numel()} frames have a given camera pose but no intrinsics; this network takes "
            "cameras only with both: give intrinsics too, or no poses"
        )


def normalized_cameras(world_from_cam: Float[Tensor, "*batch time 4 4"]) -> Float[Tensor, "*batch time 4 4"]:
    """Express cameras relative to the first, in units of the median distance from it.

    Args:
        world_from_cam: Camera poses in any world frame and unit.

    Returns:
        Camera poses as the network is trained with. The median of an even number is the lower one.
    """
    first_from_cam = transform_cameras(invert(world_from_cam[..., 0, :, :]), world_from_cam)
    scale = first_from_cam[..., :3, 3].norm(dim=-1).median(dim=-1).values.clamp(min=MIN_SCALE)
    normalized = first_from_cam.clone()
    normalized[..., :3, 3] /= scale[..., None, None]
    return normalized
