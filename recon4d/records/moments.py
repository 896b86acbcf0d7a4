"""A scene at one time, which may lie between two frames: a camera and points."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.records.cameras import Cameras
from recon4d.records.tensors import TensorRecord


@dataclass(frozen=True, eq=False)
class Moment(TensorRecord):
    """World points and the camera of one time."""

    camera: Cameras
    """The camera of that time, with a time axis of length 1; intrinsics in pixels of the maps of the scene."""
    points: Float[Tensor, "n 3"]
    """World points in scene units: what stands still, as the nearest frame shows it, and the curves of what moves."""
    is_dynamic: Bool[Tensor, " n"]
    """Whether a point moves."""
    velocities: Float[Tensor, "n 3"]
    """Velocities in scene units per second; 0 for what stands still."""
    source_frames: Int[Tensor, " n"]
    """Frame whose picture has the color of the point; -1 if it was removed by slicing."""
    source_pixels: Int[Tensor, "n 2"]
    """Column and row of the point in the maps of that frame."""
