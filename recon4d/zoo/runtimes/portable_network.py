"""A network with tensors as inputs and named tensors as outputs, which other runtimes can run."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.models import Model, SceneModel
from recon4d.models.sky import is_ground

SHIFT = 2
"""Displacement between consecutive frames of the example inputs, in pixels: every frame matches its neighbors."""
FRAME_SECONDS = 0.1
"""Time between consecutive frames of the example inputs."""


class PortableNetwork(nn.Module):
    """The single pass of `recon4d.reconstruct` without resizing: images and times to the tensors of a scene.

    As there, the world is the camera of the first frame, and the sky of networks that predict it has confidence 0.

    Args:
        model: The network, in float32 on the CPU. It is put into evaluation mode.
        with_tracks: Whether tracks of the pixels of the first frame are an output, if the network predicts them.
    """

    def __init__(self, model: SceneModel, with_tracks: bool = True) -> None:
        super().__init__()
        self.model = model.eval()
        self.anchors = (0,) if with_tracks else ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs: times are one only if the network matches neighboring frames."""
        has_matching = isinstance(self.model, Model) and self.model.matching is not None
        return ("images", "times") if has_matching else ("images",)

    def forward(
        self,
        images: Float[Tensor, "batch time 3 height width"],
        times: Float[Tensor, "batch time"] | None = None,
    ) -> dict[str, Tensor]:
        """Predict scenes.

        Args:
            images: RGB images in [0, 1].
            times: Times in seconds, NaN for photos without an order.

        Returns:
            Tensors by name. `depth`, `depth_confidence`, `point_confidence` and `dynamic` are (batch, time, height,
            width) and `points` (batch, time, height, width, 3), in the units of `Scene`; `world_from_cam` is (batch,
            time, 4, 4) and `intrinsics` (batch, time, 3, 3). `tracks` (batch, time, query, 3), `track_visibility` and
            `track_confidence` (batch, time, query) are those of the first frame, with queries in row-major order
            (pixels of `track_pixels` (batch, query, 2)). What the network does not predict is left out.
        """
        outputs = self.model.outputs(images, times, self.anchors)
        scene = outputs.scene.in_frame(0)
        if outputs.sky is not None:
            scene = scene.with_unknown(~is_ground(outputs.sky))
        named = {
            "depth": scene.depths,
            "depth_confidence": scene.depth_confidence,
            "points": scene.points,
            "point_confidence": scene.point_confidence,
            "world_from_cam": scene.cameras.world_from_cam,
            "intrinsics": scene.cameras.intrinsics,
        }
        if outputs.dynamic_logits is not None:
            named["dynamic"] = scene.dynamic
        if scene.tracks is not None:
            named["tracks"] = scene.tracks.points[:, 0]
            named["track_visibility"] = scene.tracks.visibility[:, 0]
            named["track_confidence"] = scene.tracks.confidence[:, 0]
            named["track_pixels"] = scene.tracks.pixels[:, 0].contiguous()
        return named


def example_inputs(
    network: PortableNetwork, batch: int, frames: int, size: tuple[int, int], seed: int = 0
) -> tuple[Tensor, ...]:
    """Create inputs of a network: a window that slides over a smooth random texture.

    Args:
        network: The network.
        batch: Number of clips.
        frames: Number of frames.
        size: Height and width in pixels.
        seed: Seed of the texture.

    Returns:
        One tensor for each of `PortableNetwork.input_names`.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 4 + 1, (width + SHIFT * frames) // 4 + 1, generator=generator)
    texture = F.interpolate(coarse, (height, width + SHIFT * frames), mode="bilinear", align_corners=True)
    images = torch.stack([texture[..., SHIFT * time : SHIFT * time + width] for time in range(frames)], dim=1)
    times = FRAME_SECONDS * torch.arange(frames, dtype=torch.float32).expand(batch, -1).contiguous()
    return (images, times)[: len(network.input_names)]
