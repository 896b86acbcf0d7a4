"""Evidence from worlds that are neither trained on nor validated nor scored on: seeds of their own, truth exact."""

from collections.abc import Iterator
from math import sqrt

from recon4d.datasets.synthetic import (
    Lattice,
    SyntheticConfig,
    make_scenes,
    render_scenes,
)
from recon4d.eval.calibration.mask_threshold import DynamicMaskCounts, dynamic_mask_counts
from recon4d.eval.calibration.samples import SceneSamples, scene_samples
from recon4d.inference import (
    Precision,
    ReconstructConfig,
    processing_size,
    reconstruct,
)
from recon4d.models import Model

FITTING_SEED, HELD_OUT_SEED = 20261121, 20261122
"""Seeds of the worlds that curves are fitted to, and of those that they are checked on."""
TRACK_STRIDE = 4


def size_for(model: Model, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that the model takes as they are: near to `size`, or 3 by 4 at its own processing size."""
    height, width = size or (3, 4)
    side = round(sqrt(height * width)) if size else model.config.processing_size
    return processing_size((height, width), side, model.patch_size)


def synthetic_samples(
    model: Model, config: SyntheticConfig, seed: int, clips: int, precision: Precision = "auto"
) -> Iterator[tuple[SceneSamples, DynamicMaskCounts | None]]:
    """The evidence of each of the first `clips` worlds of a seed, answered as `reconstruct` answers anybody's clip.

    `config` has the size of `size_for`, so that nothing is resized. Worlds are made where the model is. Tracks are
    those of the first frame, where the model has dense ones.
    """
    anchors = (0,) if model.motion_head is not None else ()
    side = round(sqrt(config.height * config.width))
    settings = ReconstructConfig(anchors=anchors, processing_size=side, precision=precision)
    device = next(model.parameters()).device
    for number in range(clips):
        world = make_scenes(config, seed, [number], device)
        sample = render_scenes(world, config, (0,), tracked=Lattice(TRACK_STRIDE))[0].to("cpu")
        prediction = reconstruct(model, sample.clip, settings)
        yield scene_samples(prediction, sample.scene), dynamic_mask_counts(prediction, sample.scene)
