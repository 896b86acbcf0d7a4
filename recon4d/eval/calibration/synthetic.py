"""Calibration samples from synthetic scenes with seeds that training, validation and benchmarks do not use."""

from collections.abc import Iterator
from math import sqrt

from recon4d.datasets.synthetic import Lattice, SyntheticConfig, make_scenes, render_scenes
from recon4d.eval.calibration.mask_threshold import DynamicMaskIous, dynamic_mask_ious
from recon4d.eval.calibration.samples import SceneSamples, scene_samples
from recon4d.inference import Precision, ReconstructConfig, predict_scene, processing_size
from recon4d.models import SceneModel, predicts_dense_tracks

FITTING_SEED, HELD_OUT_SEED = 20261121, 20261122
"""Seeds of the scenes that curves are fitted to, and of the scenes that they are checked on."""
TRACK_STRIDE = 4
"""Distance of the true tracks in the anchor frame, in pixels. Hand-tuned."""


def model_input_size(model: SceneModel, size: tuple[int, int] | None) -> tuple[int, int]:
    """Choose a size of images that the model processes without resizing.

    Args:
        model: The model.
        size: Wanted height and width in pixels; None uses an aspect ratio of 4:3 and the model's own processing size.

    Returns:
        Height and width in pixels, multiples of the model's patch size.
    """
    height, width = size or (3, 4)
    side = round(sqrt(height * width)) if size else model.config.processing_size
    return processing_size((height, width), side, model.patch_size)


def synthetic_samples(
    model: SceneModel, config: SyntheticConfig, seed: int, clips: int, precision: Precision = "auto"
) -> Iterator[tuple[SceneSamples, DynamicMaskIous | None]]:
    """Reconstruct synthetic scenes and compare them with their ground truth.

    Args:
        model: The model. Scenes are rendered on its device.
        config: Configuration of the scenes, of a size returned by `model_input_size` so that no image is resized.
        seed: Seed of the scenes.
        clips: Number of scenes.
        precision: Precision of the model.

    Yields:
        For each scene, the samples of confidence and error, and the IoUs of its dynamic mask or None. Tracks are those
        of the first frame, if the model predicts dense tracks.
    """
    anchors = (0,) if predicts_dense_tracks(model) else ()
    side = round(sqrt(config.height * config.width))
    settings = ReconstructConfig(anchors=anchors, processing_size=side, precision=precision)
    device = model.device
    for number in range(clips):
        scene = make_scenes(config, seed, [number], device)
        sample = render_scenes(scene, config, (0,), query_lattice=Lattice(TRACK_STRIDE))[0].to("cpu")
        prediction = predict_scene(model, sample.clip, settings)
        yield scene_samples(prediction, sample.scene), dynamic_mask_ious(prediction, sample.scene)
