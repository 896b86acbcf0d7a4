"""Camera poses and intrinsics of the frames of a clip."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import (
    cropped_intrinsics,
    field_of_view,
    invert,
    is_in_image,
    padded_intrinsics,
    project,
    resized_intrinsics,
    robust_path_scale,
    transform_cameras,
    transform_points,
)
from recon4d.records.tensors import TensorRecord


@dataclass(frozen=True)
class ProjectedPoints:
    """Points projected into images."""

    pixels: Float[Tensor, "*shape 2"]
    """Pixel coordinates (x, y); meaningless where `inside` is false."""
    depths: Float[Tensor, "*shape"]
    """Depth (z) in the frame of the camera."""
    inside: Bool[Tensor, "*shape"]
    """Whether a point is in front of the camera and inside the image. It may still be occluded."""


@dataclass(frozen=True, eq=False)
class Cameras(TensorRecord):
    """Pinhole cameras with OpenCV axes (x right, y down, z forward), one per frame."""

    world_from_cam: Float[Tensor, "*batch time 4 4"]
    """Rigid camera poses; the last column is the camera center in the world, in scene units. NaN if unknown."""
    intrinsics: Float[Tensor, "*batch time 3 3"]
    """Intrinsics in pixels of the accompanying maps; the center of the first pixel is (0.5, 0.5)."""

    @property
    def cam_from_world(self) -> Float[Tensor, "*batch time 4 4"]:
        """Transforms from world to camera coordinates: the extrinsics of OpenCV and COLMAP."""
        return invert(self.world_from_cam)

    @property
    def centers(self) -> Float[Tensor, "*batch time 3"]:
        """Optical centers in world coordinates."""
        return self.world_from_cam[..., :3, 3]

    def field_of_view(self, height: int, width: int) -> Float[Tensor, "*batch time 2"]:
        """Compute the field of view.

        Args:
            height: Height of the maps in pixels.
            width: Width of the maps in pixels.

        Returns:
            Horizontal and vertical field of view in radians.
        """
        return field_of_view(self.intrinsics, height, width)

    def transformed(self, new_from_world: Float[Tensor, "*batch 4 4"]) -> "Cameras":
        """Express the cameras in another world frame.

        Args:
            new_from_world: Similarity (or rigid transform) from the current to the new world frame.

        Returns:
            Cameras with transformed, still rigid poses and the same intrinsics.
        """
        return replace(self, world_from_cam=transform_cameras(new_from_world, self.world_from_cam))

    def in_frame(self, frame: int) -> "Cameras":
        """Express the cameras relative to one of them.

        Args:
            frame: Index of the frame whose camera becomes the world frame.

        Returns:
            Cameras with the pose of `frame` equal to the identity up to rounding.
        """
        return self.transformed(invert(self.world_from_cam[..., frame, :, :]))

    def robust_scale_to(self, centers: Float[Tensor, "time 3"]) -> float:
        """Estimate the scale from these camera centers to reference centers (`robust_path_scale`).

        Args:
            centers: Reference centers of the same frames, in any world frame.

        Returns:
            The factor that scales lengths of these cameras to those of `centers`. NaN if all reference centers coincide
            or there is only one; infinity if these cameras coincide.
        """
        return robust_path_scale(self.centers, centers)

    def metres_per_unit(self, first: int, second: int, meters: float) -> float:
        """Compute the length of the unit from the measured distance between two cameras.

        Args:
            first: Index of one frame. The cameras belong to a single scene (no batch axis).
            second: Index of another frame.
            meters: Distance between their camera centers in meters, above 0.

        Returns:
            Length of the unit in meters.

        Raises:
            UserError: If a frame does not exist or has no known camera, if the two cameras are at the same place, or if
                `meters` is not finite and above 0.
        """
        count = len(self.world_from_cam)
        if not (0 <= first < count and 0 <= second < count and first != second):
            raise UserError(f"the baseline is between the frames {first} and {second}; wanted two of 0 to {count - 1}")
        if not (math.isfinite(meters) and meters > 0):
            raise UserError(f"the baseline is {meters:g} m long; wanted a finite number above 0")
        distance = float((self.centers[first].double() - self.centers[second].double()).norm())
        if not (math.isfinite(distance) and distance > 0):
            raise UserError(
                f"the distance between the cameras of the frames {first} and {second} is {distance:g} units"
            )
        return meters / distance

    def transfer_points(
        self, points: Float[Tensor, "*batch_and_points 3"], target: "Cameras"
    ) -> Float[Tensor, "*batch_and_points 3"]:
        """Move world points along with their cameras: each keeps its pixel and depth (z) in the frame of its time.

        A point behind its camera has no pixel and keeps its camera coordinates instead. Computed in float64.

        Args:
            points: World points, shape (batch axes of the cameras, time, any further axes, 3).
            target: New cameras of the same frames, with intrinsics for the same map size.

        Returns:
            World points in the frame of `target`, of the shape and dtype of `points`.
        """
        in_camera = transform_points(invert(self.world_from_cam.double()), points.double())
        new_from_old_rays = torch.linalg.inv(target.intrinsics.double()) @ self.intrinsics.double()
        flat = in_camera.reshape(*new_from_old_rays.shape[:-2], -1, 3)
        same_pixel = (flat @ new_from_old_rays.transpose(-1, -2)).reshape(points.shape)
        in_target_camera = torch.where(in_camera[..., 2:] > 0, same_pixel, in_camera)
        return transform_points(target.world_from_cam.double(), in_target_camera).to(points.dtype)

    def project_points(self, points: Float[Tensor, "*batch time n 3"], size: tuple[int, int]) -> ProjectedPoints:
        """Project world points into the images, each into that of its own time.

        Args:
            points: World points.
            size: Height and width of the images in pixels, which the intrinsics refer to.

        Returns:
            Pixels, depths and whether they lie inside, of shape (*batch, time, n).
        """
        in_camera = transform_points(self.cam_from_world, points)
        pixels, depths = project(in_camera, self.intrinsics), in_camera[..., 2]
        return ProjectedPoints(pixels, depths, (depths > 0) & is_in_image(pixels, size))

    def resized(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> "Cameras":
        """Adapt the intrinsics to resized images.

        Args:
            old_size: Height and width that the intrinsics refer to.
            new_size: New height and width.

        Returns:
            Cameras with intrinsics in pixels of the new size.
        """
        return replace(self, intrinsics=resized_intrinsics(self.intrinsics, old_size, new_size))

    def cropped(self, left: float, top: float) -> "Cameras":
        """Adapt the intrinsics to cropped images.

        Args:
            left: Number of columns removed on the left.
            top: Number of rows removed at the top.

        Returns:
            Cameras with intrinsics in pixels of the cropped images.
        """
        return replace(self, intrinsics=cropped_intrinsics(self.intrinsics, left, top))

    def padded(self, left: float, top: float) -> "Cameras":
        """Adapt the intrinsics to padded images.

        Args:
            left: Number of columns added on the left.
            top: Number of rows added at the top.

        Returns:
            Cameras with intrinsics in pixels of the padded images.
        """
        return replace(self, intrinsics=padded_intrinsics(self.intrinsics, left, top))
