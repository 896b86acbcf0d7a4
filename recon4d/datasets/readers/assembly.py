"""Assembly of samples from the parts that a reader has read."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.geometry import invert, transform_points
from recon4d.records import Cameras, Clip


def metric_sample(
    clip: Clip,
    cameras: Cameras,
    depths: Float[Tensor, "time height width"],
    is_known: Bool[Tensor, "time height width"],
    trajectories: Trajectories | None,
    anchors: tuple[int, ...],
) -> Sample:
    """Assemble a float32 sample from float64 cameras and trajectories in meters.

    Cameras and points are transformed to the first camera's coordinates before rounding, so that a distant origin does
    not cost precision.

    Args:
        clip: Images and times.
        cameras: float64 cameras in any world coordinates, shape (time).
        depths: z in meters; arbitrary where unknown.
        is_known: Whether the depth is measured.
        trajectories: float64 trajectories in the same world coordinates, or None.
        anchors: Frames at which tracks are queried.

    Returns:
        The sample, in the coordinates of the first camera.
    """
    first_from_world = invert(cameras.world_from_cam[0])
    if trajectories is not None:
        points = transform_points(first_from_world, trajectories.points)
        trajectories = replace(trajectories, points=points.float(), pixels=trajectories.pixels.float())
    cameras = cameras.in_frame(0).to(dtype=torch.float32)
    scene = ground_truth_scene(cameras, depths, is_known, trajectories, anchors, metres_per_unit=1.0)
    return Sample(clip, scene)


def sample_without_depth(
    clip: Clip, cameras: Cameras, anchors: tuple[int, ...], trajectories: Trajectories | None = None
) -> Sample:
    """Assemble a sample in an unknown unit whose depth is unknown.

    Args:
        clip: Images and times.
        cameras: float32 cameras, shape (time).
        anchors: Frames at which tracks are queried.
        trajectories: float32 trajectories in the world coordinates of the cameras, or None.

    Returns:
        The sample, with depth confidence 0 everywhere.
    """
    depths: Float[Tensor, "time height width"] = torch.zeros(clip.num_frames, *clip.size)
    return Sample(clip, ground_truth_scene(cameras, depths, depths > 0, trajectories, anchors))
