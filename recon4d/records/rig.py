"""Cameras that are fixed to each other: which frame is from which camera at which moment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError

Matrix = tuple[tuple[float, ...], ...]
"""A 4x4 matrix as rows of plain numbers, so that rigs can be compared."""


@dataclass(frozen=True)
class Rig:
    """Cameras that are fixed to each other and take their pictures at the same moments.

    Raises:
        UserError: If the numbers of frames differ, if two frames are from the same camera at the same moment, or if a
            camera does not exist.
    """

    names: tuple[str, ...]
    """Name of each camera. The first one is the frame of the rig."""
    cameras: tuple[int, ...]
    """Camera of each frame, an index into `names`."""
    moments: tuple[int, ...]
    """Moment of each frame: frames of the same number were taken at once."""
    rig_from_cam: tuple[Matrix, ...] | None = None
    """Pose of each camera relative to the rig, if known, as for the views of a panorama; None if it is estimated."""
    has_shared_intrinsics: bool = True
    """Whether all frames of a camera have the same intrinsics."""

    def __post_init__(self) -> None:
        if len(self.cameras) != len(self.moments):
            raise UserError(f"a rig has cameras of {len(self.cameras)} frames and moments of {len(self.moments)}")
        if len(set(zip(self.cameras, self.moments, strict=True))) < len(self.cameras):
            raise UserError("a rig has two frames of the same camera at the same moment")
        if not all(0 <= camera < len(self.names) for camera in self.cameras):
            raise UserError(f"a rig of {len(self.names)} cameras has a frame of camera {max(self.cameras)}")
        if self.rig_from_cam is not None and len(self.rig_from_cam) != len(self.names):
            raise UserError(f"a rig of {len(self.names)} cameras has {len(self.rig_from_cam)} relative poses")

    @property
    def known_poses(self) -> Float64[Tensor, "camera 4 4"] | None:
        """Pose of each camera relative to the rig; None if they are unknown."""
        return None if self.rig_from_cam is None else torch.tensor(self.rig_from_cam, dtype=torch.float64)

    def frames(self, positions: Sequence[int]) -> "Rig":
        """Select frames.

        Args:
            positions: Frames to select, in the order of the result.

        Returns:
            The rig of the selected frames, with all of its cameras.
        """
        return replace(
            self,
            cameras=tuple(self.cameras[position] for position in positions),
            moments=tuple(self.moments[position] for position in positions),
        )

    def serpentine(self) -> list[int]:
        """Order frames so that consecutive ones show much the same, for tracking.

        Returns:
            Indices of all frames: camera after camera, forward in time and backward in turn, so that one camera
            continues at the moment at which the one before it ends.
        """
        order: list[int] = []
        for turn, camera in enumerate(sorted(set(self.cameras))):
            own = [frame for frame, other in enumerate(self.cameras) if other == camera]
            order += sorted(own, key=lambda frame: self.moments[frame], reverse=turn % 2 == 1)
        return order


def rig_poses(matrices: Float64[Tensor, "camera 4 4"]) -> tuple[Matrix, ...]:
    """Convert poses to plain numbers.

    Args:
        matrices: Pose of each camera relative to the rig.

    Returns:
        The same numbers, for `Rig.rig_from_cam`.
    """
    return tuple(tuple(tuple(row) for row in matrix) for matrix in matrices.tolist())
