"""The classical check of matches: points that stand still keep to the epipolar geometry of every two frames."""

import numpy as np
import torch
from jaxtyping import Bool

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.pycolmap_loader import load_pycolmap

LEAST_MATCHES = 20
"""Two frames with fewer tracks in common tell nothing."""
MOST_PAIRS = 60
TOLERANCE = 0.002
"""Of the longer side: how far a match may be from where the geometry wants it (half a pixel of 256)."""
LEAST_SHARE = 0.75
"""Of the pairs of frames in which a track was tried, in how many it must agree."""


def consistent_tracks(
    cameras: Cameras, tracks: FeatureTracks, size: tuple[int, int], seed: int = 0
) -> Bool[torch.Tensor, " track"]:
    """Tracks that agree with what most others say of how each two frames lie to each other.

    Essential matrix or homography by RANSAC (pycolmap), from the matches and the focal lengths of `cameras` alone:
    where the cameras stand does not matter. Tracks that could be tried in no pair do not count as consistent.
    """
    pycolmap = load_pycolmap()
    options = pycolmap.TwoViewGeometryOptions(detect_watermark=False)
    options.ransac.max_error = TOLERANCE * max(size)
    options.ransac.random_seed = seed
    lenses = [_lens(pycolmap, matrix, size) for matrix in cameras.intrinsics.double().tolist()]
    seen, pixels = (tracks.visibility > 0).numpy(), tracks.pixels.double().numpy()
    tried, agreed = np.zeros(seen.shape[1]), np.zeros(seen.shape[1])
    for i, j in _pairs(len(seen)):
        common = np.flatnonzero(seen[i] & seen[j])
        if len(common) < LEAST_MATCHES:
            continue
        matches = np.repeat(np.arange(len(common), dtype=np.uint32)[:, None], 2, axis=1)
        geometry = pycolmap.estimate_two_view_geometry(
            lenses[i], pixels[i, common], lenses[j], pixels[j, common], matches, options
        )
        tried[common] += 1
        agreed[common[np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)[:, 0]]] += 1
    return torch.from_numpy((tried > 0) & (agreed >= LEAST_SHARE * tried))


def _lens(pycolmap, matrix: list[list[float]], size: tuple[int, int]):
    parameters = [matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]]
    camera = pycolmap.Camera(model="PINHOLE", width=size[1], height=size[0], params=parameters)
    camera.has_prior_focal_length = True
    return camera


def _pairs(num_frames: int) -> list[tuple[int, int]]:
    """All pairs of few frames; evenly chosen ones of many."""
    pairs = [(i, j) for i in range(num_frames) for j in range(i + 1, num_frames)]
    if len(pairs) <= MOST_PAIRS:
        return pairs
    return [pairs[place] for place in np.linspace(0, len(pairs) - 1, MOST_PAIRS).round().astype(int)]
