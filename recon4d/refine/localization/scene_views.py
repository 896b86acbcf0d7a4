"""Features of the frames of a scene, with the static points that depth and cameras give them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import resized_intrinsics, transform_points
from recon4d.records import Scene
from recon4d.refine.depth.multiview_consistency import VERIFIED_CONFIDENCE
from recon4d.refine.localization.features import MAX_FEATURES, Features, detect_features

VERIFIED_ERROR = 0.02
"""Assumed standard deviation of the logarithm of verified depth. Hand-tuned."""
PREDICTED_ERROR = 0.15
"""Assumed standard deviation of the logarithm of other depth. Hand-tuned."""


@dataclass(frozen=True)
class SceneView:
    """Features on static surfaces of one frame, with their depth."""

    features: Features
    """Features, in pixels of the frame's picture."""
    size: tuple[int, int]
    """Height and width of the picture."""
    cam_from_world: Float[Tensor, "4 4"]
    """Pose of the camera, in float64."""
    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the picture, in float64."""
    depths: Float[Tensor, " n"]
    """Depth of each feature, above 0, in float64."""
    depth_errors: Float[Tensor, " n"]
    """Assumed standard deviation of the logarithm of each depth, in float64."""

    @property
    def points(self) -> Float[Tensor, "n 3"]:
        """World point of each feature, by its depth."""
        rays = unproject_pixels(self.features.pixels.double(), self.intrinsics)
        return transform_points(torch.linalg.inv(self.cam_from_world), rays * self.depths[:, None])


def view_frame(
    scene: Scene, image: UInt8[Tensor, "3 height width"], max_features: int = MAX_FEATURES
) -> SceneView | None:
    """Detect the features of a frame that lie on static surfaces of known depth.

    Args:
        scene: The scene of one frame.
        image: The picture of the frame, at any size.
        max_features: Largest number of features.

    Returns:
        The features with their depth; None if the camera of the frame is unknown.
    """
    assert scene.num_frames == 1
    size = (image.shape[1], image.shape[2])
    intrinsics = resized_intrinsics(scene.cameras.intrinsics.double(), scene.size, size)[0]
    world_from_cam = scene.cameras.world_from_cam[0].double()
    if not (intrinsics.isfinite().all() and world_from_cam.isfinite().all()):
        return None
    features = detect_features(image, max_features)
    factor = torch.tensor([scene.size[1] / size[1], scene.size[0] / size[0]])
    depths, errors = _sample_depths(scene, features.pixels * factor)
    is_known = depths > 0
    return SceneView(
        features.take(is_known), size, torch.linalg.inv(world_from_cam), intrinsics, depths[is_known], errors[is_known]
    )


def unproject_pixels(pixels: Float[Tensor, "n 2"], intrinsics: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "n 3"]:
    """Compute the points at depth 1 that a camera sees at pixels.

    Args:
        pixels: Pixel coordinates (x, y).
        intrinsics: Intrinsics, one for all or one for each pixel.

    Returns:
        Points in the frame of the camera.
    """
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    return torch.linalg.solve(intrinsics, homogeneous[..., None])[..., 0]


def _sample_depths(scene: Scene, pixels: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Interpolate depth, 0 where it is unknown or dynamic; also return the assumed error of its logarithm.

    The error is larger where the four pixels around a feature differ, as at the edge of an object.
    """
    height, width = scene.size
    limits = torch.tensor([width, height]) - 1
    centered = torch.minimum((pixels - 0.5).clamp(min=0), limits)
    low = centered.floor().long()
    high, fraction = torch.minimum(low + 1, limits), centered - low
    (left, top), (right, bottom), (x, y) = low.unbind(1), high.unbind(1), fraction.unbind(1)
    rows, columns = torch.stack([top, top, bottom, bottom]), torch.stack([left, right, left, right])
    shares = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
    depths, confidence = scene.depths[0, rows, columns], scene.depth_confidence[0, rows, columns]
    is_dynamic = scene.is_dynamic[0, rows, columns].any(dim=0)
    is_known = (confidence > 0).all(dim=0) & (depths > 0).all(dim=0) & ~is_dynamic
    logs = torch.where(is_known, depths, 1.0).double().log()
    is_verified = (confidence >= VERIFIED_CONFIDENCE).all(dim=0)
    error = torch.where(is_verified, VERIFIED_ERROR, PREDICTED_ERROR)
    half_range = (logs.amax(dim=0) - logs.amin(dim=0)) / 2
    interpolated = (shares * logs).sum(dim=0).exp()
    return torch.where(is_known, interpolated, 0.0), (error.square() + half_range.square()).sqrt()
