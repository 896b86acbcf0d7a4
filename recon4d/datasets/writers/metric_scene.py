"""Conversion of a sample's scene to meters before it is written."""

import torch

from recon4d.datasets.sample import Sample
from recon4d.geometry import similarity
from recon4d.records import Scene


def metric_scene(sample: Sample) -> Scene:
    """Scale the scene of a sample to meters.

    Args:
        sample: A single sample whose clip and scene have the same size.

    Returns:
        The scene in meters, or unchanged if the length of its unit is unknown.

    Raises:
        ValueError: If the sample is a batch, or clip and scene differ in size.
    """
    scene = sample.scene
    if sample.batch_shape:
        raise ValueError(f"wanted a single sample, got a batch of shape {tuple(sample.batch_shape)}")
    if sample.clip.size != scene.size:
        raise ValueError(f"images of size {sample.clip.size} and maps of size {scene.size} (height, width) differ")
    unit = torch.nan_to_num(scene.metres_per_unit, nan=1.0).to(scene.depths.dtype)
    return scene.transformed(similarity(unit, torch.eye(3).to(scene.depths), torch.zeros(3).to(scene.depths)))
