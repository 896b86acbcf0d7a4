"""The record that every data set yields: a clip with its ground-truth scene."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.records import (
    Cameras,
    Clip,
    Scene,
    TensorRecord,
    Tracks,
)


@dataclass(frozen=True, eq=False)
class Sample(TensorRecord):
    """A clip and its ground-truth scene at the same image size, in the coordinates of the first frame's camera."""

    clip: Clip
    """Input images and times, shape (*batch, time, 3, height, width)."""
    scene: Scene
    """Ground truth; confidence 0 marks unknown depths, points and tracks."""
    object_ids: Int[Tensor, "*batch time height width"] | None = None
    """Id of the object that each pixel shows; None if the source does not provide ids."""


@dataclass(frozen=True, eq=False)
class Trajectories(TensorRecord):
    """Annotated 3D points over all frames of a clip."""

    points: Float[Tensor, "*batch time query 3"]
    """World coordinates."""
    pixels: Float[Tensor, "*batch time query 2"]
    """Image coordinates (x, y) in each frame; the center of the first pixel is (0.5, 0.5)."""
    valid: Bool[Tensor, "*batch time query"]
    """Whether the annotation is meaningful."""
    visibility: Bool[Tensor, "*batch time query"]
    """Whether the point is visible in the frame."""


def as_static(sample: Sample) -> Sample:
    """Mark every pixel of a sample as static.

    Args:
        sample: Sample of a scene that is known to contain no motion, shape (*batch).

    Returns:
        The sample with a dynamic probability of 0 everywhere.
    """
    return replace(sample, scene=replace(sample.scene, dynamic=torch.zeros_like(sample.scene.dynamic)))


def ground_truth_scene(
    cameras: Cameras,
    depths: Float[Tensor, "time height width"],
    is_known: Bool[Tensor, "time height width"],
    trajectories: Trajectories | None = None,
    anchors: tuple[int, ...] = (0,),
    dynamic: Float[Tensor, "time height width"] | None = None,
    metres_per_unit: float = torch.nan,
) -> Scene:
    """Build the scene of measured cameras, depth and trajectories, in the coordinates of the first camera.

    Point maps are unprojected from the depth. Every trajectory is a query of every anchor; its confidence is 0 where it
    is invalid, and everywhere if it is invalid or not visible in the anchor frame.

    Args:
        cameras: Cameras in any world coordinates, shape (time).
        depths: z in the camera frame; arbitrary where unknown.
        is_known: Whether the depth is measured. Unknown depths and points become 0 with confidence 0.
        trajectories: Annotated points in the world coordinates of `cameras`, or None.
        anchors: Frames at which tracks are queried.
        dynamic: Probability that a pixel shows a moving point; None if unknown (NaN in the scene).
        metres_per_unit: Length of one unit in meters; NaN if unknown.

    Returns:
        The ground-truth scene.
    """
    scene = Scene.from_depth(
        torch.where(is_known, depths, torch.zeros_like(depths)),
        cameras,
        dynamic=dynamic,
        metres_per_unit=metres_per_unit,
    )
    tracks = None if trajectories is None else _tracks_from_trajectories(trajectories, anchors)
    return replace(scene, tracks=tracks).in_frame(0).zero_unknown_points()


def _tracks_from_trajectories(trajectories: Trajectories, anchors: tuple[int, ...]) -> Tracks:
    """Use every trajectory as a query of every anchor."""
    anchor_list = list(anchors)
    is_query = trajectories.visibility[anchor_list] & trajectories.valid[anchor_list]
    is_annotated = is_query[:, None] & trajectories.valid
    shape = (len(anchor_list), *trajectories.points.shape)
    points = torch.where(trajectories.valid[..., None], trajectories.points, torch.zeros_like(trajectories.points))
    query_pixels = trajectories.pixels[anchor_list]
    return Tracks(
        points=points.expand(shape),
        visibility=(is_annotated & trajectories.visibility).to(points.dtype),
        confidence=is_annotated.to(points.dtype),
        anchors=torch.tensor(anchor_list),
        pixels=torch.where(is_query[..., None], query_pixels, torch.zeros_like(query_pixels)),
    )
