"""A prediction beside its truth: the same frames, the same size, and nothing believed that is not a number."""

import torch

from recon4d.records import Scene


def paired(prediction: Scene, truth: Scene) -> Scene:
    """`prediction` at the size of `truth`'s maps, in float32 on its device.

    Cameras of frames that a method could not place are NaN and stay so. Raises ``ValueError`` for a batch, for
    different numbers of frames, and for depths, points or tracks that are believed (confidence above 0) and not finite.
    """
    if prediction.batch_shape or truth.batch_shape:
        raise ValueError(
            f"wanted one prediction and its truth, given batches of {tuple(prediction.batch_shape)} and "
            f"{tuple(truth.batch_shape)}"
        )
    if prediction.num_frames != truth.num_frames:
        raise ValueError(f"the prediction has {prediction.num_frames} frames, the truth {truth.num_frames}")
    prediction = prediction.to(truth.depths.device, dtype=torch.float32)
    _check_finite(prediction)
    if prediction.size != truth.size:
        prediction = prediction.resized(*truth.size)
    return prediction


def is_placed(scene: Scene) -> torch.Tensor:
    """(time,) true where a frame's camera is known: every number of its matrices is finite."""
    cameras = scene.cameras
    return cameras.world_from_cam.isfinite().all(dim=(-1, -2)) & cameras.intrinsics.isfinite().all(dim=(-1, -2))


def _check_finite(scene: Scene) -> None:
    believed = {
        "depths": (scene.depths, scene.depth_confidence),
        "points": (scene.points.sum(dim=-1), scene.point_confidence),
    }
    if scene.tracks is not None:
        believed["tracks"] = (scene.tracks.points.sum(dim=-1), scene.tracks.confidence)
    for name, (values, confidence) in believed.items():
        # NaN is not above 0: a confidence that is no number must not hide what it stands beside.
        wrong = ~values.isfinite() & ~(confidence <= 0)
        if wrong.any():
            raise ValueError(f"the prediction's {name} are not finite at {int(wrong.sum())} places that it believes in")
