"""Tokens of a frozen model at tracked pixels: what the pictures tell about a point beyond its track."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.inference.single_pass import processing_size
from recon4d.models import Model, is_bfloat16
from recon4d.records import Clip


def tracking_tokens(
    model: Model, clip: Clip, frames: Int[Tensor, " track"], places: Float[Tensor, "track 2"]
) -> Float[Tensor, "track token_width"]:
    """Compute the tokens of the patches that contain some pixels.

    Args:
        model: A model with an aggregator.
        clip: A clip, which is resized to the processing size of the model.
        frames: Frame of each pixel.
        places: Places (x, y) in the image of that frame, from 0 to 1 across width and height.

    Returns:
        Features of the last output layer of the aggregator, on the CPU.
    """
    clip = clip.resized(*processing_size(clip.size, model.config.processing_size, model.patch_size))
    times = clip.times[None].to(model.device)
    with (
        torch.inference_mode(),
        torch.autocast(model.device.type, torch.bfloat16, enabled=is_bfloat16(model)),
    ):
        tokens = model.tokens(clip.images[None].to(model.device), times, frame_chunk=8).tracking
    rows, columns = tokens.grid
    column = (places[:, 0] * columns).long().clamp(0, columns - 1)
    row = (places[:, 1] * rows).long().clamp(0, rows - 1)
    features = tokens.state.features[-1][0].float().cpu().clone()
    return features[frames, tokens.state.num_special + row * columns + column]
