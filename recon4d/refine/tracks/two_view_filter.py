"""Filter of tracks by two-view geometry: static points satisfy the epipolar constraint between any two frames."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.pycolmap_loader import pycolmap_session

MIN_MATCHES = 20
"""Smallest number of common tracks for which the geometry of two frames is estimated. Hand-tuned."""
MAX_PAIRS = 60
"""Largest number of pairs of frames that are tested, evenly spaced among all pairs. Bounds the run time."""
TOLERANCE = 0.002
"""Largest epipolar error of an inlier, as a fraction of the longer side: half a pixel of 256. Hand-tuned."""
MIN_INLIER_FRACTION = 0.75
"""Smallest fraction of the tested pairs in which a track must be an inlier. Hand-tuned."""


def consistent_tracks(
    cameras: Cameras, tracks: FeatureTracks, size: tuple[int, int], seed: int = 0
) -> Bool[Tensor, " track"]:
    """Find the tracks that agree with the dominant two-view geometry of most pairs of frames.

    For each pair of frames, RANSAC (pycolmap) estimates an essential matrix or a homography from the common tracks.
    Only the intrinsics of `cameras` are used; their poses have no influence.

    Args:
        cameras: Cameras of all frames.
        tracks: Tracks through all frames, in pixels.
        size: Height and width of the images that the pixels refer to.
        seed: Seed of RANSAC.

    Returns:
        Whether each track is an inlier in at least `MIN_INLIER_FRACTION` of the pairs in which it was tested; false
        for tracks that were tested in no pair.
    """
    visibility, pixels = (tracks.visibility > 0).numpy(), tracks.pixels.double().numpy()
    num_tested, num_inliers = np.zeros(visibility.shape[1]), np.zeros(visibility.shape[1])
    with pycolmap_session() as pycolmap:
        options = pycolmap.TwoViewGeometryOptions(detect_watermark=False)
        options.ransac.max_error = TOLERANCE * max(size)
        options.ransac.random_seed = seed
        colmap_cameras = [_colmap_camera(pycolmap, k, size) for k in cameras.intrinsics.double().tolist()]
        for i, j in _pairs(len(visibility)):
            common = np.flatnonzero(visibility[i] & visibility[j])
            if len(common) < MIN_MATCHES:
                continue
            matches = np.repeat(np.arange(len(common), dtype=np.uint32)[:, None], 2, axis=1)
            geometry = pycolmap.estimate_two_view_geometry(
                colmap_cameras[i], pixels[i, common], colmap_cameras[j], pixels[j, common], matches, options
            )
            num_tested[common] += 1
            inliers = np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)[:, 0]
            num_inliers[common[inliers]] += 1
    return torch.from_numpy((num_tested > 0) & (num_inliers >= MIN_INLIER_FRACTION * num_tested))


def _colmap_camera(pycolmap: Any, intrinsics: list[list[float]], size: tuple[int, int]) -> Any:
    parameters = [intrinsics[0][0], intrinsics[1][1], intrinsics[0][2], intrinsics[1][2]]
    camera = pycolmap.Camera(model="PINHOLE", width=size[1], height=size[0], params=parameters)
    camera.has_prior_focal_length = True
    return camera


def _pairs(num_frames: int) -> list[tuple[int, int]]:
    """List all pairs of frames, or `MAX_PAIRS` evenly spaced ones of them if there are more."""
    pairs = [(i, j) for i in range(num_frames) for j in range(i + 1, num_frames)]
    if len(pairs) <= MAX_PAIRS:
        return pairs
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, MAX_PAIRS).round().astype(int)]
