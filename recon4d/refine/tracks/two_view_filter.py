"""Filter of tracks by two-view geometry: static points satisfy the epipolar constraint between any two frames."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.pycolmap_loader import pinhole_camera, pycolmap_session

Model = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Function from pixels in two frames, each [match, 2], to the errors of the matches in pixels."""
MIN_MATCHES = 20
"""Smallest number of common tracks for which the geometry of two frames is estimated. Hand-tuned."""
MAX_PAIRS = 60
"""Largest number of pairs of frames that are tested, evenly spaced among all pairs. Bounds the run time."""
TOLERANCE = 0.002
"""Largest epipolar error of an inlier, as a fraction of the longer side: half a pixel of 256. Hand-tuned."""
MAX_MATCHES = 400
"""Largest number of common tracks, evenly spaced among them, from which two-view geometry is estimated; all are tested.
Bounds the run time: COLMAP refines its hypotheses with all matches."""
MAX_TRIALS = 1000
"""Largest number of RANSAC trials of each model: enough for 40 % inliers of an essential matrix and 30 % of a
homography. Scenes that are not planar have fewer inliers of a homography, and would take COLMAP's 10000 trials."""
MIN_INLIER_FRACTION = 0.75
"""Smallest fraction of the tested pairs in which a track must be an inlier. Hand-tuned."""


def consistent_tracks(
    cameras: Cameras, tracks: FeatureTracks, size: tuple[int, int], seed: int = 0
) -> Bool[Tensor, " track"]:
    """Find the tracks that agree with the dominant two-view geometry of most pairs of frames.

    For each pair of frames, RANSAC (pycolmap) estimates an essential matrix, a fundamental matrix and a homography from
    common tracks; the one with the most inliers counts. Only the intrinsics of `cameras` are used; their poses have no
    influence.

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
        options.ransac.max_num_trials = MAX_TRIALS
        options.ransac.random_seed = seed
        colmap_cameras = [pinhole_camera(pycolmap, k, size) for k in cameras.intrinsics.double()]
        for i, j in _pairs(len(visibility)):
            common = np.flatnonzero(visibility[i] & visibility[j])
            if len(common) < MIN_MATCHES:
                continue
            first, second = pixels[i, common], pixels[j, common]
            drawn = np.unique(np.linspace(0, len(common) - 1, MAX_MATCHES).round().astype(int))
            matches = np.repeat(np.arange(len(drawn), dtype=np.uint32)[:, None], 2, axis=1)
            geometry = pycolmap.estimate_two_view_geometry(
                colmap_cameras[i], first[drawn], colmap_cameras[j], second[drawn], matches, options
            )
            models = _models(geometry, colmap_cameras[i], colmap_cameras[j])
            inliers = [model(first, second) <= TOLERANCE * max(size) for model in models]
            num_tested[common] += 1
            if inliers:
                num_inliers[common] += max(inliers, key=np.count_nonzero)
    return torch.from_numpy((num_tested > 0) & (num_inliers >= MIN_INLIER_FRACTION * num_tested))


def _models(geometry: Any, first_camera: Any, second_camera: Any) -> list[Model]:
    """List the estimated models of two frames as functions that compute the errors of matches in pixels."""
    models: list[Model] = []
    if geometry.E is not None:
        first_inverse, second_inverse = (
            np.linalg.inv(camera.calibration_matrix()) for camera in (first_camera, second_camera)
        )
        models.append(partial(_sampson_errors, second_inverse.T @ geometry.E @ first_inverse))
    if geometry.F is not None:
        models.append(partial(_sampson_errors, geometry.F))
    if geometry.H is not None:
        models.append(partial(_transfer_errors, geometry.H))
    return models


def _sampson_errors(
    fundamental: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute Sampson's approximation of the distance between matches and the nearest exact ones."""
    ones = np.ones((len(first), 1))
    first, second = np.hstack([first, ones]), np.hstack([second, ones])
    in_second, in_first = first @ fundamental.T, second @ fundamental
    gradient = np.hypot(np.linalg.norm(in_second[:, :2], axis=1), np.linalg.norm(in_first[:, :2], axis=1))
    return np.abs((second * in_second).sum(axis=1)) / np.maximum(gradient, np.finfo(float).tiny)


def _transfer_errors(
    homography: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the distance in the second frame between matches and the pixels that a homography maps to."""
    mapped = first @ homography[:, :2].T + homography[:, 2]
    return np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - second, axis=1)


def _pairs(num_frames: int) -> list[tuple[int, int]]:
    """List all pairs of frames, or `MAX_PAIRS` evenly spaced ones of them if there are more."""
    pairs = [(i, j) for i in range(num_frames) for j in range(i + 1, num_frames)]
    if len(pairs) <= MAX_PAIRS:
        return pairs
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, MAX_PAIRS).round().astype(int)]
