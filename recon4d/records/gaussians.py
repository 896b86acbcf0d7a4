"""Gaussian splats: 3D Gaussians with color and opacity, and those of a scene over time, which follow its curves."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import quaternion_from_rotation, rotation_from_quaternion
from recon4d.geometry.gaussian_splatting import gaussian_covariances
from recon4d.records.tensors import TensorRecord
from recon4d.records.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Gaussians(TensorRecord):
    """3D Gaussians of constant color, in the world of a scene."""

    centers: Float[Tensor, "gaussian 3"]
    """Centers in scene units."""
    scales: Float[Tensor, "gaussian 3"]
    """Standard deviations along the axes of the Gaussian, in scene units."""
    quaternions: Float[Tensor, "gaussian 4"]
    """Rotations (w, x, y, z) from the axes of the Gaussian to the world."""
    opacities: Float[Tensor, " gaussian"]
    """Opacities at the center, from 0 to 1."""
    colors: Float[Tensor, "gaussian 3"]
    """RGB colors, from 0 to 1."""

    @property
    def covariances(self) -> Float[Tensor, "gaussian 3 3"]:
        """Covariances in the world, in square scene units."""
        return gaussian_covariances(self.scales, self.quaternions)

    def select(self, index: Int[Tensor, " n"] | Bool[Tensor, " gaussian"]) -> "Gaussians":
        """Select Gaussians.

        Args:
            index: Their positions, or a mask.

        Returns:
            The selected Gaussians.
        """
        return self.map(lambda tensor: tensor[index])

    @classmethod
    def concatenate(cls, parts: list["Gaussians"]) -> "Gaussians":
        """Join Gaussians.

        Args:
            parts: At least one record.

        Returns:
            All Gaussians, in the order given.
        """
        names = cls.__dataclass_fields__
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, eq=False)
class DynamicGaussians(TensorRecord):
    """Gaussians of a scene over time: static, or moving with a curve; shown at all times, or near one frame only."""

    gaussians: Gaussians
    """All Gaussians. One that moves with a curve is given as it is at the first time of the curves."""
    curves: Int[Tensor, " gaussian"]
    """Curve of `trajectories` that the Gaussian moves with; -1 for none."""
    offsets: Float[Tensor, "gaussian 3"]
    """Offset from the curve at the first time, which rotates with the rigid piece of the curve; 0 without a curve."""
    shown_frames: Int[Tensor, " gaussian"]
    """The only frame, an index of `times`, near whose time the Gaussian is shown; -1 for all."""
    times: Float[Tensor, " time"]
    """Times of the frames in seconds, not decreasing."""
    trajectories: Trajectories | None = None
    """Curves and rigid pieces with the same times; None if nothing follows a curve."""

    @property
    def is_static(self) -> Bool[Tensor, " gaussian"]:
        """Gaussians that are the same at all times."""
        return (self.curves < 0) & (self.shown_frames < 0)

    def at(self, time: float) -> Gaussians:
        """Return the Gaussians of one time.

        Static Gaussians come first. A Gaussian on a curve moves with the curve and rotates with its rigid piece. One
        that is shown at all times is left out if its curve is probably hidden (`Trajectories.shown_at`).

        Args:
            time: Time in seconds, also between frames.

        Returns:
            The Gaussians.
        """
        nearest = int((self.times - time).abs().argmin())
        # Frames of a rig may have the same time.
        is_shown = (self.shown_frames < 0) | (self.times[self.shown_frames] == self.times[nearest])
        curves = self.trajectories
        if curves is None or not curves.num_curves:
            return self.gaussians.select(is_shown & (self.curves < 0))
        is_shown &= curves.shown_at(time)[self.curves] | (self.shown_frames >= 0) | (self.curves < 0)
        fixed, moved = is_shown & (self.curves < 0), is_shown & (self.curves >= 0)
        return Gaussians.concatenate([self.gaussians.select(fixed), self._moved(curves, moved, time)])

    def _moved(self, curves: Trajectories, chosen: Bool[Tensor, " gaussian"], time: float) -> Gaussians:
        """Return Gaussians on curves at a time."""
        start, index = self.gaussians.select(chosen), self.curves[chosen]
        rotations = curves.rotations_at(time)[curves.pieces[index]]
        offsets = (rotations @ self.offsets[chosen, :, None])[..., 0]
        centers = curves.positions(curves.times.new_tensor([time]))[index, 0] + offsets
        quaternions = quaternion_from_rotation(rotations @ rotation_from_quaternion(start.quaternions))
        return replace(start, centers=centers, quaternions=quaternions)
