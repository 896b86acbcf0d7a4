"""Resectioning: cameras of single frames from points that the other frames have triangulated (PnP with RANSAC)."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert
from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.point_refinement import refine_points
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.pycolmap_loader import matrix_of, pinhole_camera, pycolmap_session
from recon4d.refine.tracks.located_tracks import MIN_OBSERVATIONS

MIN_INLIERS = 12
"""Smallest number of inliers of an accepted camera; six points fit by chance. Hand-tuned."""
MIN_INLIER_FRACTION = 0.3
"""Smallest fraction of inliers of an accepted camera. Hand-tuned."""
TOLERANCE = 0.008
"""Largest reprojection error of an inlier, as a fraction of the longer side. Hand-tuned."""


def resect_cameras(
    cameras: Cameras,
    is_determined: Bool[Tensor, " time"],
    tracks: FeatureTracks,
    points: Float[Tensor, "track 3"],
    size: tuple[int, int],
    distortion: RadialDistortion,
) -> tuple[Cameras, Bool[Tensor, " time"]]:
    """Estimate the cameras of frames that bundle adjustment could not determine.

    Args:
        cameras: Cameras of all frames with shared intrinsics; only those of determined frames are used.
        is_determined: Whether the camera of each frame is determined.
        tracks: Tracks through all frames, in pixels.
        points: Initial points of the tracks in world coordinates.
        size: Height and width of the maps that pixels and intrinsics refer to.
        distortion: Distortion of the lens.

    Returns:
        The cameras, and which of them are determined now. Cameras that cannot be estimated are unchanged.
    """
    visibility = tracks.visibility * is_determined[:, None]
    has_point = (visibility > 0).sum(dim=0) >= MIN_OBSERVATIONS
    points = refine_points(
        cameras,
        FeatureTracks(tracks.pixels[:, has_point], visibility[:, has_point]),
        points[has_point],
        1.0,
        distortion,
    )
    pixels = distortion.undistort(tracks.pixels[:, has_point], cameras.intrinsics[0])
    world_from_cam, is_found = cameras.world_from_cam.double().clone(), is_determined.clone()
    for frame in (~is_determined).nonzero()[:, 0].tolist():
        is_observed = tracks.visibility[frame, has_point] > 0
        pose = _resect(pixels[frame][is_observed], points[is_observed], cameras.intrinsics[0], size)
        if pose is not None:
            world_from_cam[frame], is_found[frame] = pose, True
    return replace(cameras, world_from_cam=world_from_cam.to(cameras.world_from_cam)), is_found


def _resect(pixels: Tensor, points: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Estimate the pose of one camera, or None without enough inliers."""
    if len(pixels) < MIN_INLIERS:
        return None
    with pycolmap_session(seed=0) as pycolmap:
        camera = pinhole_camera(pycolmap, intrinsics, size)
        options = pycolmap.AbsolutePoseEstimationOptions()
        options.ransac.max_error = TOLERANCE * max(size)
        options.ransac.random_seed = 0
        found = pycolmap.estimate_and_refine_absolute_pose(
            pixels.numpy().astype(np.float64), points.numpy().astype(np.float64), camera, options
        )
    if found is None or found["num_inliers"] < max(MIN_INLIERS, MIN_INLIER_FRACTION * len(pixels)):
        return None
    return invert(matrix_of(found["cam_from_world"]))
