"""Side network: trained layers beside a frozen network, whose tokens they read (side-tuning, Zhang et al. 2020).

Nothing flows back into the frozen network, so its cameras and depth stay the same bit for bit, and no gradient is
computed in it. The tokens of the side network are the input of matching, the dynamic mask and the motion head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recon4d.heads import LinearHead, LinearHeadConfig
from recon4d.models.aggregator import Aggregator, AggregatorConfig, AggregatorState
from recon4d.models.backbones.convolutional import ConvolutionalStem
from recon4d.models.tokens import Tokens, frame_slices
from recon4d.records import full_precision

STEM_PATCH_SIZE = 16
"""Images are resized so that a patch has this side in pixels: cells of the matching layer are then an eighth of it."""


@dataclass(frozen=True)
class SideNetworkConfig:
    """Configuration of a side network."""

    aggregator: AggregatorConfig
    """Configuration of its own aggregator, narrower and shallower than that of the frozen network."""
    dense: LinearHeadConfig
    """Configuration of the dense heads of the dynamic mask and of the motion head."""
    quarter_channels: int = 48
    """Number of channels of the stem at a quarter of the image size, for the dense heads."""
    eighth_channels: int = 96
    """Number of channels of the stem at an eighth of the image size, for matching."""


class SideNetwork(nn.Module):
    """An aggregator on the projected tokens of a frozen network, and a convolutional stem on the images.

    Frozen tokens know what is where, but were not trained to tell neighboring pixels apart; the stem adds that.

    Args:
        config: Configuration of the network.
        feature_widths: Channels of the tokens of each output layer of the frozen aggregator.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, config: SideNetworkConfig, feature_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        width = config.aggregator.block.width
        self.stem_scale = STEM_PATCH_SIZE / patch_size
        self.feature_widths = [2 * width] * len(config.aggregator.out_indices)
        """Channels of the tokens of each output layer."""
        self.embed = nn.Linear(sum(feature_widths), width)
        self.embed_camera = nn.Linear(feature_widths[-1], width)
        self.stem = ConvolutionalStem(config.quarter_channels, config.eighth_channels)
        self.aggregator = Aggregator(config.aggregator)
        self.dynamic_head = LinearHead(config.dense, self.feature_widths, patch_size, config.quarter_channels, 1)

    def initial_state(
        self,
        frozen: AggregatorState,
        grid: tuple[int, int],
        key_stride: int = 1,
        is_reference: Bool[Tensor, "batch time"] | None = None,
    ) -> AggregatorState:
        """Project the tokens of the frozen network.

        Args:
            frozen: Final state of the frozen aggregator.
            grid: Number of patch rows and columns.
            key_stride: See `Aggregator.initial_state`.
            is_reference: The reference frame of each clip; None for the first frame.

        Returns:
            State before the first block of `aggregator`.
        """
        assert frozen.special_features is not None
        layers = [_normalized(layer[:, :, frozen.num_special :]) for layer in frozen.features]
        patch_tokens = full_precision(self.embed(torch.cat(layers, dim=-1)))
        state = self.aggregator.initial_state(patch_tokens, grid, key_stride, is_reference)
        cameras = self.embed_camera(_normalized(frozen.special_features[:, :, 0]))
        return state.add_to_camera_tokens(full_precision(cameras))

    def stem_features(
        self, images: Float[Tensor, "n 3 height width"], frame_chunk: int | None
    ) -> tuple[Float[Tensor, "n quarter_channels _ _"], Float[Tensor, "n eighth_channels rows columns"]]:
        """Compute the finer features.

        Args:
            images: RGB images in [0, 1].
            frame_chunk: Number of images that are processed at once; None for all.

        Returns:
            Features of 4 x 4 per patch, and of 2 x 2 per patch: one for each cell of the matching layer.
        """
        parts = [self.stem(self._resized(images[part])) for part in frame_slices(images, frame_chunk)]
        quarters, eighths = zip(*parts, strict=True)
        return torch.cat(quarters), torch.cat(eighths)

    def dynamic_maps(self, tokens: Tokens) -> Float[Tensor, "batch time 1 height width"]:
        """Predict the logits of the dynamic probability.

        Args:
            tokens: Tokens of this network.

        Returns:
            Logits of all pixels.
        """
        features, quarter = tokens.patch_features(), tokens.quarter
        assert quarter is not None
        parts = [
            self.dynamic_head([layer[frames] for layer in features], tokens.grid, quarter[frames])
            for frames in tokens.frame_chunks()
        ]
        return torch.cat(parts).unflatten(0, tokens.state.tokens.shape[:2])

    def _resized(self, images: Tensor) -> Tensor:
        if self.stem_scale == 1:
            return images
        size = [round(side * self.stem_scale) for side in images.shape[-2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _normalized(features: Float[Tensor, "*batch feature_width"]) -> Float[Tensor, "*batch feature_width"]:
    """Normalize the outputs of the frame block and of the global block, whose scales differ, separately."""
    halves = full_precision(features).unflatten(-1, (2, -1))
    return F.layer_norm(halves, halves.shape[-1:]).flatten(-2)
