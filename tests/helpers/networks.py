"""Small networks for tests, in which every branch contributes: no weight and no layer scale is zero."""

from dataclasses import replace

import torch

from recon4d.models import Model, ModelConfig
from recon4d.records import Scene
from recon4d.zoo import HeadKind, model_config


def tiny_config(heads: HeadKind = "linear") -> ModelConfig:
    """Return the tiny model of the zoo with layer scales and one block of register attention."""
    config = model_config("recon4d_tiny", heads)
    block = replace(config.aggregator.block, layer_scale=0.5)
    aggregator = replace(config.aggregator, block=block, depth=3, register_attention=(1,))
    return replace(config, aggregator=replace(aggregator, out_indices=(0, 2) if heads == "linear" else (0, 1, 2)))


def randomized(model: Model, seed: int = 0) -> Model:
    """Add noise to all weights, because layers initialized to zero would have no effect; in float64, in place."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise / max(1, parameter[0].numel() if parameter.ndim else 1) ** 0.5)
    return model


def tiny_model(heads: HeadKind = "linear", seed: int = 0) -> Model:
    """Return a tiny model with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomized(Model(tiny_config(heads)), seed)


def random_images(*batch_and_time: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    """Return smooth random images as float64 in [0, 1], shape (*batch_and_time, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*batch_and_time, 3, 6, 8, generator=generator, dtype=torch.float64)
    images = torch.nn.functional.interpolate(coarse.flatten(0, -4), size, mode="bilinear", align_corners=False)
    return images.reshape(*batch_and_time, 3, *size)


def assert_scenes_close(given: Scene, expected: Scene, tolerance: float = 1e-9) -> None:
    """Compare all tensors of two scenes; NaN equals NaN."""
    pairs = [
        (given.cameras.world_from_cam, expected.cameras.world_from_cam),
        (given.cameras.intrinsics, expected.cameras.intrinsics),
        (given.depths, expected.depths),
        (given.depth_confidence, expected.depth_confidence),
        (given.points, expected.points),
        (given.point_confidence, expected.point_confidence),
        (given.dynamic, expected.dynamic),
    ]
    if expected.tracks is not None:
        assert given.tracks is not None
        pairs += [
            (given.tracks.points, expected.tracks.points),
            (given.tracks.visibility, expected.tracks.visibility),
            (given.tracks.confidence, expected.tracks.confidence),
            (given.tracks.pixels, expected.tracks.pixels),
        ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance, equal_nan=True)
