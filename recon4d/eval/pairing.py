"""Checks that a prediction can be compared with its ground truth, and brings it to the size of the truth."""

import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError
from recon4d.records import Scene


def pair_with_truth(prediction: Scene, truth: Scene) -> Scene:
    """Bring a prediction to the map size, device and precision of its ground truth.

    Cameras of unregistered frames are NaN and stay NaN.

    Args:
        prediction: Predicted scene without batch axes, with maps of any size.
        truth: True scene of the same frames, without batch axes.

    Returns:
        The prediction in float32 with maps of the size of the true ones, on their device.

    Raises:
        UserError: If the numbers of frames differ, or if depths, points or tracks of confidence above 0 are not finite.
        ValueError: If one of the scenes is a batch.
    """
    if prediction.batch_shape or truth.batch_shape:
        raise ValueError(
            f"wanted one prediction and its truth, given batches of {tuple(prediction.batch_shape)} and "
            f"{tuple(truth.batch_shape)}"
        )
    if prediction.num_frames != truth.num_frames:
        raise UserError(f"the prediction has {prediction.num_frames} frames, the truth {truth.num_frames}")
    prediction = prediction.to(truth.depths.device, dtype=torch.float32)
    _check_finite(prediction)
    if prediction.size != truth.size:
        prediction = prediction.resized(*truth.size)
    return prediction


def is_registered(scene: Scene) -> Bool[Tensor, "*batch time"]:
    """Find the frames whose camera is known.

    Args:
        scene: A scene; unregistered frames have NaN in their extrinsics or intrinsics.

    Returns:
        Mask of shape (*batch, time): True where every number of both camera matrices is finite.
    """
    cameras = scene.cameras
    return cameras.world_from_cam.isfinite().all(dim=(-1, -2)) & cameras.intrinsics.isfinite().all(dim=(-1, -2))


def _check_finite(scene: Scene) -> None:
    values_and_confidence = {
        "depths": (scene.depths, scene.depth_confidence),
        "points": (scene.points.sum(dim=-1), scene.point_confidence),
    }
    if scene.tracks is not None:
        values_and_confidence["tracks"] = (scene.tracks.points.sum(dim=-1), scene.tracks.confidence)
    for name, (values, confidence) in values_and_confidence.items():
        # `~(confidence <= 0)` is also True for a NaN confidence, which must not hide a value that is not finite.
        is_wrong = ~values.isfinite() & ~(confidence <= 0)
        if is_wrong.any():
            raise UserError(
                f"the prediction's {name} are not finite at {int(is_wrong.sum())} places with a confidence above 0"
            )
