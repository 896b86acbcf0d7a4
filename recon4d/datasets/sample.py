"""What every data set yields: a clip and everything that is true of it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import transform_points, unproject_map
from recon4d.records import (
    Cameras,
    Clip,
    Scene,
    TensorRecord,
    Tracks,
)


@dataclass(frozen=True, eq=False)
class Sample(TensorRecord):
    """A clip and its true scene, at the same size, in the world of the first frame's camera.

    `object_ids`, where a source knows them, tell apart the things that pixels belong to.
    """

    clip: Clip
    scene: Scene
    object_ids: Int[Tensor, "*batch time height width"] | None = None


@dataclass(frozen=True, eq=False)
class Trajectories(TensorRecord):
    """World points that a data set follows through all frames of a clip.

    `exists` says where the annotation means anything, `visible` where the point is seen in the frame.
    """

    points: Float[Tensor, "*batch time query 3"]
    pixels: Float[Tensor, "*batch time query 2"]
    """(x, y) in each frame, the first pixel's center at (0.5, 0.5)."""
    exists: Bool[Tensor, "*batch time query"]
    visibility: Bool[Tensor, "*batch time query"]


def as_static(sample: Sample) -> Sample:
    """The sample of a place in which, as is known, nothing moves: its scene says so of every pixel."""
    return replace(sample, scene=replace(sample.scene, dynamic=torch.zeros_like(sample.scene.dynamic)))


def ground_truth_scene(
    cameras: Cameras,
    depths: Float[Tensor, "time height width"],
    known: Bool[Tensor, "time height width"],
    trajectories: Trajectories | None = None,
    anchors: tuple[int, ...] = (0,),
    dynamic: Float[Tensor, "time height width"] | None = None,
    metres_per_unit: float = torch.nan,
) -> Scene:
    """The scene of measured cameras and depth, in the world of the first camera; what is not `known` becomes 0.

    Point maps are those of the depth. Every trajectory is a query of every anchor, with confidence 0 where it does not
    exist or was not visible in the anchor frame.
    """
    depths = torch.where(known, depths, torch.zeros_like(depths))
    confidence = known.to(depths.dtype)
    points = transform_points(cameras.world_from_cam, unproject_map(depths, cameras.intrinsics))
    return (
        Scene(
            cameras=cameras,
            depths=depths,
            depth_confidence=confidence,
            points=points,
            point_confidence=confidence,
            dynamic=torch.full_like(depths, torch.nan) if dynamic is None else dynamic,
            metres_per_unit=torch.tensor(metres_per_unit),
            tracks=None if trajectories is None else _tracks(trajectories, anchors),
        )
        .in_frame(0)
        .without_unknown_points()
    )


def _tracks(trajectories: Trajectories, anchors: tuple[int, ...]) -> Tracks:
    chosen = list(anchors)
    found = trajectories.visibility[chosen] & trajectories.exists[chosen]
    believed = found[:, None] & trajectories.exists
    per_anchor = (len(chosen), *trajectories.points.shape)
    finite = torch.where(trajectories.exists[..., None], trajectories.points, torch.zeros_like(trajectories.points))
    return Tracks(
        points=finite.expand(per_anchor),
        visibility=(believed & trajectories.visibility).to(finite.dtype),
        confidence=believed.to(finite.dtype),
        anchors=torch.tensor(chosen),
        pixels=torch.where(
            found[..., None], trajectories.pixels[chosen], torch.zeros_like(trajectories.pixels[chosen])
        ),
    )
