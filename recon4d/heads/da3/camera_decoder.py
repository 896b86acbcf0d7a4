"""Camera decoder of Depth Anything 3: a small MLP on the camera token of each frame by itself."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.camera_base import PRIOR_FIELD_OF_VIEW, CameraPredictor
from recon4d.heads.pose_encoding import decode_transforms, encode_transforms
from recon4d.records import Cameras, full_precision


@dataclass(frozen=True)
class CameraDecoderConfig:
    """Configuration of the camera decoder, whose width is that of its tokens."""


class CameraDecoder(CameraPredictor):
    """Predicts centers, rotations and fields of view; the encoding describes world-from-camera.

    Args:
        config: Configuration of the head.
        feature_width: Channels of the tokens that `forward` receives.
    """

    def __init__(self, config: CameraDecoderConfig, feature_width: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(feature_width, feature_width)
        self.hidden2 = nn.Linear(feature_width, feature_width)
        self.center = nn.Linear(feature_width, 3)
        self.quaternion = nn.Linear(feature_width, 4)
        self.angles = nn.Linear(feature_width, 2)

    def reset_parameters(self) -> None:
        """Initialize every camera to the prior."""
        identity = [0.0, 0.0, 0.0, 1.0]
        priors = ((self.center, [0.0] * 3), (self.quaternion, identity), (self.angles, [PRIOR_FIELD_OF_VIEW] * 2))
        for layer, prior in priors:
            nn.init.zeros_(layer.weight)
            with torch.no_grad():
                layer.bias.copy_(torch.tensor(prior))

    def forward(
        self, tokens: Float[Tensor, "batch time special feature_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Predict raw encodings in a single stage. See `CameraPredictor.forward`; `size` is not used."""
        # The encoding is geometry and stays in float32, whatever the precision of the network.
        with torch.autocast(tokens.device.type, enabled=False):
            hidden = F.relu(self.hidden2(F.relu(self.hidden1(full_precision(tokens[:, :, 0])))))
            parts = [self.center(hidden), self.quaternion(hidden), self.angles(hidden)]
            return torch.cat(parts, dim=-1)[None]

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """See `CameraPredictor.decode` and `decode_transforms`."""
        world_from_cam, intrinsics = decode_transforms(encoding, size)
        return Cameras(world_from_cam=world_from_cam, intrinsics=intrinsics)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """See `CameraPredictor.encode`; the principal point is assumed to be the image center."""
        return encode_transforms(cameras.world_from_cam, cameras.intrinsics, size)
