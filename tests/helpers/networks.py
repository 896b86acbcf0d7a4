"""Small networks for tests in which every branch matters: no weight is zero, no layer scale vanishes."""

from dataclasses import replace

import torch

from recon4d.models import Model, ModelConfig
from recon4d.records import Scene
from recon4d.zoo import HeadKind, model_config


def tiny_config(heads: HeadKind = "linear") -> ModelConfig:
    """The tiny model of the zoo, with layer scales and one pair of register attention."""
    config = model_config("recon4d_tiny", heads)
    block = replace(config.aggregator.block, layer_scale=0.5)
    aggregator = replace(config.aggregator, block=block, depth=3, register_attention=(1,))
    return replace(config, aggregator=replace(aggregator, out_indices=(0, 2) if heads == "linear" else (0, 1, 2)))


def awake(model: Model, seed: int = 0) -> Model:
    """`model` in float64 with noise on every weight: layers that start at zero would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise / max(1, parameter[0].numel() if parameter.ndim else 1) ** 0.5)
    return model


def tiny_model(heads: HeadKind = "linear", seed: int = 0) -> Model:
    """A tiny awake model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return awake(Model(tiny_config(heads)), seed)


def random_images(*batch_and_time: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    """Smooth random pictures as floats in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*batch_and_time, 3, 6, 8, generator=generator, dtype=torch.float64)
    pictures = torch.nn.functional.interpolate(coarse.flatten(0, -4), size, mode="bilinear", align_corners=False)
    return pictures.reshape(*batch_and_time, 3, *size)


def assert_scenes_close(given: Scene, expected: Scene, tolerance: float = 1e-9) -> None:
    """Every tensor of two scenes, NaN where the other is NaN."""
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
